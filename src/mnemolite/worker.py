"""The worker: claim pending events, embed them, store their vectors, all in one transaction."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence

import structlog

from mnemolite import metrics
from mnemolite.embedders import Served
from mnemolite.embeddings import Span
from mnemolite.embeddings.batching import BatchingEmbedder
from mnemolite.embeddings.templates import recall_text
from mnemolite.errors import (
    MODEL_FAULTS,
    DatabaseError,
    EmbeddingError,
    InvalidInputError,
    MnemoliteError,
    ModelUnavailableError,
)
from mnemolite.memory import Memory
from mnemolite.models import Space
from mnemolite.notifications import listen
from mnemolite.spaces import Claim, EmbeddedPassage, PendingEvent

log = structlog.get_logger(__name__)

_FAULT_PAUSE_SECONDS = 1.0
_PURGE_SECONDS = 60.0
_LOOK_SECONDS = 1.0


class Worker:
    """Embeds what is pending, until told to stop; any number of them share one queue.

    Without ``space`` it serves the space of its process, and has others beside it for each other
    space that the process holds the model of, so that a long queue of one never delays another.
    """

    def __init__(self, memory: Memory, *, space: int | None = None) -> None:
        self._memory = memory
        self._space = space
        self._others: dict[int, tuple[Worker, asyncio.Task[None]]] = {}
        self._settings = memory.settings.worker
        self._awake = asyncio.Event()
        self._stopping = asyncio.Event()
        self._index_build: asyncio.Task[None] | None = None
        self._next_purge = time.monotonic()

    def stop(self) -> None:
        """End after the batch at hand."""
        self._stopping.set()
        self._awake.set()
        for other, _ in self._others.values():
            other.stop()

    @property
    def served(self) -> Served | None:
        """The space that it works on, and its model; None once the space is dropped."""
        embedders = self._memory.embedders
        return embedders.current if self._space is None else embedders.held.get(self._space)

    async def run(self) -> None:
        """Work until ``stop`` is called, or the space is dropped."""
        beside = None if self._space else asyncio.create_task(self._serve_others())
        listener = asyncio.create_task(listen(self._memory.database, self._awake.set))
        try:
            while self.served is not None and not self._stopping.is_set():
                await self._work_or_wait()
        finally:
            self.stop()
            listener.cancel()
            await asyncio.wait([listener, *([beside] if beside else [])])
            await self._end_index_build()

    async def _serve_others(self) -> None:
        """Keep a worker for each space that the process serves beside its own."""
        embedders = self._memory.embedders
        embedders.want_all()
        while not self._stopping.is_set():
            own = self.served.space.id if self.served else None
            for space in embedders.held.keys() - self._others.keys() - {own}:
                worker = Worker(self._memory, space=space)
                self._others[space] = worker, asyncio.create_task(worker.run())
            for space in self._others.keys() - (embedders.held.keys() - {own}):
                self._others[space][0].stop()
            for space in [id for id, (_, task) in self._others.items() if task.done()]:
                del self._others[space]
            await embedders.changes(_LOOK_SECONDS)
        if self._others:
            await asyncio.wait([task for _, task in self._others.values()])

    async def drain(self) -> None:
        """Embed everything that is due, then return."""
        # Two at a time: while one reads and writes the database, the other keeps the model busy.
        async with asyncio.TaskGroup() as group:
            for _ in range(2):
                group.create_task(self._drain())

    async def _drain(self) -> None:
        while await self._work():
            pass

    async def _work(self) -> int:
        """One batch of each kind, so that a long queue of one never starves the other."""
        counted = 0 if self._space else await self._memory.lexicon.count()
        return await self.embed_batch() + counted

    async def embed_batch(self) -> int:
        """Embed one batch; the number of events taken off the queue or put back for later."""
        served = self.served
        if served is None or served.embedder is None:
            raise ModelUnavailableError("The model's space has been dropped.")
        async with self._memory.spaces.claim(served.space, self._settings.batch_size) as claim:
            if not claim.events:
                return 0
            done = await self._store_vectors(claim, claim.events, embedder=served.embedder)
            await claim.finish(done)
        metrics.EMBEDDED_EVENTS.inc(len(done))
        return len(claim.events)

    async def _work_or_wait(self) -> None:
        self._awake.clear()
        try:
            if await self._work():
                return
            await self._index_when_due()
            if self._space is None:
                await self._purge_when_due()
        except MnemoliteError as error:
            log.warning("worker_fault", code=error.code, error=str(error))
            await self._pause(_FAULT_PAUSE_SECONDS)
        except Exception:
            # The loop outlives every fault: what it did not commit is still in the queue.
            log.exception("worker_crash")
            await self._pause(_FAULT_PAUSE_SECONDS)
        await self._pause(self._settings.poll_seconds)

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._awake.wait(), seconds)

    async def _store_vectors(
        self, claim: Claim, events: Sequence[PendingEvent], *, embedder: BatchingEmbedder
    ) -> list[PendingEvent]:
        """Embed all at once; if that fails, each half, until the bad texts are alone.

        A model that is out of reach is no fault of the texts: the claim is then rolled back.
        """
        try:
            passages = await self._embed(events, embedder)
        except MODEL_FAULTS:
            raise
        except (EmbeddingError, InvalidInputError) as error:
            if len(events) == 1:
                await self._put_back(claim, events[0], error=error)
                return []
            half = len(events) // 2
            done = await self._store_vectors(claim, events[:half], embedder=embedder)
            return done + await self._store_vectors(claim, events[half:], embedder=embedder)
        await claim.store(passages)
        return list(events)

    async def _put_back(self, claim: Claim, event: PendingEvent, *, error: MnemoliteError) -> None:
        parked = await claim.fail(
            event,
            f"{error.code}: {error}",
            max_attempts=self._settings.max_attempts,
            retry_seconds=self._settings.retry_seconds,
        )
        metrics.EMBEDDING_FAILURES.inc()
        log.warning(
            "embedding_failed", event_id=str(event.event_id), parked=parked, error=str(error)
        )

    async def _embed(
        self, events: Sequence[PendingEvent], embedder: BatchingEmbedder
    ) -> list[EmbeddedPassage]:
        parts = await asyncio.to_thread(_cut, events, embedder)
        texts = [
            recall_text(event.text[slice(*span)], speaker=event.speaker, timestamp=event.timestamp)
            for event, _, span in parts
            if event.text
        ]
        vectors = await embedder.embed_documents(texts)
        return [
            EmbeddedPassage(event, number, span, vector)
            for (event, number, span), vector in zip(parts, vectors, strict=True)
        ]

    async def _index_when_due(self) -> None:
        """Build the HNSW index beside the work, once nothing waits and the table is large."""
        if self._index_build is not None and not self._index_build.done():
            return
        space = self.served.space if self.served else None
        if space is None or space.filled_at is None:  # most of its rows are still to come
            return
        if await self._memory.spaces.lacks_index(space, self._settings.hnsw_min_rows):
            self._index_build = asyncio.create_task(self._build_index(space))

    async def _purge_when_due(self) -> None:
        """Forget what is too old, a small step in each idle round until none is left."""
        if time.monotonic() >= self._next_purge and not await self._memory.purge():
            self._next_purge = time.monotonic() + _PURGE_SECONDS

    async def _build_index(self, space: Space) -> None:
        try:
            log.info("hnsw_build_started", space=space.id)
            built = await self._memory.spaces.build_index(space)
            log.info("hnsw_build_ended", space=space.id, built=built)
        except DatabaseError as error:
            log.warning("hnsw_build_failed", error=str(error))

    async def _end_index_build(self) -> None:
        if self._index_build is not None:
            self._index_build.cancel()
            await asyncio.wait([self._index_build])


def _cut(
    events: Sequence[PendingEvent], embedder: BatchingEmbedder
) -> list[tuple[PendingEvent, int, Span]]:
    """The passages of the events, numbered within each; long texts take their time."""
    return [
        (event, number, span)
        for event in events
        if event.text and not event.text.isspace()
        for number, span in enumerate(embedder.passages(event.text))
    ]


@contextlib.asynccontextmanager
async def running_worker(memory: Memory) -> AsyncIterator[Worker]:
    """A worker beside what the block does; it finishes its batch when the block ends.

    A batch that takes longer than MNEMO_SHUTDOWN_SECONDS is given up: its events stay pending.
    """
    worker = Worker(memory)
    task = asyncio.create_task(worker.run(), name="worker")
    try:
        yield worker
    finally:
        worker.stop()
        done, _ = await asyncio.wait([task], timeout=memory.settings.server.shutdown_seconds)
        if not done:
            log.warning("worker_batch_given_up")
            task.cancel()
            await asyncio.wait([task])
