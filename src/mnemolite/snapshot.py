"""One snapshot of the memory, read as a stream: what an export sees."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from psycopg import sql

from mnemolite.database import EARLIEST, LATEST, Connection, Database
from mnemolite.filters import parse
from mnemolite.models import ExportQuery, Space
from mnemolite.sql import load

_queries = load("snapshot")
_FETCH_ROWS = 500

Row = dict[str, Any]


class Snapshot:
    """The memory as it was at one moment, however long it is read."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    @classmethod
    @asynccontextmanager
    async def of(cls, database: Database) -> AsyncIterator["Snapshot"]:
        """A snapshot on a connection of its own, for the stream may last as long as its reader."""
        async with database.own_connection() as connection, connection.transaction():
            await connection.execute(_queries["begin"])
            await connection.execute(_queries["hold"])
            yield cls(connection)

    async def revision(self) -> str:
        """The revision of the schema."""
        row = await (await self._connection.execute(_queries["revision"])).fetchone()
        return str(row["revision"]) if row else ""

    async def namespaces(self, query: ExportQuery) -> AsyncIterator[Row]:
        """Names and languages of the namespaces that are asked for."""
        cursor = await self._connection.execute(
            _queries["namespaces"], {"namespace": query.namespace}
        )
        async for row in cursor:
            yield row

    async def events(
        self, query: ExportQuery, vectors_of: Space | None
    ) -> AsyncIterator[list[Row]]:
        """The events in batches; ``content``, ``metadata`` and ``vectors`` as JSON text."""
        vectors: sql.Composable = _queries["no_vectors"]
        if vectors_of is not None:
            vectors = _queries["vectors"].format(table=sql.Identifier(vectors_of.table))
        statement = _queries["events"].format(vectors=vectors, where=parse(query.where).to_sql("e"))
        parameters = {
            "namespace": query.namespace,
            "session": query.session,
            "since": query.since or EARLIEST,
            "until": query.until or LATEST,
        }
        async with self._connection.cursor(name="export") as cursor:
            await cursor.execute(statement, parameters)
            while rows := await cursor.fetchmany(_FETCH_ROWS):
                yield rows
