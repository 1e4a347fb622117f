"""The foreign database: read in batches, watched, blocked, and written back to."""

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager

from psycopg import AsyncConnection, AsyncCopy, ProgrammingError, errors, sql
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import dict_row

from mnemolite.adoption.locks import locked
from mnemolite.adoption.table import SourceTable, inspect
from mnemolite.database import Connection, patient, translated_errors
from mnemolite.errors import AdoptionError, DatabaseError
from mnemolite.models import AdoptionPlan, Checksums, JsonObject, Refusal
from mnemolite.sql import load

_queries = load("adoption_source")

Keys = tuple[list[str], list[str | None]]  # ids and timestamps, as PostgreSQL writes them


class Source:
    """One table of a foreign database, over one connection."""

    def __init__(self, connection: Connection, table: SourceTable) -> None:
        self._connection = connection
        self.table = table

    @classmethod
    @asynccontextmanager
    async def opened(cls, dsn: str, plan: AdoptionPlan) -> AsyncIterator["Source"]:
        """Connect and look at the table. Raises DatabaseError, AdoptionError."""
        _check_address(dsn)
        with _named_errors(), translated_errors():
            connection: Connection = await AsyncConnection.connect(
                patient(dsn), autocommit=True, row_factory=dict_row, client_encoding="utf8"
            )
        # What comes from the target bears a name already: it is no error of psycopg any more.
        with translated_errors():
            async with connection:
                await connection.execute(_queries["prepare"])
                yield cls(connection, await inspect(connection, plan))

    # --- Read -----------------------------------------------------------------------------------

    async def count(self) -> JsonObject:
        """Rows, vectors, first and last timestamp."""
        embedding = "embedding" if self.table.vector_schema else "NULL::text"
        return await self._one("count", embedding=sql.SQL(embedding))

    @asynccontextmanager
    async def rows(self, position: Sequence[str] | None, limit: int) -> AsyncIterator[AsyncCopy]:
        """The next rows by key, as binary COPY; ``position`` is the key of the last one before."""
        after: sql.Composable = sql.SQL("true")
        if position is not None:
            last = sql.SQL(", ").join(map(sql.Literal, position))
            after = sql.SQL("({}) > ({})").format(self.table.keys, last)
        statement = self._composed("rows", after=after, limit=sql.Literal(limit))
        async with self._connection.cursor().copy(statement) as copy:
            yield copy

    @asynccontextmanager
    async def rows_of(self, keys: Keys) -> AsyncIterator[AsyncCopy]:
        """What is there of some rows at this moment, as binary COPY."""
        parameters = {"ids": keys[0], "timestamps": keys[1]}
        async with self._connection.cursor().copy(self._composed("rows_of"), parameters) as copy:
            yield copy

    async def checksums(self, without: Sequence[Refusal]) -> Checksums:
        """The checksums of all rows but those."""
        statement = _queries["checksums"].format(digests=self._digests())
        cursor = await self._connection.execute(statement, _keys_of(without))
        return Checksums.model_validate(await cursor.fetchone())

    @asynccontextmanager
    async def digests(self, without: Sequence[Refusal]) -> AsyncIterator[AsyncCopy]:
        """Id, timestamp and digests of every row but those, as binary COPY."""
        statement = _queries["copy_digests"].format(digests=self._digests())
        async with self._connection.cursor().copy(statement, _keys_of(without)) as copy:
            yield copy

    def _digests(self) -> sql.Composed:
        vector: sql.Composable = sql.SQL("NULL::bytea")
        if self.table.vector_schema is not None:
            schema = sql.Identifier(self.table.vector_schema)
            vector = _queries["vector_digest"].format(schema=schema, embedding=self.table.embedding)
        return self._composed("digests", vector=vector, metadata=self.table.metadata)

    # --- Watch ----------------------------------------------------------------------------------

    async def watch(self) -> None:
        """Log the keys of all rows that change from now on."""
        if await self.is_watched():
            return
        # Whoever is writing is waited for, so no change is in flight that is not logged.
        async with self.locked():
            await self._connection.execute(_queries["create_log"])
            await self._connection.execute(self._composed("log_rows"))
            await self._for_each_partition("log_truncation")

    async def is_watched(self) -> bool:
        """Whether changes are logged."""
        return bool((await self._one("log_exists"))["found"])

    def locked(self) -> AbstractAsyncContextManager[None]:
        """A transaction during which nobody else writes the table; readers go on."""
        return locked(self._connection, self._composed("lock"))

    async def changes(self, limit: int) -> tuple[list[int], Keys]:
        """The first rows of the log: their numbers, and the keys that they name."""
        cursor = await self._connection.execute(_queries["changes"], {"limit": limit})
        rows = await cursor.fetchall()
        keys = dict.fromkeys((row["id"], row["timestamp"]) for row in rows)
        return [row["n"] for row in rows], ([key[0] for key in keys], [key[1] for key in keys])

    async def count_changes(self) -> int:
        """Rows of the log."""
        return int((await self._one("count_changes"))["rows"])

    async def forget_changes(self, numbers: Sequence[int]) -> None:
        """Take rows off the log."""
        await self._connection.execute(_queries["forget_changes"], {"ns": list(numbers)})

    async def block(self) -> None:
        """Refuse all writes to the table from the end of this transaction on."""
        await self._connection.execute(self._composed("block_rows"))
        await self._for_each_partition("block_truncation")

    async def is_blocked(self) -> bool:
        """Whether writes are refused."""
        return bool((await self._one("is_blocked"))["found"])

    async def remove_traces(self) -> None:
        """Remove triggers and log; writes are taken again."""
        if await self.is_watched():
            # Triggers are dropped from it, which nobody may be reading meanwhile.
            async with locked(self._connection, self._composed("lock_out")):
                await self._connection.execute(_queries["remove_traces"])

    # --- Write back -----------------------------------------------------------------------------

    async def write_back(self, rows: Sequence[JsonObject]) -> None:
        """Delete and store rows as they are in the target now, in one transaction."""
        gone = [row for row in rows if row["gone"]]
        kept = [row for row in rows if not row["gone"]]
        try:
            async with self._connection.transaction():
                await self._connection.execute(_queries["replaying"])
                if gone:
                    await self._connection.execute(self._composed("delete"), _values(gone))
                if kept:
                    await self._connection.execute(self._upsert(), _values(kept))
        except errors.IntegrityConstraintViolation as error:
            raise AdoptionError(
                f"The source does not take back what is new here: {error.diag.message_primary}.",
                field="--from",
                remedy="Change that constraint of the source's table, and run the command again; "
                "nothing is lost meanwhile.",
            ) from error

    def _upsert(self) -> sql.Composed:
        values: dict[str, sql.Composable] = {
            "id": sql.SQL("k.id"),
            "timestamp": sql.SQL("k.timestamp"),
            "content": sql.SQL("k.content::{}").format(sql.Identifier(self.table.types["content"])),
        }
        if kind := self.table.types.get("metadata"):
            values["metadata"] = sql.SQL("k.metadata::{}").format(sql.Identifier(kind))
        if schema := self.table.vector_schema:
            kind_name = sql.Identifier(schema, self.table.types["embedding"])
            values["embedding"] = sql.SQL("k.embedding::{}").format(kind_name)
        columns = sql.SQL(", ").join(map(sql.Identifier, values))
        name = "upsert" if "metadata" in values else "upsert_bare"
        return self._composed(name, columns=columns, values=sql.SQL(", ").join(values.values()))

    # --- Statements -----------------------------------------------------------------------------

    async def _for_each_partition(self, query: str) -> None:
        number = {"number": self.table.number}
        cursor = await self._connection.execute(_queries["partitions"], number)
        for row in await cursor.fetchall():
            partition = sql.Identifier(row["schema"], row["name"])
            await self._connection.execute(_queries[query].format(table=partition))

    async def _one(self, query: str, **parts: sql.Composable) -> JsonObject:
        statement, number = self._composed(query, **parts), {"number": self.table.number}
        return await (await self._connection.execute(statement, number)).fetchone() or {}

    def _composed(self, query: str, **parts: sql.Composable) -> sql.Composed:
        table = self.table
        names = {"table": table.identifier, "columns": table.selected(), "key": table.keys}
        return _queries[query].format(**{**names, **parts})


def _check_address(dsn: str) -> None:
    try:
        conninfo_to_dict(dsn)
    except (ProgrammingError, UnicodeEncodeError):
        # What it holds is not repeated: it may be a password.
        raise AdoptionError(
            "This is no address of a PostgreSQL database.",
            field="--from",
            remedy="Such as postgresql://user@host:5432/database.",
        ) from None


@contextmanager
def _named_errors() -> Iterator[None]:
    try:
        yield
    except DatabaseError as error:
        error.field = "--from"
        raise


def _keys_of(refusals: Sequence[Refusal]) -> JsonObject:
    return {"ids": [one.id for one in refusals], "timestamps": [one.timestamp for one in refusals]}


def _values(rows: Sequence[JsonObject]) -> JsonObject:
    names = {
        "ids": "id",
        "timestamps": "timestamp",
        "contents": "content",
        "metadata": "metadata",
        "embeddings": "embedding",
    }
    return {plural: [row[name] for row in rows] for plural, name in names.items()}
