"""The second level of the cache: vectors in a Redis that processes share, and can do without.

An entry is a version byte and the numbers as little-endian float32; one that is anything else is
not used. A Redis that fails is left alone for some seconds, so that no search waits for it again
and again; that it failed is logged once, counted, and told by `/health`.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import numpy as np
import redis.asyncio
import structlog
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from mnemolite import metrics
from mnemolite.embeddings import Vectors
from mnemolite.errors import SettingsError
from mnemolite.settings import EmbeddingSettings

log = structlog.get_logger(__name__)

T = TypeVar("T")

_PREFIX = b"mnemolite:vector:"
_VERSION = b"\x01"
_LEFT_ALONE_SECONDS = 5.0
_UNIT_TOLERANCE = 1e-3


class SharedCache:
    """Vectors of one space in Redis, found by the keys of ``VectorCache``."""

    def __init__(self, settings: EmbeddingSettings, *, dimension: int) -> None:
        url = settings.redis_url.get_secret_value() if settings.redis_url else ""
        self._seconds = settings.redis_timeout_ms / 1000
        self._lifetime = settings.redis_ttl_seconds
        self._dimension = dimension
        self._away_until = 0.0
        self._counts = {"shared_hits": 0, "shared_misses": 0, "shared_faults": 0}
        self.fault: str | None = None
        try:
            self._redis = redis.asyncio.Redis.from_url(
                url,
                socket_timeout=self._seconds,
                socket_connect_timeout=self._seconds,
                retry=Retry(NoBackoff(), 0),
            )
        except ValueError as error:
            raise SettingsError(
                f"This is not the address of a Redis: {error}.",
                field="MNEMO_REDIS_URL",
                remedy="Write it as redis://user:password@host:6379/0.",
            ) from None

    async def get_many(self, keys: Sequence[bytes]) -> list[Vectors | None]:
        """For each key the vector, read-only, or None; all None while Redis does not answer."""
        names = [_PREFIX + key for key in keys]
        answer = await self._call(lambda: self._redis.mget(names))
        if answer is None:
            return [None] * len(keys)
        found = [self._vector(value) for value in answer]
        hits = sum(vector is not None for vector in found)
        self._counts["shared_hits"] += hits
        self._counts["shared_misses"] += len(found) - hits
        return found

    async def put_many(self, keys: Sequence[bytes], vectors: Sequence[Vectors]) -> None:
        """Keep some vectors for the lifetime that the settings name."""
        pipeline = self._redis.pipeline(transaction=False)
        for key, vector in zip(keys, vectors, strict=True):
            value = _VERSION + np.asarray(vector, "<f4").tobytes()
            pipeline.set(_PREFIX + key, value, ex=self._lifetime)
        await self._call(pipeline.execute)

    async def close(self) -> None:
        """End the connections."""
        await self._redis.aclose()

    def stats(self) -> dict[str, int]:
        """Hits and misses in Redis, and calls of it that failed."""
        return dict(self._counts)

    async def _call(self, command: Callable[[], Awaitable[T]]) -> T | None:
        """Run a command in bounded time; None when Redis fails or is left alone."""
        if time.monotonic() < self._away_until:
            return None
        try:
            # Connecting and answering may take the time-out each.
            async with asyncio.timeout(self._seconds * 2):
                answer = await command()
        except (RedisError, OSError) as error:  # TimeoutError is an OSError
            self._note_fault(error)
            return None
        if self.fault is not None:
            log.info("redis_back")
        self.fault = None
        metrics.REDIS_UP.set(1)
        return answer

    def _note_fault(self, error: Exception) -> None:
        self._counts["shared_faults"] += 1
        self._away_until = time.monotonic() + _LEFT_ALONE_SECONDS
        metrics.REDIS_UP.set(0)
        if self.fault is None:
            log.warning("redis_gone", error=type(error).__name__)
        self.fault = f"Redis does not answer ({type(error).__name__}): vectors are not shared"

    def _vector(self, value: object) -> Vectors | None:
        size = len(_VERSION) + 4 * self._dimension
        if not isinstance(value, bytes) or len(value) != size or value[:1] != _VERSION:
            return None
        vector = np.frombuffer(value, "<f4", offset=1)
        is_whole = abs(float(np.linalg.norm(vector)) - 1) <= _UNIT_TOLERANCE  # False for NaN
        return vector if is_whole else None
