"""The worker: claim pending events, embed them, store their vectors."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from functools import partial

import structlog

from mnemolite import metrics
from mnemolite.batch import Batch
from mnemolite.embedders import Served
from mnemolite.errors import DatabaseError, LayoutBusyError, MnemoliteError, ModelUnavailableError
from mnemolite.heartbeats import Heart
from mnemolite.memory import Memory
from mnemolite.models import Space
from mnemolite.notifications import listen
from mnemolite.queue import Claim, EmbeddedPassage, Lease, PendingEvent
from mnemolite.retention import run_if_due

log = structlog.get_logger(__name__)

_FAULT_PAUSE_SECONDS = 1.0
_PURGE_SECONDS = 60.0
_LOOK_SECONDS = 1.0
# Whoever began a change of the layout goes on with it sooner, if it still lives.
_LAYOUT_SECONDS = 30.0
# The database may take it later: it is away, full, or busy.
_PASSING = (503, 507)


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
        self._heart = Heart(memory.database, lease_seconds=self._settings.lease_seconds)
        self._lease = Lease(
            self._heart.id,
            seconds=self._settings.lease_seconds,
            max_attempts=self._settings.max_attempts,
        )
        self._awake = asyncio.Event()
        self._stopping = asyncio.Event()
        self._index_build: asyncio.Task[None] | None = None
        self._layout_change: asyncio.Task[None] | None = None
        self._next_layout_look = time.monotonic()
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
        beside = [] if self._space else [self._serve_others(), self._retain()]
        tasks = [asyncio.create_task(task) for task in beside]
        upkeep = [] if self._space else [asyncio.create_task(self._maintain_partitions())]
        listener = asyncio.create_task(listen(self._memory.database, self._awake.set))
        try:
            async with self._heart.beating(self._worked_on):
                while self.served is not None and not self._stopping.is_set():
                    await self._work_or_wait()
        finally:
            self.stop()
            for task in (listener, *upkeep):
                task.cancel()
            try:
                await asyncio.wait([listener, *upkeep, *tasks])
            finally:
                for task in tasks:  # what takes longer than the end may last
                    task.cancel()
            await self._end(self._index_build)
            await self._end(self._layout_change)

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

    async def _maintain_partitions(self) -> None:
        """Make the partitions ahead now and then; another process may do so just as well."""
        partitions = self._memory.partitions
        while True:
            try:
                await partitions.maintain()
            except MnemoliteError as error:
                log.warning("partitions_not_maintained", code=error.code, error=str(error))
            except Exception:
                # As with the loop itself: the next round begins anew.
                log.exception("partitions_crash")
            await asyncio.sleep(self._memory.settings.partitions.maintenance_seconds)

    async def _retain(self) -> None:
        """Apply the rules of retention now and then, beside the embedding."""
        every = self._memory.settings.retention.check_seconds
        while every and not self._stopping.is_set():
            try:
                for outcome in await run_if_due(self._memory, self._stopping.is_set):
                    log.info("retention_applied", **outcome.model_dump(mode="json"))
            except MnemoliteError as error:
                log.warning("retention_fault", code=error.code, error=str(error))
            except Exception:
                # The worker outlives it: what a step did not commit is done the next time.
                log.exception("retention_crash")
            await self._pause_unless_stopping(every)

    async def drain(self) -> None:
        """Embed everything that is due, then return."""
        async with self._heart.beating(self._worked_on):
            await self._drain()

    async def _drain(self) -> None:
        """Two batches at a time: while one is claimed or stored, the other has the model."""
        ends = await asyncio.gather(self._work_on(), self._work_on(), return_exceptions=True)
        for end in ends:
            if isinstance(end, BaseException):
                raise end

    async def _work_on(self) -> None:
        while not self._stopping.is_set() and await self._work():
            pass

    async def _work(self) -> int:
        """One batch of each kind, so that a long queue of one never starves the other."""
        counted = 0 if self._space else await self._memory.lexicon.count()
        return await self.embed_batch() + counted

    def _worked_on(self) -> Space | None:
        return self.served.space if self.served else None

    async def embed_batch(self) -> int:
        """Embed one batch; the number of events taken off the queue or put back for later."""
        served = self.served
        if served is None or served.embedder is None:
            raise ModelUnavailableError("The model's space has been dropped.")
        queue, limit = self._memory.queue, self._settings.batch_size
        async with queue.claim(served.space, self._lease, limit=limit) as claim:
            self._tell_takeovers(claim)
            with self._heart.holding(claim):
                await Batch(
                    claim,
                    served.embedder,
                    store=partial(self._store, claim),
                    retry_seconds=self._settings.retry_seconds,
                ).run()
        return len(claim.events) + len(claim.parked)

    async def _store(
        self, claim: Claim, events: Sequence[PendingEvent], *, passages: Sequence[EmbeddedPassage]
    ) -> None:
        """Store vectors; as long as a lease, try again, for they cost more than the wait."""
        deadline = time.monotonic() + self._settings.lease_seconds
        while True:
            try:
                stored = await claim.store(events, passages)
                break
            except DatabaseError as error:
                late = self._stopping.is_set() or time.monotonic() > deadline
                if late or error.status not in _PASSING:
                    raise
                log.warning("vectors_wait_for_database", events=len(events), error=str(error))
                await self._pause_unless_stopping(_FAULT_PAUSE_SECONDS)
        self._heart.succeeded(stored)
        metrics.EMBEDDED_EVENTS.inc(stored)

    def _tell_takeovers(self, claim: Claim) -> None:
        if claim.taken_over:
            metrics.CLAIMS_TAKEN_OVER.inc(claim.taken_over)
            log.warning("claims_taken_over", events=claim.taken_over)
        for event in claim.parked:
            log.error("embedding_abandoned", event_id=str(event.event_id), parked=True)

    async def _work_or_wait(self) -> None:
        self._awake.clear()
        try:
            if done := await self._work():
                if done >= self._settings.batch_size:  # more waits
                    await self._drain()
                return
            await self._index_when_due()
            if self._space is None:
                await self._purge_when_due()
                self._go_on_with_layout_when_due()
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

    async def _pause_unless_stopping(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)

    async def _index_when_due(self) -> None:
        """Build HNSW indexes beside the work, once nothing waits and a table is large."""
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
            built = await self._memory.spaces.build_index(
                space, min_rows=self._settings.hnsw_min_rows
            )
            log.info("hnsw_build_ended", space=space.id, built=built)
        except DatabaseError as error:
            log.warning("hnsw_build_failed", error=str(error))

    def _go_on_with_layout_when_due(self) -> None:
        """Finish, beside the work, a change of the layout that was left behind."""
        running = self._layout_change is not None and not self._layout_change.done()
        if not running and time.monotonic() >= self._next_layout_look:
            self._next_layout_look = time.monotonic() + _LAYOUT_SECONDS
            self._layout_change = asyncio.create_task(self._go_on_with_layout())

    async def _go_on_with_layout(self) -> None:
        try:
            if await self._memory.layout.resume():
                log.info("layout_change_ended")
        except LayoutBusyError:
            pass  # somebody else is at it
        except MnemoliteError as error:
            log.warning("layout_change_failed", code=error.code, error=str(error))

    async def _end(self, task: asyncio.Task[None] | None) -> None:
        if task is not None:
            task.cancel()
            await asyncio.wait([task])


@contextlib.asynccontextmanager
async def running_worker(memory: Memory) -> AsyncIterator[Worker]:
    """A worker beside what the block does; it finishes its batch when the block ends.

    A batch that takes longer than MNEMO_SHUTDOWN_SECONDS is given back: its events stay pending.
    """
    worker = Worker(memory)
    task = asyncio.create_task(worker.run(), name="worker")
    try:
        yield worker
    finally:
        worker.stop()
        done, _ = await asyncio.wait([task], timeout=memory.settings.server.shutdown_seconds)
        if not done:
            log.warning("worker_batch_given_back")
            task.cancel()
            await asyncio.wait([task])
