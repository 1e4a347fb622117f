"""Short transactions that need a table to themselves, and never make others wait for long."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable

import structlog
from psycopg import errors, sql

from mnemolite.database import Connection
from mnemolite.errors import LayoutBusyError
from mnemolite.partitions import exchange
from mnemolite.partitions.blueprint import Blueprint, blueprint
from mnemolite.sql import load

log = structlog.get_logger(__name__)

_queries = load("relayout")

# Everybody else waits behind a lock that waits. An autovacuum gives way after a second of that
# (deadlock_timeout), so every fourth try waits longer.
_LOCK_MILLISECONDS, _LONG_LOCK_MILLISECONDS = 1000, 2500
_LONG_EVERY = 4
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.25, 5.0
_TRIES = 60


class NotNowError(Exception):
    """Somebody reads with a snapshot from before; the transaction is undone and tried again."""


async def patiently(
    connection: Connection, work: Callable[[], Awaitable[None]], *, about: str
) -> None:
    """Run a transaction whose locks are waited for but shortly, again and again, some minutes.

    Raises LayoutBusyError when there was no moment for it; nothing of it is done then.
    """
    pause = _FIRST_PAUSE_SECONDS
    for attempt in range(1, _TRIES + 1):
        wait = _LONG_LOCK_MILLISECONDS if attempt % _LONG_EVERY == 0 else _LOCK_MILLISECONDS
        try:
            async with connection.transaction():
                await connection.execute(_queries["wait_for_locks"], {"milliseconds": f"{wait}ms"})
                await work()
        except (errors.LockNotAvailable, errors.DeadlockDetected, NotNowError) as reason:
            log.info("layout_waits_for_lock", table=about, attempt=attempt, reason=str(reason))
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
        else:
            return
    raise LayoutBusyError(
        f"{about} is used by transactions that do not end, so its layout could not be changed.",
        remedy="Look for them in pg_stat_activity (xact_start), end them, and run this again: it "
        "goes on where it was.",
    )


async def refuse_old_snapshots(connection: Connection) -> None:
    """Raise NotNowError while a transaction goes on reading with a snapshot."""
    row = await (await connection.execute(_queries["snapshot_holders"])).fetchone()
    if row and row["found"]:
        raise NotNowError("a transaction reads with an older snapshot")


async def run_all(connection: Connection, statements: Iterable[sql.SQL | sql.Composed]) -> None:
    """Run statements in their order."""
    for statement in statements:
        await connection.execute(statement)


async def locked_blueprint(connection: Connection, table: str) -> Blueprint:
    """The blueprint of a table, which this transaction has to itself from now on.

    Raises NotNowError when something on it has changed in between.
    """
    found = await blueprint(connection, table)
    await run_all(connection, exchange.lock(found))
    if await blueprint(connection, table) != found:
        raise NotNowError(f"{table} was changed meanwhile")
    return found
