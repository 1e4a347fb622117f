"""Blueprints: what a table is made of and what stands on it, so that another can take its place."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from psycopg import sql

from mnemolite.database import Connection
from mnemolite.errors import LayoutRefusedError
from mnemolite.sql import load

_queries = load("blueprint")
_MAX_NAMED = 5

Row = dict[str, Any]


def raw(text: str) -> sql.SQL:
    """A piece of SQL that the catalog itself has written."""
    return sql.SQL(text)


@dataclass(frozen=True, slots=True)
class Index:
    """An index of the whole table; ``constraint`` is the definition of the key that it serves."""

    name: str
    is_unique: bool
    is_primary: bool
    constraint: str | None
    body: str  # from USING on


@dataclass(frozen=True, slots=True)
class Blueprint:
    """A table as the catalog describes it, the tables that hold its rows apart."""

    name: str
    schema: str
    is_partitioned: bool
    facts: Row
    columns: Sequence[Row]
    key: Sequence[str]
    indexes: Sequence[Index]
    vector_index: str | None  # from USING on; None: no table of it has an HNSW index
    triggers: Sequence[Row]
    views: Sequence[Row]
    grants: Sequence[Row]
    publications: Sequence[str]

    def identifier(self, name: str | None = None) -> sql.Identifier:
        """The table, or another of its schema, as SQL."""
        return sql.Identifier(self.schema, name or self.name)

    def suffix(self, index: Index) -> str:
        """What an index is called after the name of its table."""
        return index.name.removeprefix(f"{self.name}_")

    @property
    def written(self) -> list[str]:
        """The columns that are written, not generated."""
        return [column["name"] for column in self.columns if not column["is_generated"]]

    @property
    def key_types(self) -> dict[str, str]:
        """The columns of the primary key, in its order, and their types."""
        types = {column["name"]: column["type"] for column in self.columns}
        return {name: types[name] for name in self.key}


async def blueprint(connection: Connection, table: str) -> Blueprint:
    """Read a table's blueprint. Raises LayoutRefusedError when there is no such table."""
    facts = await _rows(connection, "table", table=table)
    if not facts:
        raise LayoutRefusedError(f"There is no table {table}.")
    vector_index = await _rows(connection, "vector_index", table=table)
    return Blueprint(
        name=table,
        schema=facts[0]["schema"],
        is_partitioned=facts[0]["is_partitioned"],
        facts=facts[0],
        columns=await _rows(connection, "columns", table=table),
        key=[row["name"] for row in await _rows(connection, "key", table=table)],
        indexes=[Index(**row) for row in await _rows(connection, "indexes", table=table)],
        vector_index=vector_index[0]["body"] if vector_index else None,
        triggers=await _rows(connection, "triggers", table=table),
        views=await _rows(connection, "views", table=table),
        grants=await _rows(connection, "grants", table=table),
        publications=[row["name"] for row in await _rows(connection, "publications", table=table)],
    )


async def refuse_obstacles(connection: Connection, table: str) -> None:
    """Raise LayoutRefusedError that names what would not survive a change of the layout."""
    found = await _rows(connection, "obstacles", table=table)
    if found:
        named = ", ".join(row["name"] for row in found[:_MAX_NAMED])
        more = f", and {len(found) - _MAX_NAMED} more" if len(found) > _MAX_NAMED else ""
        raise LayoutRefusedError(
            f"{table} cannot get another layout while this depends on it: {named}{more}.",
            remedy=" ".join(dict.fromkeys(row["remedy"] for row in found)),
        )


async def _rows(connection: Connection, query: str, *, table: str) -> list[Row]:
    return await (await connection.execute(_queries[query], {"table": table})).fetchall()
