"""Embedding spaces: which model a database was filled with, and its vectors."""

from typing import Literal

from psycopg import sql
from psycopg.types.json import Jsonb

from mnemolite.database import Connection, Database
from mnemolite.embeddings import ModelInfo
from mnemolite.errors import ModelMismatchError, ModelUnavailableError
from mnemolite.models import JsonObject, Space
from mnemolite.partitions import Leaf, create_parts, form_of, leaves, parts_beside
from mnemolite.sql import load

_queries = load("spaces")

# pgvector's HNSW takes a halfvec of at most 4,000 dimensions; a row stored PLAIN must fit a page.
MAX_DIMENSION = 4000
_MAX_PLAIN_DIMENSION = 1900
_INDEX_LOCK = 0x6D6E656D70
# The first key of the lock that a process holds on the space it searches; the second is its id.
SEARCHING_LOCK = 0x6D6E6571
# Vectors whose mean stands for the mean of all.
_CENTRE_SAMPLE = 20_000
COLUMNS = _queries["columns"]


class SpaceStore:
    """The registry of spaces and their tables of vectors."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def all(self) -> list[Space]:
        """Every space, oldest first."""
        async with self._database.connection() as connection:
            cursor = await connection.execute(_queries["all"].format(columns=COLUMNS))
            return [Space.model_validate(row) async for row in cursor]

    async def active(self) -> Space | None:
        """The space that is searched, None before the first model was seen."""
        async with self._database.connection() as connection:
            return await active_space(connection)

    async def of_digest(self, digest: str) -> Space | None:
        """The space of a model, unless it is being dropped."""
        async with self._database.connection() as connection:
            statement = _queries["of_digest"].format(columns=COLUMNS)
            row = await (await connection.execute(statement, {"digest": digest})).fetchone()
        return None if row is None else Space.model_validate(row)

    async def ensure_active(self, info: ModelInfo, recipe: JsonObject | None = None) -> Space:
        """The active space, made for ``info`` in a new database.

        ``recipe`` is how other processes load the model. Raises ModelMismatchError when the
        database was filled with another model, or another process searches with it.
        """
        active = await self.active()
        if active is None or active.digest != info.digest:
            async with self._database.transaction() as connection:
                active = await _replace_unused(connection, info, recipe=recipe or {})
        return active

    async def recipe(self, space: Space) -> JsonObject:
        """The settings that name the space's model; empty when nobody has told them yet."""
        async with self._database.connection() as connection:
            cursor = await connection.execute(_queries["recipe"], {"space": space.id})
            row = await cursor.fetchone()
        return dict(row["recipe"]) if row else {}

    async def searching(self, space: Space) -> int:
        """How many processes search the space."""
        async with self._database.connection() as connection:
            return await _searching(connection, space)

    async def embeddings(self, space: Space) -> int:
        """Rows of vectors in the space."""
        async with self._database.connection() as connection:
            statement = _queries["count"].format(table=sql.Identifier(space.table))
            row = await (await connection.execute(statement)).fetchone()
        return int(row["rows"]) if row else 0

    async def lacks_index(self, space: Space, min_rows: int) -> bool:
        """Whether a table of the space has grown past the size at which an HNSW index pays."""
        async with self._database.connection() as connection:
            return bool(await _unindexed(connection, space, min_rows=min_rows))

    async def drop_index(self, space: Space) -> None:
        """Drop the HNSW indexes, before rows come in bulk; searches are exact meanwhile."""
        async with self._database.own_connection() as connection:
            for leaf in await leaves(connection, space.table):
                await connection.execute(_drop_hnsw(leaf))

    async def build_index(self, space: Space, *, min_rows: int = 0) -> bool:
        """Build what HNSW indexes are missing while writes go on. False: another process is at it.

        Where the space is partitioned each partition of so many rows gets its own, oldest first.
        """
        async with self._database.own_connection() as connection:
            cursor = await connection.execute(
                "SELECT pg_try_advisory_lock(%s) AS mine", [_INDEX_LOCK]
            )
            if not (await cursor.fetchone() or {}).get("mine"):
                return False
            if not (lacking := await _unindexed(connection, space, min_rows=min_rows)):
                return True  # by another process, since somebody looked
            centre = sql.Literal(await _centre(connection, space))
            for leaf in lacking:
                # What an interrupted build leaves behind is invalid and only costs writes.
                await connection.execute(_drop_hnsw(leaf))
                await connection.execute(
                    _queries["create_hnsw"].format(
                        index=sql.Identifier(leaf.hnsw_index),
                        table=sql.Identifier(leaf.schema, leaf.name),
                        dimension=sql.Literal(space.dimension),
                        centre=centre,
                    )
                )
        return True


async def _unindexed(connection: Connection, space: Space, *, min_rows: int) -> list[Leaf]:
    """The tables of so many rows that lack an HNSW index."""
    return [
        leaf
        for leaf in await leaves(connection, space.table)
        if leaf.row_estimate >= min_rows and not leaf.indexed
    ]


def _drop_hnsw(leaf: Leaf) -> sql.Composed:
    return _queries["drop_hnsw"].format(index=sql.Identifier(leaf.schema, leaf.hnsw_index))


async def _centre(connection: Connection, space: Space) -> str:
    """The mean of the space's vectors, settled once, for all of its indexes are made of it.

    What all texts have in common (their wrapper, above all) tells nothing apart, but makes an
    index's graph lead from everything to everything. Less a constant, inner products order the
    vectors as before.
    """
    rows = sum(leaf.row_estimate for leaf in await leaves(connection, space.table))
    parameters = {
        "space": space.id,
        "rows": rows,
        "sample": _CENTRE_SAMPLE,
        "origin": str([0.0] * space.dimension),
    }
    statement = _queries["centre"].format(table=sql.Identifier(space.table))
    row = await (await connection.execute(statement, parameters)).fetchone()
    return str(row["centre"]) if row else ""


async def active_space(connection: Connection) -> Space | None:
    """The space that is searched, as this transaction sees it."""
    statement = _queries["active"].format(columns=COLUMNS)
    row = await (await connection.execute(statement)).fetchone()
    return None if row is None else Space.model_validate(row)


async def _searching(connection: Connection, space: Space) -> int:
    parameters = {"lock": SEARCHING_LOCK, "space": space.id}
    row = await (await connection.execute(_queries["searching"], parameters)).fetchone()
    return int(row["processes"]) if row else 0


async def _replace_unused(connection: Connection, info: ModelInfo, *, recipe: JsonObject) -> Space:
    """Make ``info``'s space the active one, as long as no event was embedded by another."""
    # Nobody adds an event between the look and the making, or it would never be queued.
    await connection.execute(_queries["lock"])
    active = await active_space(connection)
    if active is not None and active.digest == info.digest:
        return active
    if active is not None:
        if await _has_events(connection) or await _searching(connection, active):
            raise mismatch(active, info)
        await connection.execute(_queries["drop"].format(table=sql.Identifier(active.table)))
        await connection.execute(_queries["forget"], {"space": active.id})
    space = await create_space(connection, info, recipe=recipe, status="active")
    await show_embedded(connection, space)
    await connection.execute(_queries["queue_all"], {"space": space.id})
    return space


async def _has_events(connection: Connection) -> bool:
    row = await (await connection.execute(_queries["has_events"])).fetchone()
    return bool(row and row["found"])


async def create_space(
    connection: Connection,
    info: ModelInfo,
    *,
    recipe: JsonObject,
    status: Literal["active", "building", "adopted"],
) -> Space:
    """Register a space and make its table."""
    if info.dimension > MAX_DIMENSION:
        raise ModelUnavailableError(
            f"{info.model!r} has {info.dimension:,} dimensions; at most {MAX_DIMENSION:,} can be "
            "indexed.",
            field="EMBEDDING_MODEL",
            remedy="Choose a smaller model.",
        )
    values = {name: getattr(info, name) for name in _IDENTITY}
    values |= {"digest": info.digest, "recipe": Jsonb(recipe), "status": status}
    statement = _queries["create"].format(columns=COLUMNS)
    row = await (await connection.execute(statement, values)).fetchone()
    space = Space.model_validate(row)
    table = sql.Identifier(space.table)
    storage = "PLAIN" if info.dimension <= _MAX_PLAIN_DIMENSION else "EXTERNAL"
    index = sql.Identifier(f"{space.table}_time_idx")
    parts = await parts_beside(connection, space.table)
    for statement in (
        _queries["create_table"].format(
            table=table, dimension=sql.Literal(info.dimension), form=form_of(parts)
        ),
        _queries["set_storage"].format(table=table, storage=sql.SQL(storage)),
        _queries["create_time_index"].format(index=index, table=table),
        *create_parts(space.table, parts),
    ):
        await connection.execute(statement)
    return space


async def show_embedded(connection: Connection, space: Space) -> None:
    """Let the view for people who write SQL show the space."""
    table = sql.Identifier(space.table)
    await connection.execute(_queries["create_view"].format(table=table))


_IDENTITY = (
    "provider",
    "model",
    "revision",
    "dimension",
    "query_prefix",
    "document_prefix",
    "pooling",
    "normalisation",
    "template",
    "max_tokens",
)


def mismatch(active: Space, info: ModelInfo) -> ModelMismatchError:
    """The refusal of a model that is not the database's, with what differs."""
    differing = [name for name in _IDENTITY if getattr(active, name) != getattr(info, name)]
    changes = ", ".join(
        f"{name} {getattr(active, name)!r} -> {getattr(info, name)!r}" for name in differing
    )
    return ModelMismatchError(
        f"This database was filled by {active.model!r} ({active.provider}, "
        f"{active.dimension} dimensions), the settings name {info.model!r} ({info.provider}, "
        f"{info.dimension} dimensions); changed: {changes}.",
        field="EMBEDDING_MODEL" if "model" in differing else "EMBEDDING_MODE",
        remedy="Set the model back; or change it with `mnemolite reembed start`, while the memory "
        "is in use. Vectors of two models are never mixed.",
    )
