"""Taking turns: one change of the layout runs at a time, whoever makes it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from mnemolite.database import Connection, Database

_LOCK = 0x6D6E656D72


@asynccontextmanager
async def taking_turn(database: Database) -> AsyncIterator[Connection | None]:
    """A connection that may change the layout, None when another process is at it.

    Its time zone is UTC, for bounds are written in it; it has no time-out of statements.
    """
    async with database.own_connection() as connection:
        await connection.execute("SET timezone TO 'UTC'")
        cursor = await connection.execute("SELECT pg_try_advisory_lock(%s) AS mine", [_LOCK])
        row = await cursor.fetchone()
        yield connection if row and row["mine"] else None
