"""Ingestion: take new events in, tell the workers, and wait for the embeddings where asked to."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace

from mnemolite import metrics
from mnemolite.embedders import Embedders
from mnemolite.errors import ModelUnavailableError
from mnemolite.events import EventStore, Stored
from mnemolite.idempotency import KeyedRequest
from mnemolite.models import Event, NewEvent
from mnemolite.notifications import Notifier
from mnemolite.spaces import SpaceStore

_WAIT_POLL_SECONDS = 0.02


class Ingestion:
    """Stores events for those who want them back, or only their number."""

    def __init__(
        self, events: EventStore, spaces: SpaceStore, *, embedders: Embedders, notifier: Notifier
    ) -> None:
        self._events = events
        self._spaces = spaces
        self._embedders = embedders
        self._notifier = notifier

    async def store(
        self, events: Sequence[NewEvent], *, request: KeyedRequest | None, wait_seconds: float
    ) -> Stored:
        """Store all events or none; ``Memory.store`` says the rest."""
        stored = await self._events.add(events, request=request)
        if not stored.replayed:
            self._announce(stored.created)
        if wait_seconds and await self._wait_embedded(stored.events, wait_seconds):
            embedded = [event.model_copy(update={"pending": False}) for event in stored.events]
            stored = replace(stored, events=embedded)
        return stored

    async def count(self, events: Sequence[NewEvent]) -> int:
        """Store all events or none; how many are new."""
        created = await self._events.count_added(events)
        self._announce(created)
        return created

    def _announce(self, created: int) -> None:
        self._notifier.notify()
        metrics.ADDED_EVENTS.inc(created)

    async def _wait_embedded(self, events: Sequence[Event], seconds: float) -> bool:
        """Wait until the queue holds none of the events; False when the time is up before."""
        if self._embedders.current is None:
            raise ModelUnavailableError("No model has been used with this database yet.")
        space = self._embedders.current.space
        ids = [event.id for event in events]
        deadline = time.monotonic() + seconds
        while await self._spaces.pending_of_ids(space, ids):
            if time.monotonic() >= deadline:
                return False
            await asyncio.sleep(_WAIT_POLL_SECONDS)
        return True
