"""The foreign table: what it looks like, and whether it can be taken over."""

from dataclasses import dataclass
from typing import Any

from psycopg import NotSupportedError, ProgrammingError, sql

from mnemolite.database import Connection
from mnemolite.errors import AdoptionError
from mnemolite.models import AdoptionPlan
from mnemolite.sql import load

_queries = load("adoption_source")

_TYPES = {
    "id": ("uuid",),
    "timestamp": ("timestamptz",),
    "content": ("jsonb", "json"),
    "metadata": ("jsonb", "json"),
    "embedding": ("vector", "halfvec"),
}
_OPTIONAL = ("metadata", "embedding")
_MIN_SERVER = 130000


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceTable:
    """A table ``(id, timestamp, content, metadata, embedding)`` as it was found.

    ``key`` is the order in which it is read. ``dimension`` is None without vectors, ``left`` names
    the columns that are not taken over, ``required`` those that a new row must fill.
    """

    number: int
    schema: str
    name: str
    identity: str
    label: str
    key: tuple[str, ...]
    types: dict[str, str]
    vector_schema: str | None
    dimension: int | None
    left: tuple[str, ...]
    required: tuple[str, ...]

    @property
    def identifier(self) -> sql.Identifier:
        """Its name, for SQL."""
        return sql.Identifier(self.schema, self.name)

    @property
    def keys(self) -> sql.Composed:
        """Its key, for SQL."""
        return sql.SQL(", ").join(map(sql.Identifier, self.key))

    @property
    def embedding(self) -> sql.Composable:
        """Its vector as one of type vector, NULL where there is none."""
        if self.vector_schema is None:
            return sql.SQL("NULL::bytea")
        if self.types["embedding"] == "vector":
            return sql.SQL("t.embedding")
        kind = sql.Identifier(self.vector_schema, "vector")
        return sql.SQL("t.embedding::{}").format(kind)

    @property
    def metadata(self) -> sql.SQL:
        """Its metadata as jsonb, NULL where it has none."""
        return sql.SQL("t.metadata::jsonb" if "metadata" in self.types else "NULL::jsonb")

    @property
    def columns(self) -> tuple[str, ...]:
        """What is copied of it."""
        metadata = ("metadata",) if "metadata" in self.types else ()
        return ("id", "timestamp", "content", *metadata, *self._vector_column())

    def selected(self) -> sql.Composed:
        """What is copied of it, for SQL."""
        parts: dict[str, sql.Composable] = {
            "id": sql.SQL("t.id"),
            "timestamp": sql.SQL("t.timestamp"),
            "content": sql.SQL("t.content::jsonb"),
            "metadata": self.metadata,
            "embedding": self.embedding,
        }
        return sql.SQL(", ").join(parts[name] for name in self.columns)

    def _vector_column(self) -> tuple[str, ...]:
        return ("embedding",) if self.vector_schema is not None else ()


async def inspect(connection: Connection, plan: AdoptionPlan) -> SourceTable:
    """Look at the table. Raises AdoptionError, with the reason, if it cannot be taken over."""
    found = await _find(connection, plan)
    cursor = await connection.execute(_queries["columns"], {"number": found["number"]})
    columns = {row["name"]: row async for row in cursor}
    _check_columns(columns)
    key = await _key(connection, found["number"], columns=columns)
    vectors = columns.get("embedding") if plan.vectors else None
    vector_schema = vectors["type_schema"] if vectors else None
    return SourceTable(
        number=found["number"],
        schema=found["schema"],
        name=found["name"],
        identity=found["identity"],
        label=_label(connection, found),
        key=key,
        types={name: columns[name]["type"] for name in _TYPES if name in columns},
        vector_schema=vector_schema,
        dimension=await _dimension(connection, found, vectors=vectors),
        left=tuple(n for n in columns if n not in _TYPES and not columns[n]["generated"]),
        required=tuple(_required(columns)),
    )


async def _find(connection: Connection, plan: AdoptionPlan) -> dict[str, Any]:
    if connection.info.server_version < _MIN_SERVER:
        raise AdoptionError(
            f"PostgreSQL {connection.info.server_version // 10000} is too old to be read.",
            field="--from",
            remedy="Upgrade the source to PostgreSQL 13 or later.",
        )
    try:
        cursor = await connection.execute(_queries["table"], {"table": plan.table})
    except (ProgrammingError, NotSupportedError):  # no name of a table at all
        found = None
    else:
        found = await cursor.fetchone()
    if found is None or found["kind"] not in ("r", "p"):
        raise AdoptionError(
            f"The source has no table {plan.table}.",
            field="--table",
            remedy="Name it with its schema, such as public.events.",
        )
    if found["ours"]:
        raise AdoptionError(
            "The source is a MnemoLite of today, which need not be adopted.",
            field="--from",
            remedy="Use its database itself, a backup, or an export and an import.",
        )
    return found


def _label(connection: Connection, found: dict[str, Any]) -> str:
    info = connection.info
    return f"{info.host}:{info.port}/{found['database']} {found['schema']}.{found['name']}"


def _check_columns(columns: dict[str, Any]) -> None:
    for name, types in _TYPES.items():
        if name not in columns:
            if name not in _OPTIONAL:
                raise AdoptionError(f"The table has no column {name}.", field="--table")
        elif columns[name]["type"] not in types:
            raise AdoptionError(
                f"The column {name} is of type {columns[name]['type']}, not {' or '.join(types)}.",
                field="--table",
                remedy="Change its type, or make a table of the right types from it.",
            )


async def _key(connection: Connection, number: int, *, columns: dict[str, Any]) -> tuple[str, ...]:
    """A unique key of id, or of id and timestamp, by which rows can be told apart and read on."""
    cursor = await connection.execute(_queries["keys"], {"number": number})
    async for row in cursor:
        key = tuple(row["columns"])
        ours = "id" in key and set(key) <= {"id", "timestamp"}
        if ours and all(columns[name]["not_null"] for name in key):
            return key
    raise AdoptionError(
        "The table has no primary key (id) or (id, timestamp).",
        field="--table",
        remedy="ALTER TABLE … ADD PRIMARY KEY (id), so that rows can be told apart.",
    )


async def _dimension(
    connection: Connection, found: dict[str, Any], *, vectors: dict[str, Any] | None
) -> int | None:
    if vectors is None:
        return None
    if vectors["modifier"] > 0:
        return int(vectors["modifier"])
    schema = sql.Identifier(vectors["type_schema"])
    statement = _queries["first_dimension"].format(
        schema=schema,
        embedding=sql.SQL("embedding::{}.vector").format(schema),
        table=sql.Identifier(found["schema"], found["name"]),
    )
    row = await (await connection.execute(statement)).fetchone()
    return int(row["dimension"]) if row else None


def _required(columns: dict[str, Any]) -> list[str]:
    """What a row that is brought back may lack."""
    ours = {"id", "timestamp", "content", "metadata"}
    return [
        name
        for name, column in columns.items()
        if name not in ours and column["not_null"] and not column["has_default"]
    ]
