"""Heart-beats: which workers live and what they do, and the leases that are kept up by them."""

import asyncio
import os
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import datetime
from uuid import UUID, uuid4

import structlog

from mnemolite.database import Database
from mnemolite.errors import DatabaseError
from mnemolite.models import Space, WorkerState
from mnemolite.queue import Claim
from mnemolite.sql import load

log = structlog.get_logger(__name__)

_queries = load("heartbeats")

BEAT_SECONDS = 5.0
# A worker that was silent for so long is not counted; a busy machine may miss a beat or two.
SILENT_SECONDS = 4 * BEAT_SECONDS
# Workers that are gone are remembered for so long: their last success still counts.
_KEPT_SECONDS = 3600
# How much of the rate is the newest beat's: most of it is half a minute old at most.
_NEWEST_SHARE = 0.3


class Heartbeats:
    """The register of workers."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def living(self) -> list[WorkerState]:
        """The workers that were heard of lately, on whatever machine."""
        async with self._database.connection() as connection:
            cursor = await connection.execute(_queries["living"], {"silent": SILENT_SECONDS})
            return [WorkerState.model_validate(row) async for row in cursor]


class Heart:
    """A worker's own record, and its claims, which it keeps up by beating."""

    def __init__(self, database: Database, *, lease_seconds: float) -> None:
        self.id: UUID = uuid4()
        self._database = database
        self._interval = min(BEAT_SECONDS, lease_seconds / 3)
        self._claims: set[Claim] = set()
        self._succeeded_at: float | None = None
        self._stuck_since: datetime | None = None
        self._done = 0
        self._rate = 0.0

    @contextmanager
    def holding(self, claim: Claim) -> Iterator[None]:
        """Keep a claim up as long as the block runs."""
        self._claims.add(claim)
        try:
            yield
        finally:
            self._claims.discard(claim)
            # What was taken and not done still waits, whoever has it next.
            self._stuck_since = _earlier(self._stuck_since, claim.oldest)
        if not claim.events:
            self._stuck_since = None

    def succeeded(self, events: int) -> None:
        """Take note of events that were embedded and stored."""
        self._succeeded_at = time.monotonic()
        self._stuck_since = None
        self._done += events

    @asynccontextmanager
    async def beating(self, space: Callable[[], Space | None]) -> AsyncIterator[None]:
        """Beat as long as the block runs; ``space`` is the one that is worked on."""
        task = asyncio.create_task(self._beat_on(space), name="heart")
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait([task])
            with suppress(DatabaseError):  # others see it by its silence
                await self._write("end", id=self.id)

    async def _beat_on(self, space: Callable[[], Space | None]) -> None:
        while True:
            started = time.monotonic()
            try:
                for claim in list(self._claims):
                    await claim.extend_when_due()
                if (worked_on := space()) is not None:
                    await self._beat(worked_on)
            except DatabaseError as error:
                log.warning("heartbeat_failed", error=str(error))
            await asyncio.sleep(self._interval)
            self._measure(time.monotonic() - started)

    async def _beat(self, space: Space) -> None:
        success = self._succeeded_at
        await self._write(
            "beat",
            id=self.id,
            space=space.id,
            host=socket.gethostname(),
            pid=os.getpid(),
            success_age=None if success is None else time.monotonic() - success,
            behind_since=self._behind_since(),
            claimed=sum(claim.open for claim in self._claims),
            rate=self._rate,
        )
        await self._write("purge", kept=_KEPT_SECONDS)

    async def _write(self, query: str, **values: object) -> None:
        async with self._database.connection() as connection:
            await connection.execute(_queries[query], values)

    def _behind_since(self) -> datetime | None:
        behind = self._stuck_since
        for claim in self._claims:
            behind = _earlier(behind, claim.oldest)
        return behind

    def _measure(self, seconds: float) -> None:
        newest, self._done = self._done / seconds, 0
        self._rate += _NEWEST_SHARE * (newest - self._rate)


def _earlier(one: datetime | None, other: datetime | None) -> datetime | None:
    return min((each for each in (one, other) if each is not None), default=None)
