"""Wake-up calls: they arrive, they are joined, and losing one is no fault."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import psycopg
import pytest

from mnemolite.database import Database
from mnemolite.notifications import PENDING_CHANNEL, Notifier, end, listen
from mnemolite.settings import Settings


class Calls:
    """Counts the calls and lets a test wait for the next one."""

    def __init__(self) -> None:
        self.count = 0
        self._changed = asyncio.Event()

    def __call__(self) -> None:
        self.count += 1
        self._changed.set()

    async def after(self, count: int) -> None:
        while self.count <= count:
            self._changed.clear()
            await self._changed.wait()


@pytest.fixture
async def database(dsn: str, settings: Settings) -> AsyncIterator[Database]:
    async with Database(dsn, settings.database) as opened:
        yield opened


@asynccontextmanager
async def listening(database: Database, on_call: Callable[[], None]) -> AsyncIterator[None]:
    task = asyncio.create_task(listen(database, on_call))
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def test_a_call_arrives(database: Database) -> None:
    calls = Calls()
    async with listening(database, calls), Notifier(database) as notifier:
        await calls.after(0)  # the one that says: listening now, look yourself
        notifier.notify()
        await calls.after(1)


async def test_calls_that_come_close_together_become_one(database: Database) -> None:
    calls = Calls()
    async with listening(database, calls):
        await calls.after(0)
        async with Notifier(database) as notifier:
            for _ in range(1000):
                notifier.notify()
        await calls.after(1)
        async with database.connection() as connection:
            await connection.execute(f"NOTIFY {PENDING_CHANNEL}, 'last'")
        await calls.after(2)
    assert calls.count <= 4


async def test_the_last_call_is_sent_at_the_end(database: Database) -> None:
    calls = Calls()
    async with listening(database, calls):
        await calls.after(0)
        async with Notifier(database) as notifier:
            notifier.notify()
        await calls.after(1)


async def test_another_channel_is_not_for_us(database: Database) -> None:
    calls = Calls()
    async with listening(database, calls):
        await calls.after(0)
        async with database.connection() as connection:
            await connection.execute("NOTIFY somebody_else")
            await connection.execute(f"NOTIFY {PENDING_CHANNEL}")
        await calls.after(1)
    assert calls.count == 2


async def test_a_listener_comes_back_and_looks_for_what_it_missed(
    database: Database, dsn: str
) -> None:
    calls = Calls()
    async with listening(database, calls):
        await calls.after(0)
        with psycopg.connect(dsn, autocommit=True) as connection:
            killed = connection.execute(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
                "WHERE datname = current_database() AND query LIKE 'LISTEN%%'"
            ).fetchone()
            assert killed == (1,)
            await calls.after(1)
            connection.execute(f"NOTIFY {PENDING_CHANNEL}")
        await calls.after(2)


async def test_a_call_that_cannot_be_sent_breaks_nothing(
    database: Database, dsn: str, settings: Settings
) -> None:
    calls = Calls()
    closed = Database(dsn, settings.database)
    async with listening(database, calls), Notifier(closed) as notifier:
        await calls.after(0)
        notifier.notify()
        await asyncio.sleep(0.05)
        async with closed:
            notifier.notify()
            await calls.after(1)


async def test_a_task_that_waits_for_connections_can_be_ended(dsn: str, settings: Settings) -> None:
    small = settings.database.model_copy(update={"pool_size": 2})
    async with Database(dsn, small) as database:

        async def ask() -> None:
            while True:
                async with database.connection() as connection:
                    await connection.execute("SELECT pg_sleep(0.002)")

        others = [asyncio.create_task(ask()) for _ in range(4)]
        for turn in range(60):
            task = asyncio.create_task(ask())
            await asyncio.sleep(turn / 3000)
            await end(task)
            assert task.cancelled()
        for other in others:
            await end(other)
