"""An async front of an embedder: joins queries into batches and lets them overtake documents.

One thread runs the model, which has threads of its own. Documents go to it in small slices, so a
query waits for one slice at most; queries that arrive meanwhile are embedded together, equal ones
once. All state here is touched by the event loop only.
"""

import asyncio
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Self

import numpy as np

from mnemolite import metrics
from mnemolite.embeddings import Embedder, Kind, ModelInfo, Span, Vectors, check_texts
from mnemolite.embeddings.cache import VectorCache
from mnemolite.errors import EmbeddingError

Waiter = asyncio.Future[Vectors]

# About 100 ms of work on two cores: two thousand tokens, enough to fill batches of one length.
_SLICE_CHARACTERS = 8000
_MAX_JOINED_QUERIES = 64


class BatchingEmbedder:
    """Use it as an async context manager; it owns the embedder and closes it."""

    def __init__(self, embedder: Embedder, *, cache_bytes: int = 0) -> None:
        self._embedder = embedder
        self._cache = VectorCache(cache_bytes)
        self._space = embedder.info.digest
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="embed")
        self._queries: dict[str, list[Waiter]] = {}
        self._running: dict[str, list[Waiter]] = {}
        self._slices: deque[tuple[list[str], Waiter]] = deque()
        self._pump: asyncio.Task[None] | None = None
        self._closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    @property
    def info(self) -> ModelInfo:
        """The identity of the embedder behind this front."""
        return self._embedder.info

    def passages(self, text: str) -> list[Span]:
        """Cut a text; about half a second for a million characters, so not on the event loop."""
        return self._embedder.passages(text)

    def cache_stats(self) -> dict[str, int]:
        """Hits, misses, evictions and bytes of the cache of queries."""
        return self._cache.stats()

    async def embed_query(self, text: str) -> Vectors:
        """The vector of a query, read-only."""
        check_texts([text])
        key = self._cache.key(text, space=self._space, kind="query")
        if (cached := self._cache.get(key)) is not None:
            return cached
        waiter = self._new_waiter()
        joined = self._running if text in self._running else self._queries
        joined.setdefault(text, []).append(waiter)
        self._start_pump()
        vector = await waiter
        self._cache.put(key, vector)
        return vector

    async def embed_documents(self, texts: Sequence[str]) -> Vectors:
        """One row for each document, in their order."""
        check_texts(texts)
        vectors = np.empty((len(texts), self.info.dimension), np.float32)
        slices = list(_slices(texts))
        waiters = [self._new_waiter() for _ in slices]
        self._slices.extend(
            ([texts[row] for row in rows], waiter)
            for rows, waiter in zip(slices, waiters, strict=True)
        )
        self._start_pump()
        try:
            for rows, waiter in zip(slices, waiters, strict=True):
                vectors[rows] = await waiter
        finally:
            # After a failure or a cancellation nobody wants the rest.
            for waiter in waiters:
                if not waiter.cancel() and not waiter.cancelled():
                    waiter.exception()  # seen, so that asyncio does not report it as lost
        return vectors

    async def close(self) -> None:
        """Let the running batch end, refuse what waits, release the model."""
        self._closed = True
        if self._pump is not None:
            await asyncio.wait([self._pump])
        await asyncio.to_thread(self._executor.shutdown)
        self._embedder.close()

    def _new_waiter(self) -> Waiter:
        if self._closed:
            raise _closed_error()
        return asyncio.get_running_loop().create_future()

    def _start_pump(self) -> None:
        if self._pump is None or self._pump.done():
            self._pump = asyncio.create_task(self._run_pump(), name="embed")

    async def _run_pump(self) -> None:
        while (self._queries or self._slices) and not self._closed:
            if self._queries:
                await self._run_queries()
            else:
                await self._run_slice()
        if self._closed:
            self._refuse_the_rest()

    async def _run_queries(self) -> None:
        """Embed what queries wait now; if that fails, each alone, so that one cannot spoil all."""
        wanted = [text for text, waiters in self._queries.items() if not _abandoned(waiters)]
        texts = wanted[:_MAX_JOINED_QUERIES]
        self._running = {text: self._queries[text] for text in texts}
        self._queries = {text: self._queries[text] for text in wanted[_MAX_JOINED_QUERIES:]}
        if not texts:
            return
        outcome = await self._run(texts, "query")
        one_by_one = isinstance(outcome, BaseException) and len(texts) > 1
        for number, text in enumerate(texts):
            if one_by_one:
                vector = _row(await self._run([text], "query"), 0)
            else:
                vector = _row(outcome, number)
            _settle(self._running.pop(text), vector)

    async def _run_slice(self) -> None:
        texts, waiter = self._slices.popleft()
        if not waiter.done():
            _settle([waiter], await self._run(texts, "document"))

    async def _run(self, texts: list[str], kind: Kind) -> Vectors | BaseException:
        """Embed in the thread; an error is returned, for it belongs to those who wait."""
        running = asyncio.get_running_loop().run_in_executor(
            self._executor, self._embedder.embed, texts, kind
        )
        with metrics.EMBEDDING_SECONDS.labels(kind).time():
            await asyncio.wait([running])
        return running.exception() or running.result()

    def _refuse_the_rest(self) -> None:
        for waiters in self._queries.values():
            _settle(waiters, _closed_error())
        for _, waiter in self._slices:
            _settle([waiter], _closed_error())
        self._queries.clear()
        self._slices.clear()


def _slices(texts: Sequence[str]) -> Iterator[list[int]]:
    """The numbers of the texts, shortest first, in slices of bounded work."""
    rows: list[int] = []
    characters = 0
    for row in sorted(range(len(texts)), key=lambda row: len(texts[row])):
        if rows and characters + len(texts[row]) > _SLICE_CHARACTERS:
            yield rows
            rows, characters = [], 0
        rows.append(row)
        characters += len(texts[row])
    if rows:
        yield rows


def _abandoned(waiters: list[Waiter]) -> bool:
    return all(waiter.done() for waiter in waiters)


def _row(outcome: Vectors | BaseException, number: int) -> Vectors | BaseException:
    if isinstance(outcome, BaseException):
        return outcome
    vector: Vectors = outcome[number].copy()
    vector.setflags(write=False)
    return vector


def _settle(waiters: list[Waiter], outcome: Vectors | BaseException) -> None:
    for waiter in waiters:
        if waiter.done():
            continue
        if isinstance(outcome, BaseException):
            waiter.set_exception(outcome)
        else:
            waiter.set_result(outcome)


def _closed_error() -> EmbeddingError:
    return EmbeddingError("The embedder has been closed.")
