"""Locks of whole tables, waited for in short tries, so that nobody waits long behind them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from psycopg import sql
from psycopg.errors import LockNotAvailable

from mnemolite.database import Connection
from mnemolite.sql import load

_queries = load("adoption")

# Who comes while a lock is waited for stands behind it, so a try is short and there are many.
_TRY_MILLISECONDS = "2000"
_TRIES = 30
_PAUSE_SECONDS = 0.5


@asynccontextmanager
async def locked(connection: Connection, statement: sql.SQL | sql.Composed) -> AsyncIterator[None]:
    """A transaction that begins with ``statement``, a LOCK TABLE; raises LockNotAvailable."""
    async with connection.transaction():
        await _lock(connection, statement)
        yield


async def _lock(connection: Connection, statement: sql.SQL | sql.Composed) -> None:
    for number in range(_TRIES):
        try:
            # A savepoint: the lock stays when it is released.
            async with connection.transaction():
                milliseconds = {"milliseconds": _TRY_MILLISECONDS}
                await connection.execute(_queries["set_lock_timeout"], milliseconds)
                await connection.execute(statement)
        except LockNotAvailable:
            if number == _TRIES - 1:
                raise
            await asyncio.sleep(_PAUSE_SECONDS)
        else:
            return
