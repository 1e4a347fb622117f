"""The cache in Redis: shared, versioned, checked, and no loss when it is gone."""

import socket
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis

from mnemolite import metrics
from mnemolite.embeddings import Kind, Vectors
from mnemolite.embeddings.batching import BatchingEmbedder, wrap_embedder
from mnemolite.embeddings.mock import MockEmbedder
from mnemolite.embeddings.shared_cache import SharedCache
from mnemolite.errors import SettingsError
from mnemolite.settings import EmbeddingSettings
from tests.redis_server import RedisServer

KEYS = [bytes([number]) * 32 for number in range(3)]


class CountingEmbedder(MockEmbedder):
    """The mock, which writes down what it was asked."""

    def __init__(self) -> None:
        super().__init__(16)
        self.seen: list[str] = []

    def embed(self, texts: Sequence[str], kind: Kind) -> Vectors:
        self.seen += texts
        return super().embed(texts, kind)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    started = RedisServer(tmp_path)
    yield started
    started.stop()


def settings_of(url: str, **changes: Any) -> EmbeddingSettings:
    values: dict[str, Any] = {"mode": "mock", "redis_url": url, "redis_timeout_ms": 2000}
    return EmbeddingSettings(**(values | changes))


@pytest.fixture
async def cache(server: RedisServer) -> AsyncIterator[SharedCache]:
    opened = SharedCache(settings_of(server.url), dimension=16)
    yield opened
    await opened.close()


@pytest.fixture
def client(server: RedisServer) -> Iterator[redis.Redis]:
    with redis.Redis(port=server.port) as opened:
        yield opened


def vectors(count: int) -> Vectors:
    return MockEmbedder(16).embed([f"text {number}" for number in range(count)], "query")


def front_of(server: RedisServer, embedder: MockEmbedder) -> BatchingEmbedder:
    return wrap_embedder(embedder, settings_of(server.url, cache_size=0))


async def test_what_is_put_is_found_and_the_rest_is_not(cache: SharedCache) -> None:
    assert await cache.get_many(KEYS) == [None, None, None]
    await cache.put_many(KEYS[:2], list(vectors(2)))
    found = await cache.get_many(KEYS)
    assert found[2] is None
    assert np.array_equal(np.stack([row for row in found[:2] if row is not None]), vectors(2))
    assert cache.stats() == {"shared_hits": 2, "shared_misses": 4, "shared_faults": 0}


async def test_a_vector_lives_as_long_as_the_settings_say(
    server: RedisServer, client: redis.Redis
) -> None:
    cache = SharedCache(settings_of(server.url, redis_ttl_seconds=100), dimension=16)
    await cache.put_many(KEYS[:1], list(vectors(1)))
    await cache.close()
    (name,) = client.keys()
    assert 0 < client.ttl(name) <= 100


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"\x01",
        b"\x02" + bytes(64),
        b"\x01" + bytes(60),
        b"\x01" + bytes(64),
        b"\x01" + np.full(16, np.nan, "<f4").tobytes(),
        b"\x01" + np.full(16, np.inf, "<f4").tobytes(),
        b"\x01" + np.full(16, 3, "<f4").tobytes(),
    ],
)
async def test_an_entry_that_is_no_vector_is_not_used(
    cache: SharedCache, client: redis.Redis, value: bytes
) -> None:
    client.set(b"mnemolite:vector:" + KEYS[0], value)
    assert await cache.get_many(KEYS[:1]) == [None]


async def test_a_value_of_another_type_is_not_used(cache: SharedCache, client: redis.Redis) -> None:
    client.rpush(b"mnemolite:vector:" + KEYS[0], b"a list")
    assert await cache.get_many(KEYS[:1]) == [None]


async def test_processes_share_their_vectors(server: RedisServer) -> None:
    one, other = CountingEmbedder(), CountingEmbedder()
    async with front_of(server, one) as first:
        expected = await first.embed_queries(["a", "b"])
    async with front_of(server, other) as second:
        found = await second.embed_queries(["b", "c", "a"])
    assert (one.seen, other.seen) == (["a", "b"], ["c"])
    assert np.array_equal(found[2], expected[0])


async def test_without_redis_the_service_goes_on_and_says_so(
    server: RedisServer, capsys: pytest.CaptureFixture[str]
) -> None:
    async with front_of(server, CountingEmbedder()) as front:
        await front.embed_query("a")
        assert front.cache_fault() is None
        server.stop()
        for text in ("a", "b", "c"):
            assert (await front.embed_query(text)).shape == (16,)
        fault = front.cache_fault()
        assert fault is not None
        assert "Redis" in fault
        assert front.cache_stats()["shared_faults"] == 1
        assert b"\nmnemolite_redis_up 0.0\n" in metrics.render()
        assert capsys.readouterr().out.count("redis_gone") == 1


async def test_a_redis_that_is_back_is_used_again(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mnemolite.embeddings.shared_cache._LEFT_ALONE_SECONDS", 0.0)
    embedder = CountingEmbedder()
    async with front_of(server, embedder) as front:
        server.stop()
        await front.embed_query("a")
        assert front.cache_fault()
        server.start()
        await front.embed_query("b")
        await front.embed_query("b")
        assert front.cache_fault() is None
    assert embedder.seen == ["a", "b"]


async def test_a_redis_that_never_answers_is_not_waited_for() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"redis://127.0.0.1:{silent.getsockname()[1]}/0"
        cache = SharedCache(settings_of(url, redis_timeout_ms=20), dimension=16)
        assert await cache.get_many(KEYS) == [None, None, None]
        assert cache.fault
        await cache.close()


def test_an_address_that_is_none_is_named() -> None:
    with pytest.raises(SettingsError) as caught:
        SharedCache(settings_of("http://example.org"), dimension=16)
    assert caught.value.field == "MNEMO_REDIS_URL"
