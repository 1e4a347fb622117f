"""The memory that takes a foreign table over: its rows in, checked; what changed since, out."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from psycopg import AsyncCopy, sql

from mnemolite.adoption.locks import locked
from mnemolite.adoption.source import Keys, Source
from mnemolite.database import Connection, Database
from mnemolite.errors import AdoptionError
from mnemolite.models import MAX_TEXT_BYTES, AdoptionPlan, Checksums, JsonObject, Refusal, Space
from mnemolite.sql import load

_queries = load("adoption")

_LOCK = 0x6D6E656D72
_SAMPLES = 16
_REMOVE_ROWS = 5000


class Target:
    """The events of one memory, over one connection that no other adoption has."""

    def __init__(self, connection: Connection, plan: AdoptionPlan, *, space: Space | None) -> None:
        self.connection = connection
        self.plan = plan
        self.space = space

    @classmethod
    @asynccontextmanager
    async def opened(cls, database: Database, plan: AdoptionPlan) -> AsyncIterator["Target"]:
        """Connect, and be the only one that adopts. Raises AdoptionError."""
        async with database.own_connection() as connection:
            await connection.execute(_queries["prepare"])
            cursor = await connection.execute(_queries["take_turn"], {"lock": _LOCK})
            if not (await cursor.fetchone() or {}).get("mine"):
                raise AdoptionError(
                    "Another `mnemolite db adopt` is at work on this memory.",
                    remedy="Wait until it has ended; after kill -9 that takes a moment.",
                )
            yield cls(connection, plan, space=None)

    # --- Rows in --------------------------------------------------------------------------------

    async def stage(self, rows: AsyncCopy, source: Source) -> int:
        """Take rows of the source, as they are, into a temporary table; how many."""
        columns = sql.SQL(", ").join(map(sql.Identifier, source.table.columns))
        await self.connection.execute(_queries["create_staging"])
        async with self.connection.cursor().copy(_queries["stage"].format(columns=columns)) as copy:
            async for block in rows:
                await copy.write(block)
        row = await (await self.connection.execute(_queries["count_staged"])).fetchone()
        return int(row["rows"]) if row else 0

    async def last_key(self, source: Source) -> list[str]:
        """The key of the last row that was staged."""
        key = source.table.key
        statement = _queries["last_key"].format(
            key=sql.SQL("ARRAY[{}]").format(
                sql.SQL(", ").join(sql.SQL("{}::text").format(sql.Identifier(k)) for k in key)
            ),
            order=sql.SQL(", ").join(sql.SQL("{} DESC").format(sql.Identifier(k)) for k in key),
        )
        row = await (await self.connection.execute(statement)).fetchone()
        return list(row["key"]) if row else []

    async def settle(self, dimension: int | None) -> list[Refusal]:
        """Settle the staged rows' namespaces and sessions; those that cannot be stored."""
        statement = _queries["settle"].format(
            namespace=_at(self.plan.namespace_key), session=_at(self.plan.session_key)
        )
        values = {
            "namespace": self.plan.namespace,
            "dimension": dimension or 0,
            "unit": self.space is not None and self.space.status != "adopted",
            "max_text_bytes": MAX_TEXT_BYTES,
        }
        await self.connection.execute(_queries["create_settled"])
        await self.connection.execute(statement, values)
        # Unseen, the planner takes it for a few rows, and compares each key with all of them.
        await self.connection.execute(_queries["analyze"])
        cursor = await self.connection.execute(_queries["faults"])
        return [
            Refusal(id=row["id"], timestamp=row["timestamp"], reason=row["fault"])
            async for row in cursor
        ]

    async def sample(self) -> list[JsonObject]:
        """Some of the settled rows that have text and a vector."""
        cursor = await self.connection.execute(_queries["sample"], {"limit": _SAMPLES})
        return await cursor.fetchall()

    async def store(self) -> None:
        """Store the settled rows that are not here yet, and note those that cannot be stored."""
        execute = self.connection.execute
        await execute(_queries["refuse"])
        await execute(_queries["add_namespaces"], {"language": self.plan.language})
        await execute(_queries["insert"])
        if self.space is not None:
            table = sql.Identifier(self.space.table)
            await execute(_queries["insert_vectors"].format(table=table))
            await execute(_queries["unqueue"], {"space": self.space.id})

    async def correct(self, keys: Keys) -> None:
        """Make what is here of those keys what the settled rows say, before they are stored."""
        values = {"ids": keys[0], "timestamps": keys[1]}
        await self.connection.execute(_queries["readmit"], values)
        await self.connection.execute(_queries["remove_stale"], values)
        await self.connection.execute(_queries["update_metadata"])
        if self.space is not None:
            table = sql.Identifier(self.space.table)
            await self.connection.execute(_queries["remove_vectors"].format(table=table))

    async def advance(self, position: Sequence[str]) -> None:
        """Remember how far the copy has come."""
        await self.connection.execute(_queries["advance"], {"position": list(position)})

    # --- Compare --------------------------------------------------------------------------------

    async def checksums(self) -> Checksums:
        """The checksums of what was adopted, as it is now."""
        statement = _queries["checksums"].format(digests=self._digests())
        cursor = await self.connection.execute(statement)
        return Checksums.model_validate(await cursor.fetchone())

    async def differences(self, digests: AsyncCopy) -> Keys:
        """The keys of rows that differ from the source's; inside a transaction."""
        await self.connection.execute(_queries["create_digests"])
        async with self.connection.cursor().copy(_queries["copy_digests"]) as copy:
            async for block in digests:
                await copy.write(block)
        statement = _queries["differences"].format(digests=self._digests())
        rows = await (await self.connection.execute(statement)).fetchall()
        return [row["id"] for row in rows], [row["timestamp"] for row in rows]

    def _digests(self) -> sql.Composed:
        vector: sql.Composable = sql.SQL("NULL::bytea")
        vectors: sql.Composable = sql.SQL("")
        if self.space is not None:
            vector = _queries["vector_digest"]
            vectors = _queries["vectors"].format(table=sql.Identifier(self.space.table))
        return _queries["digests"].format(vector=vector, vectors=vectors)

    # --- Changes out ----------------------------------------------------------------------------

    def locked(self, connection: Connection) -> AbstractAsyncContextManager[None]:
        """A transaction of that connection during which nobody else writes events."""
        return locked(connection, _queries["lock_events"])

    async def watch(self) -> None:
        """Log the keys of all events that change from now on."""
        async with self.locked(self.connection):
            await self.connection.execute(_queries["watch"])

    async def changed(self, limit: int) -> tuple[list[int], list[JsonObject]]:
        """The first rows of the log: their numbers, and those events as they are now."""
        cursor = await self.connection.execute(_queries["changes"], {"limit": limit})
        numbers = [row["n"] async for row in cursor]
        vector: sql.Composable = sql.SQL("NULL::text")
        vectors: sql.Composable = sql.SQL("")
        if self.space is not None:
            vector = sql.SQL("v.embedding::text")
            vectors = _queries["changed_vectors"].format(table=sql.Identifier(self.space.table))
        statement = _queries["changed"].format(
            vector=vector, vectors=vectors, places=_places(self.plan)
        )
        values = {
            "ns": numbers,
            "anywhere": self.plan.namespace_key is not None,
            "namespace": self.plan.namespace,
        }
        return numbers, await (await self.connection.execute(statement, values)).fetchall()

    async def forget_changes(self, numbers: Sequence[int]) -> None:
        """Take rows off the log."""
        await self.connection.execute(_queries["forget_changes"], {"ns": list(numbers)})

    # --- Undo -----------------------------------------------------------------------------------

    async def remove_events(self) -> int:
        """Delete some of the adopted events and what was derived from them; how many."""
        cursor = await self.connection.execute(_queries["remove_events"], {"limit": _REMOVE_ROWS})
        row = await cursor.fetchone()
        return int(row["rows"]) if row else 0

    async def forget(self) -> None:
        """Remove all traces of the adoption but the events."""
        async with self.locked(self.connection):
            await self.connection.execute(_queries["unwatch"])
            await self.connection.execute(_queries["forget"])


async def unwatch(connection: Connection) -> None:
    """Log changes no longer."""
    await connection.execute(_queries["unwatch"])


def _at(key: str | None) -> sql.Composable:
    """Where a staged row names its namespace or session, as jsonb."""
    if key is None:
        return sql.SQL("NULL::jsonb")
    column, *path = key.split(".")
    return sql.SQL("s.{} #> {}::text[]").format(sql.Identifier(column), sql.Literal(path))


def _places(plan: AdoptionPlan) -> sql.Composable:
    """What the metadata of a new event must name besides, where the source tells by metadata."""
    columns = {"namespace_key": "k.namespace", "session_key": "e.session"}
    parts: list[sql.Composable] = []
    for option, column in columns.items():
        key: str | None = getattr(plan, option)
        if key is not None and key.startswith("metadata.") and key.count(".") == 1:
            name = sql.Literal(key.removeprefix("metadata."))
            parts += [sql.SQL("{}::text").format(name), sql.SQL(column)]
    return sql.SQL(", ").join(parts)
