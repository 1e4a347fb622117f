"""A lane: callers' texts on their way to the model, joined into batches that are fair to all."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

from mnemolite import metrics
from mnemolite.embeddings import Kind, Vectors
from mnemolite.errors import MODEL_FAULTS, ModelBusyError

P = ParamSpec("P")
T = TypeVar("T")

Embed = Callable[[list[str]], Awaitable[Sequence[Vectors]]]


@dataclass(frozen=True, kw_only=True)
class LaneLimits:
    """What a batch may hold, how many texts may wait, and how many batches run at once."""

    texts: int
    characters: int | None = None
    waiting: int | None = None
    window_seconds: float = 0
    parallel: int = 1


class _Call:
    """What one caller wants: some texts, in a future."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts = texts
        self.vectors: dict[str, Vectors] = {}
        self.distinct = len(set(texts))
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        # Texts that no earlier call is waiting for, shortest first: neighbours share a batch.
        self.queue: deque[str] = deque()

    def fill(self, text: str, vector: Vectors) -> None:
        self.vectors[text] = vector
        if len(self.vectors) == self.distinct and not self.done.done():
            self.done.set_result(None)

    def fail(self, error: BaseException) -> None:
        if not self.done.done():
            self.done.set_exception(error)


class Lane:
    """Texts of one kind. One failing caller spoils no other; one leaving cancels no other."""

    def __init__(self, kind: Kind, embed: Embed, *, limits: LaneLimits) -> None:
        self._embed = embed
        self._limits = limits
        self._kind = kind
        self._executor = ThreadPoolExecutor(limits.parallel, thread_name_prefix=f"embed-{kind}")
        self._calls: deque[_Call] = deque()
        self._wanted: dict[str, list[_Call]] = {}  # who waits for a text, queued or running
        self._waiting = 0
        self._runners: set[asyncio.Task[None] | None] = set()
        self._closed = False

    async def submit(self, texts: Sequence[str]) -> list[Vectors]:
        """The vectors of the texts, in their order. Raises ModelBusyError when too many wait."""
        self._check_room(len(texts))
        call = _Call(texts)
        for text in sorted(set(texts), key=len):
            callers = self._wanted.setdefault(text, [])
            callers.append(call)
            if len(callers) == 1:
                call.queue.append(text)
        self._waiting += len(call.queue)
        self._calls.append(call)
        self._start_runner()
        await call.done
        return [call.vectors[text] for text in texts]

    async def in_thread(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a function in a thread of this lane."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, lambda: function(*args, **kwargs))

    async def close(self, error: Exception, within_seconds: float | None) -> None:
        """Let the running batches end, at most so long; fail what waits with the error."""
        self._closed = True
        runners = [runner for runner in self._runners if runner]
        if runners:
            await asyncio.wait(runners, timeout=within_seconds)
        for callers in self._wanted.values():
            for call in callers:
                call.fail(error)
        for runner in runners:
            runner.cancel()
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _check_room(self, texts: int) -> None:
        limit = self._limits.waiting
        if limit is not None and self._waiting and self._waiting + texts > limit:
            metrics.EMBEDDING_REFUSED.inc()
            raise ModelBusyError(
                f"{self._waiting} texts wait for the model already.",
                remedy="Try again later, or raise MNEMO_EMBEDDING_QUEUE_LIMIT.",
                retry_after=1,
            )

    def _start_runner(self) -> None:
        if len(self._runners) < self._limits.parallel:
            self._runners.add(asyncio.create_task(self._run_batches(), name=f"embed-{self._kind}"))

    async def _run_batches(self) -> None:
        if self._limits.window_seconds:
            await asyncio.sleep(self._limits.window_seconds)
        while not self._closed and (batch := self._take()):
            await self._run(batch)
        # At once, not in a callback: what is submitted from here on needs a new runner.
        self._runners -= {asyncio.current_task()}

    def _take(self) -> list[str]:
        """The next batch: a fair share of the texts of each caller in turn, oldest first."""
        batch: list[str] = []
        room = float(self._limits.characters or "inf")
        share = max(1, self._limits.texts // max(1, len(self._calls)))
        for _ in range(len(self._calls)):
            call = self._calls.popleft()
            taken = 0
            while call.queue and taken < share and len(batch) < self._limits.texts:
                if batch and room < len(call.queue[0]):
                    break
                text = call.queue.popleft()
                self._waiting -= 1
                if self._is_abandoned(text):
                    continue
                batch.append(text)
                taken += 1
                room -= len(text)
            if call.queue:
                self._calls.append(call)
        return batch

    def _is_abandoned(self, text: str) -> bool:
        """Whether all who wanted a text have left; it is then forgotten."""
        if all(call.done.done() for call in self._wanted[text]):
            del self._wanted[text]
            return True
        return False

    async def _run(self, batch: list[str]) -> None:
        running = asyncio.ensure_future(self._embed(batch))
        await asyncio.wait([running])
        if error := running.exception():
            # It belongs to those who wait, whatever it is.
            await self._fail(batch, error)
            return
        vectors = running.result()
        for text, vector in zip(batch, vectors, strict=True):
            vector.setflags(write=False)
            for call in self._wanted.pop(text):
                call.fill(text, vector)

    async def _fail(self, batch: list[str], error: BaseException) -> None:
        """Fail the only caller of a batch; of several, run each one's texts alone."""
        owners: dict[frozenset[_Call], list[str]] = {}
        for text in batch:
            owners.setdefault(frozenset(self._wanted[text]), []).append(text)
        if len(owners) > 1 and not isinstance(error, MODEL_FAULTS):
            for texts in owners.values():
                await self._run(texts)
            return
        for text in batch:
            for call in self._wanted.pop(text):
                call.fail(error)
