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
        self._calls: list[_Call] = []  # oldest first
        self._wanted: dict[str, list[_Call]] = {}  # who waits for a text, queued or running
        self._waiting = 0
        self._runners: set[asyncio.Task[None] | None] = set()
        self._closed = False

    async def submit(self, texts: Sequence[str]) -> list[Vectors]:
        """The vectors of the texts, in their order. Raises ModelBusyError when too many wait."""
        self._check_room(len(texts))
        call = _Call(texts)
        for text in sorted(dict.fromkeys(texts), key=len):
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
        """The next batch: half for the oldest call, then the calls that want least come first.

        So a small call does not wait for a large one, a large one is never starved, and two large
        ones end one after the other: while a worker stores the first, the model has the second.
        """
        batch: list[str] = []
        self._calls = [call for call in self._calls if call.queue]
        if self._calls:
            self._fill(batch, self._calls[0], share=0.5)
        for call in sorted(self._calls, key=lambda call: len(call.queue)):
            self._fill(batch, call, share=1)
        return batch

    def _fill(self, batch: list[str], call: _Call, *, share: float) -> None:
        """Move texts of a call into the batch until that share of the batch is full."""
        limits = self._limits
        characters = sum(map(len, batch))
        while call.queue and len(batch) < max(1, limits.texts * share):
            text = call.queue[0]
            if limits.characters and batch and characters + len(text) > limits.characters * share:
                return
            call.queue.popleft()
            self._waiting -= 1
            if not self._is_abandoned(text):
                batch.append(text)
                characters += len(text)

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
