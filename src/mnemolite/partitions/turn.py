"""One change of the layout at a time, whoever makes it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from mnemolite.database import Database

_LOCK = 0x6D6E656D72


@asynccontextmanager
async def taking_turn(database: Database) -> AsyncIterator[bool]:
    """Whether it is ours to change the layout in this block; False: another process is at it."""
    async with database.own_connection() as connection:
        row = await (
            await connection.execute("SELECT pg_try_advisory_lock(%s) AS mine", [_LOCK])
        ).fetchone()
        yield bool(row and row["mine"])
