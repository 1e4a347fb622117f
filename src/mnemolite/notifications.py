"""Wake-up calls between processes over LISTEN/NOTIFY: a hint that work waits, never the truth."""

import asyncio
from collections.abc import Callable
from typing import Self

import structlog

from mnemolite.database import Database
from mnemolite.errors import DatabaseError

log = structlog.get_logger(__name__)

PENDING_CHANNEL = "mnemolite_pending"
SPACES_CHANNEL = "mnemolite_spaces"
_RECONNECT_SECONDS = 1.0
_CANCEL_AGAIN_SECONDS = 0.2


class Notifier:
    """Tells the workers that events are pending; calls that come close together become one.

    PostgreSQL lets transactions that notify commit one after the other, so the call is made after
    the commit, on its own, and never from inside a writer's transaction.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._wanted = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._send_when_wanted(), name="notifier")
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            await end(self._task)
        if self._wanted.is_set():
            await self._send()

    def notify(self) -> None:
        """Ask for a wake-up call; returns at once."""
        self._wanted.set()

    async def _send_when_wanted(self) -> None:
        while True:
            await self._wanted.wait()
            await self._send()

    async def _send(self) -> None:
        self._wanted.clear()
        try:
            async with self._database.connection() as connection:
                await connection.execute(f"NOTIFY {PENDING_CHANNEL}")
        except DatabaseError as error:
            # The workers poll as well; a lost hint costs a second, not an event.
            log.debug("notify_failed", error=str(error))


async def end(task: asyncio.Task[None]) -> None:
    """Cancel a task that takes connections from the pool, and wait until it has ended.

    It is cancelled again until that is so: while a task waits for a connection, a cancellation in
    the moment in which it gets one is lost (`asyncio.wait_for` before Python 3.12).
    """
    while not task.done():
        task.cancel()
        # Not awaited itself: that could not tell its cancellation from our own.
        await asyncio.wait([task], timeout=_CANCEL_AGAIN_SECONDS)


async def listen(database: Database, on_call: Callable[[], None]) -> None:
    """Call ``on_call`` at every wake-up call, and after each reconnection, until cancelled."""
    while True:
        try:
            async with database.own_connection() as connection:
                await connection.execute(f"LISTEN {PENDING_CHANNEL}")
                on_call()
                async for _ in connection.notifies():
                    on_call()
        except DatabaseError as error:
            log.warning("listener_lost_connection", error=str(error))
        await asyncio.sleep(_RECONNECT_SECONDS)
