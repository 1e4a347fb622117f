"""Ingestion: take new events in, tell the workers, and wait for the embeddings where asked to."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace

from mnemolite import metrics
from mnemolite.backpressure import BackPressure
from mnemolite.embedders import Embedders
from mnemolite.errors import ModelUnavailableError, QueueFullError
from mnemolite.events import EventStore, Stored
from mnemolite.idempotency import KeyedRequest
from mnemolite.models import Event, NewEvent, Space
from mnemolite.notifications import Notifier
from mnemolite.queue import EmbeddingQueue

_WAIT_POLL_SECONDS = 0.02


class Ingestion:
    """Stores events for those who want them back, or only their number."""

    def __init__(
        self,
        events: EventStore,
        queue: EmbeddingQueue,
        *,
        pressure: BackPressure,
        embedders: Embedders,
        notifier: Notifier,
    ) -> None:
        self._events = events
        self._queue = queue
        self._pressure = pressure
        self._embedders = embedders
        self._notifier = notifier

    async def store(
        self, events: Sequence[NewEvent], *, request: KeyedRequest | None, wait_seconds: float
    ) -> Stored:
        """Store all events or none; ``Memory.store`` says the rest."""
        stored = await self._add(events, request=request)
        if not stored.replayed:
            self.announce(stored.created)
        if wait_seconds and await self._wait_embedded(stored.events, wait_seconds):
            embedded = [event.model_copy(update={"pending": False}) for event in stored.events]
            stored = replace(stored, events=embedded)
        return stored

    async def _add(self, events: Sequence[NewEvent], *, request: KeyedRequest | None) -> Stored:
        try:
            await self._pressure.admit(events, self._space)
        except QueueFullError:
            # A retry of what is stored brings nothing new.
            answered = await self._events.answered(request) if request else None
            if answered is None:
                raise
            return answered
        return await self._events.add(events, request=request)

    async def count(self, events: Sequence[NewEvent]) -> int:
        """Store all events or none; how many are new. Waits for room in the queue."""
        await self.wait_for_room()
        created = await self._events.count_added(events)
        self.announce(created)
        return created

    async def wait_for_room(self) -> None:
        """Return once the queue may grow, or nobody is left who would make room in it."""
        await self._pressure.wait(self._space)

    def announce(self, created: int) -> None:
        """Tell the workers, and count what is new."""
        self._notifier.notify()
        self._pressure.added(created)
        metrics.ADDED_EVENTS.inc(created)

    @property
    def _space(self) -> Space | None:
        return self._embedders.current.space if self._embedders.current else None

    async def _wait_embedded(self, events: Sequence[Event], seconds: float) -> bool:
        """Wait until the queue holds none of the events; False when the time is up before."""
        space = self._space
        if space is None:
            raise ModelUnavailableError("No model has been used with this database yet.")
        ids = [event.id for event in events]
        deadline = time.monotonic() + seconds
        while await self._queue.pending_of_ids(space, ids):
            if time.monotonic() >= deadline:
                return False
            await asyncio.sleep(_WAIT_POLL_SECONDS)
        return True
