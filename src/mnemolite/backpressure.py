"""Back-pressure: past a limit of pending events, writes that bring text are told to come later."""

import asyncio
import math
import time
from collections.abc import Sequence

import structlog

from mnemolite import metrics
from mnemolite.errors import QueueFullError
from mnemolite.heartbeats import Heartbeats
from mnemolite.models import NewEvent, Space
from mnemolite.queue import EmbeddingQueue

log = structlog.get_logger(__name__)

_COUNTED_SECONDS = 1.0
# Clients come back once a tenth of the limit is free, or there would be a crowd at each free place.
_FREE_SHARE = 0.1
_UNKNOWN_RATE_SECONDS = 10
_LONGEST_RETRY_SECONDS = 60
_IMPORT_POLL_SECONDS = 2.0


class BackPressure:
    """Watches how much is pending. The limit is not exact: a count is a second old at most."""

    def __init__(self, queue: EmbeddingQueue, heartbeats: Heartbeats, *, limit: int) -> None:
        self._queue = queue
        self._heartbeats = heartbeats
        self._limit = limit
        self._counting = asyncio.Lock()
        self._counted_at = -math.inf
        self._pending = 0

    async def admit(self, events: Sequence[NewEvent], space: Space | None) -> None:
        """Let events in that may be stored now.

        Raises QueueFullError, with the time that the queue will need, when too many are pending
        and one of these would be pending too.
        """
        if not await self._is_full(space) or space is None:
            return
        if await self._queue.brings_text([event.content for event in events]):
            metrics.QUEUE_REFUSED.inc()
            raise await self._refusal(space)

    def added(self, events: int) -> None:
        """Take note of what was stored since the count."""
        self._pending += events

    async def wait(self, space: Space | None) -> None:
        """Wait for room, as long as any worker makes it: for imports, which are in no hurry."""
        told = False
        while space is not None and await self._is_full(space):
            workers = [each for each in await self._heartbeats.living() if each.space == space.id]
            if not told:
                log.warning("import_waits_for_queue", limit=self._limit, workers=len(workers))
                told = True
            if not workers:
                return
            await asyncio.sleep(_IMPORT_POLL_SECONDS)

    async def _is_full(self, space: Space | None) -> bool:
        if not self._limit or space is None:
            return False
        async with self._counting:
            if time.monotonic() - self._counted_at >= _COUNTED_SECONDS:
                # Past twice the limit it makes no difference how many they are.
                self._pending = await self._queue.pending(space, at_most=2 * self._limit)
                self._counted_at = time.monotonic()
        return self._pending >= self._limit

    async def _refusal(self, space: Space) -> QueueFullError:
        workers = [each for each in await self._heartbeats.living() if each.space == space.id]
        rate = sum(worker.events_per_second for worker in workers)
        excess = self._pending - (1 - _FREE_SHARE) * self._limit
        seconds = math.ceil(excess / rate) if rate else _UNKNOWN_RATE_SECONDS
        return QueueFullError(
            f"{self._limit:,} events may wait to be embedded, and as many do.",
            remedy="Send it again after Retry-After seconds, run more workers, or raise "
            "MNEMO_MAX_PENDING.",
            retry_after=min(max(1, seconds), _LONGEST_RETRY_SECONDS),
        )
