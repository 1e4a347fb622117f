"""The cache: bounded in bytes, least recently used out first, counted."""

import threading

import numpy as np
import pytest

from mnemolite.embeddings.cache import VectorCache

VECTOR = np.ones(384, np.float32)


def _key(text: str) -> bytes:
    return VectorCache.key(text, space="s", kind="query")


@pytest.fixture
def entry_bytes() -> int:
    cache = VectorCache(10**6)
    cache.put(_key("a"), VECTOR)
    return cache.stats()["bytes"]


def test_it_counts_hits_and_misses() -> None:
    cache = VectorCache(10**6)
    assert cache.get(_key("a")) is None
    cache.put(_key("a"), VECTOR)
    cached = cache.get(_key("a"))
    assert cached is not None
    assert np.array_equal(cached, VECTOR)
    assert {"hits": 1, "misses": 1, "evictions": 0}.items() <= cache.stats().items()


def test_the_least_recently_used_goes_first(entry_bytes: int) -> None:
    cache = VectorCache(entry_bytes * 2)
    for text in ("a", "b"):
        cache.put(_key(text), VECTOR)
    cache.get(_key("a"))
    cache.put(_key("c"), VECTOR)
    kept = {text: cache.get(_key(text)) is not None for text in "abc"}
    assert kept == {"a": True, "b": False, "c": True}
    assert cache.stats()["evictions"] == 1
    assert cache.stats()["bytes"] == entry_bytes * 2


def test_putting_twice_counts_once(entry_bytes: int) -> None:
    cache = VectorCache(10**6)
    cache.put(_key("a"), VECTOR)
    cache.put(_key("a"), VECTOR)
    assert cache.stats()["bytes"] == entry_bytes


@pytest.mark.parametrize("size", [0, 100])
def test_what_does_not_fit_is_not_kept(size: int) -> None:
    cache = VectorCache(size)
    cache.put(_key("a"), VECTOR)
    assert cache.get(_key("a")) is None
    assert cache.stats()["bytes"] == 0


def test_a_cached_vector_cannot_be_changed() -> None:
    cache = VectorCache(10**6)
    mine = VECTOR.copy()
    cache.put(_key("a"), mine)
    mine[0] = 7
    cached = cache.get(_key("a"))
    assert cached is not None
    assert cached[0] == 1
    with pytest.raises(ValueError, match="read-only"):
        cached[0] = 7


def test_space_kind_and_text_each_change_the_key() -> None:
    keys = {
        VectorCache.key("a", space="s", kind="query"),
        VectorCache.key("b", space="s", kind="query"),
        VectorCache.key("a", space="t", kind="query"),
        VectorCache.key("a", space="s", kind="document"),
    }
    assert len(keys) == 4


def test_threads_keep_the_account_straight(entry_bytes: int) -> None:
    cache = VectorCache(entry_bytes * 10)

    def work(number: int) -> None:
        for step in range(300):
            key = _key(f"{(number + step) % 25}")
            if cache.get(key) is None:
                cache.put(key, VECTOR)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    stats = cache.stats()
    assert stats["bytes"] == entry_bytes * 10
    assert stats["hits"] + stats["misses"] == 4 * 300
