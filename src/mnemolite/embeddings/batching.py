"""An async front of an embedder: joins calls into batches, and keeps queries from waiting.

Queries and documents have a lane each, with threads of their own: a query shares the processor with
the documents that a worker embeds, but never waits for a batch of them. In a lane, what arrives
while the model is busy forms the next batches, small calls before large ones, and a text that is
waiting or being computed is not computed again. All state here is touched by the event loop only.
"""

import asyncio
from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Self

import numpy as np

from mnemolite import metrics
from mnemolite.embeddings import Embedder, Kind, ModelInfo, Span, Vectors, check_texts
from mnemolite.embeddings.cache import VectorCache
from mnemolite.embeddings.lanes import Lane, LaneLimits
from mnemolite.errors import EmbeddingError, SettingsError
from mnemolite.settings import EmbeddingSettings
from mnemolite.settings.embeddings import BatchSettings

if TYPE_CHECKING:
    from mnemolite.embeddings.shared_cache import SharedCache

# One or two seconds of work on two cores; the worker's usual call of 512 short texts is one batch.
_DOCUMENTS = 512
_DOCUMENT_CHARACTERS = 128_000


class BatchingEmbedder:
    """Use it as an async context manager; it owns the embedder and closes it.

    ``parallel`` is how many calls of the embedder at once help: 1 for a model on this machine.
    """

    def __init__(
        self,
        embedder: Embedder,
        *,
        cache_bytes: int = 0,
        batches: BatchSettings | None = None,
        shared: "SharedCache | None" = None,
        parallel: int = 1,
    ) -> None:
        batches = batches or BatchSettings()
        self._embedder = embedder
        self._cache = VectorCache(cache_bytes)
        self._shared = shared
        self._space = embedder.info.digest
        queries = LaneLimits(
            texts=batches.batch_size,
            waiting=batches.queue_limit,
            window_seconds=batches.batch_window_ms / 1000,
            parallel=parallel,
        )
        documents = LaneLimits(texts=_DOCUMENTS, characters=_DOCUMENT_CHARACTERS, parallel=parallel)
        self._queries = Lane("query", self._embed_queries, limits=queries)
        self._documents = Lane("document", self._embed_documents, limits=documents)
        self._closed = False
        self.close_seconds: float | None = None
        """How long leaving the block waits for the batches in flight; None: as long as it takes."""
        self.model_bytes = 0
        """By how much resident memory grew when the model was loaded."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close(within_seconds=self.close_seconds)

    @property
    def info(self) -> ModelInfo:
        """The identity of the embedder behind this front."""
        return self._embedder.info

    def passages(self, text: str) -> list[Span]:
        """Cut a text; about half a second for a million characters, so not on the event loop."""
        return self._embedder.passages(text)

    def cache_stats(self) -> dict[str, int]:
        """Hits, misses, evictions and bytes of the cache of queries, and of Redis if it is used."""
        shared = self._shared.stats() if self._shared else {}
        return self._cache.stats() | shared

    def cache_fault(self) -> str | None:
        """Why the shared cache is not used at the moment, if it is not."""
        return self._shared.fault if self._shared else None

    async def embed_query(self, text: str) -> Vectors:
        """The vector of a query, read-only. Raises ModelBusyError when too many wait."""
        return (await self.embed_queries([text]))[0]

    async def embed_queries(self, texts: Sequence[str]) -> list[Vectors]:
        """The vectors of some queries, read-only; only those not in the cache are computed."""
        check_texts(texts)
        keys = [self._cache.key(text, space=self._space, kind="query") for text in texts]
        vectors = self._cache.get_many(keys)
        missing = [number for number, vector in enumerate(vectors) if vector is None]
        if missing:
            self._check_open()
            with metrics.part_time("embedding"):
                computed = await self._queries.submit([texts[number] for number in missing])
            for number, vector in zip(missing, computed, strict=True):
                vectors[number] = vector
            self._cache.put_many([keys[number] for number in missing], computed)
        return [vector for vector in vectors if vector is not None]

    async def embed_documents(self, texts: Sequence[str]) -> Vectors:
        """One row for each document, in their order. They do not go through the cache.

        A document is embedded once in its life, and thousands of them would push out the queries,
        which come again.
        """
        check_texts(texts)
        self._check_open()
        if not texts:
            return np.empty((0, self.info.dimension), np.float32)
        return np.stack(await self._documents.submit(texts))

    async def close(self, *, within_seconds: float | None = None) -> None:
        """Let the running batches end, refuse what waits, release the model.

        Batches that take longer than ``within_seconds`` are left behind.
        """
        self._closed = True
        error = _closed_error()
        lanes = (self._queries, self._documents)
        await asyncio.gather(*(lane.close(error, within_seconds) for lane in lanes))
        if self._shared is not None:
            await self._shared.close()
        await asyncio.to_thread(self._embedder.close)

    def _check_open(self) -> None:
        if self._closed:
            raise _closed_error()

    async def _embed_queries(self, texts: list[str]) -> Sequence[Vectors]:
        if self._shared is None:
            return list(await self._run(texts, "query"))
        keys = [self._cache.key(text, space=self._space, kind="query") for text in texts]
        found = await self._shared.get_many(keys)
        missing = [number for number, vector in enumerate(found) if vector is None]
        if missing:
            computed = await self._run([texts[number] for number in missing], "query")
            for number, vector in zip(missing, computed, strict=True):
                found[number] = vector
            await self._shared.put_many([keys[number] for number in missing], list(computed))
        return [vector for vector in found if vector is not None]

    async def _embed_documents(self, texts: list[str]) -> Sequence[Vectors]:
        return list(await self._run(texts, "document"))

    async def _run(self, texts: list[str], kind: Kind) -> Vectors:
        lane = self._queries if kind == "query" else self._documents
        with metrics.EMBEDDING_SECONDS.labels(kind).time():
            return await lane.in_thread(self._embedder.embed, texts, kind)


def wrap_embedder(embedder: Embedder, settings: EmbeddingSettings) -> BatchingEmbedder:
    """The front of an embedder with the batches and caches that the settings name.

    Raises SettingsError when they name a Redis and its client is not installed.
    """
    remote = settings.mode == "real" and settings.provider == "remote"
    return BatchingEmbedder(
        embedder,
        cache_bytes=settings.cache_size,
        batches=settings,
        shared=_open_shared(settings, embedder.info.dimension),
        parallel=settings.concurrency if remote else 1,
    )


def _open_shared(settings: EmbeddingSettings, dimension: int) -> "SharedCache | None":
    if settings.redis_url is None:
        return None
    if find_spec("redis") is None:
        raise SettingsError(
            "The client of Redis is not installed.",
            field="MNEMO_REDIS_URL",
            remedy="Install it with: pip install 'mnemolite[redis]'",
        )
    from mnemolite.embeddings.shared_cache import SharedCache

    return SharedCache(settings, dimension=dimension)


def _closed_error() -> EmbeddingError:
    return EmbeddingError("The embedder has been closed.")
