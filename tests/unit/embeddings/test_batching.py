"""The async front: joining, overtaking, cancelling, caching, closing."""

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence

import numpy as np
import pytest

from mnemolite.embeddings import Kind, Vectors
from mnemolite.embeddings.batching import BatchingEmbedder
from mnemolite.embeddings.mock import MockEmbedder
from mnemolite.errors import (
    EmbeddingError,
    InvalidInputError,
    ModelBusyError,
    ModelUnavailableError,
)
from mnemolite.settings.embeddings import BatchSettings

CACHE_BYTES = 100_000


class GatedEmbedder(MockEmbedder):
    """An embedder that works when it is told to, keeps account, and fails on demand."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()
        self.calls: list[tuple[Kind, list[str]]] = []
        self.closed = False
        self.ungated: Kind | None = None

    def embed(self, texts: Sequence[str], kind: Kind) -> Vectors:
        self.calls.append((kind, list(texts)))
        assert kind == self.ungated or self.gate.wait(timeout=60)
        if "poison" in texts:
            raise EmbeddingError("poisoned")
        if "outage" in texts:
            raise ModelUnavailableError("gone")
        return super().embed(texts, kind)

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def gated() -> GatedEmbedder:
    return GatedEmbedder()


@pytest.fixture
async def front(gated: GatedEmbedder) -> AsyncIterator[BatchingEmbedder]:
    async with BatchingEmbedder(gated, cache_bytes=CACHE_BYTES) as front:
        yield front
        gated.gate.set()


async def _until_called(gated: GatedEmbedder, times: int = 1) -> None:
    async with asyncio.timeout(30):
        while len(gated.calls) < times:
            await asyncio.sleep(0.001)


async def test_vectors_are_the_embedders(front: BatchingEmbedder, gated: GatedEmbedder) -> None:
    gated.gate.set()
    texts = ["a long text first", "b", "middle one"]
    expected = MockEmbedder().embed(texts, "document")
    assert np.array_equal(await front.embed_documents(texts), expected)
    assert np.array_equal(await front.embed_query("b"), expected[1])


async def test_queries_that_wait_are_joined(front: BatchingEmbedder, gated: GatedEmbedder) -> None:
    first = asyncio.create_task(front.embed_query("first"))
    await _until_called(gated)
    others = [asyncio.create_task(front.embed_query(text)) for text in ("a", "b", "a")]
    await asyncio.sleep(0)
    gated.gate.set()
    vectors = await asyncio.gather(first, *others)
    assert gated.calls == [("query", ["first"]), ("query", ["a", "b"])]
    assert np.array_equal(vectors[1], vectors[3])


async def test_a_text_in_flight_is_not_computed_again(
    front: BatchingEmbedder, gated: GatedEmbedder
) -> None:
    first = asyncio.create_task(front.embed_query("same"))
    await _until_called(gated)
    second = asyncio.create_task(front.embed_query("same"))
    await asyncio.sleep(0)
    gated.gate.set()
    assert np.array_equal(await first, await second)
    assert len(gated.calls) == 1


async def test_queries_do_not_wait_for_documents(
    front: BatchingEmbedder, gated: GatedEmbedder
) -> None:
    gated.ungated = "query"
    documents = asyncio.create_task(front.embed_documents(["one", "two"]))
    await _until_called(gated)
    assert (await front.embed_query("urgent")).shape == (384,)
    assert not documents.done()
    gated.gate.set()
    assert (await documents).shape == (2, 384)


async def test_documents_keep_their_order_over_batches(
    front: BatchingEmbedder, gated: GatedEmbedder
) -> None:
    gated.gate.set()
    texts = [f"{number} " * (number * 37 % 400 + 1) * 10 for number in range(60)]
    vectors = await front.embed_documents(texts)
    assert np.array_equal(vectors, MockEmbedder().embed(texts, "document"))
    assert len(gated.calls) > 2


async def test_documents_of_many_callers_are_joined_and_equal_ones_computed_once(
    front: BatchingEmbedder, gated: GatedEmbedder
) -> None:
    first = asyncio.create_task(front.embed_documents(["running"]))
    await _until_called(gated)
    calls = [["a", "b", "a"], ["b", "running"], ["c"]]
    others = [asyncio.create_task(front.embed_documents(texts)) for texts in calls]
    await asyncio.sleep(0)
    gated.gate.set()
    await first
    for texts, vectors in zip(calls, await asyncio.gather(*others), strict=True):
        assert np.array_equal(vectors, MockEmbedder().embed(texts, "document"))
    assert [sorted(texts) for _, texts in gated.calls] == [["running"], ["a", "b", "c"]]


async def test_a_small_call_does_not_wait_for_a_huge_one(
    front: BatchingEmbedder, gated: GatedEmbedder
) -> None:
    huge = asyncio.create_task(front.embed_documents([f"text {n}" for n in range(3000)]))
    await _until_called(gated)
    small = asyncio.create_task(front.embed_documents(["small"]))
    await asyncio.sleep(0)
    gated.gate.set()
    await asyncio.gather(huge, small)
    assert "small" in gated.calls[1][1]
    assert len(gated.calls) > 4


async def test_no_documents(front: BatchingEmbedder, gated: GatedEmbedder) -> None:
    assert (await front.embed_documents([])).shape == (0, 384)
    assert gated.calls == []


async def test_a_cancelled_caller_does_not_cancel_the_others(
    front: BatchingEmbedder, gated: GatedEmbedder
) -> None:
    blocking = asyncio.create_task(front.embed_query("first"))
    await _until_called(gated)
    tasks = [asyncio.create_task(front.embed_query(text)) for text in ("a", "a", "b", "c")]
    await asyncio.sleep(0)
    for cancelled in (blocking, tasks[0], tasks[3]):
        cancelled.cancel()
    gated.gate.set()
    assert (await tasks[1]).shape == (await tasks[2]).shape
    assert gated.calls[1:] == [("query", ["a", "b"])]


async def test_cancelled_documents_are_not_computed(
    front: BatchingEmbedder, gated: GatedEmbedder
) -> None:
    documents = asyncio.create_task(
        front.embed_documents([f"{number} " + "long " * 8000 for number in range(8)])
    )
    await _until_called(gated)
    documents.cancel()
    with pytest.raises(asyncio.CancelledError):
        await documents
    gated.gate.set()
    await front.embed_query("after")
    assert [kind for kind, _ in gated.calls] == ["document", "query"]


async def test_one_bad_query_does_not_spoil_the_others(
    front: BatchingEmbedder, gated: GatedEmbedder
) -> None:
    first = asyncio.create_task(front.embed_query("first"))
    await _until_called(gated)
    tasks = [asyncio.create_task(front.embed_query(text)) for text in ("a", "poison", "b")]
    await asyncio.sleep(0)
    gated.gate.set()
    await first
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(outcomes[1], EmbeddingError)
    assert [isinstance(outcome, np.ndarray) for outcome in outcomes] == [True, False, True]


async def test_failed_documents_fail_their_caller_only(
    front: BatchingEmbedder, gated: GatedEmbedder
) -> None:
    first = asyncio.create_task(front.embed_documents(["running"]))
    await _until_called(gated)
    calls = (["fine", "too"], ["poison", "shared"], ["shared"])
    tasks = [asyncio.create_task(front.embed_documents(texts)) for texts in calls]
    await asyncio.sleep(0)
    gated.gate.set()
    await first
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert [isinstance(outcome, EmbeddingError) for outcome in outcomes] == [False, True, False]
    assert (await front.embed_documents(["fine"])).shape == (1, 384)


async def test_a_model_that_is_gone_is_not_asked_for_each_caller(
    front: BatchingEmbedder, gated: GatedEmbedder
) -> None:
    first = asyncio.create_task(front.embed_query("running"))
    await _until_called(gated)
    tasks = [asyncio.create_task(front.embed_query(text)) for text in ("a", "outage", "b")]
    await asyncio.sleep(0)
    gated.gate.set()
    await first
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(outcome, ModelUnavailableError) for outcome in outcomes)
    assert len(gated.calls) == 2


async def test_queries_beyond_the_limit_are_refused(gated: GatedEmbedder) -> None:
    batches = BatchSettings(queue_limit=2)
    async with BatchingEmbedder(gated, batches=batches) as front:
        running = asyncio.create_task(front.embed_query("running"))
        await _until_called(gated)
        waiting = [asyncio.create_task(front.embed_query(text)) for text in ("a", "b")]
        await asyncio.sleep(0)
        with pytest.raises(ModelBusyError) as caught:
            await front.embed_query("c")
        assert (caught.value.status, caught.value.retry_after) == (503, 1)
        gated.gate.set()
        await asyncio.gather(running, *waiting)
        assert (await front.embed_query("c")).shape == (384,)


async def test_a_window_waits_for_company(gated: GatedEmbedder) -> None:
    gated.gate.set()
    async with BatchingEmbedder(gated, batches=BatchSettings(batch_window_ms=100)) as front:
        first = asyncio.create_task(front.embed_query("a"))
        await asyncio.sleep(0.001)
        await asyncio.gather(first, front.embed_query("b"))
    assert gated.calls == [("query", ["a", "b"])]


async def test_a_batch_has_at_most_so_many_queries(gated: GatedEmbedder) -> None:
    gated.gate.set()
    async with BatchingEmbedder(gated, batches=BatchSettings(batch_size=3)) as front:
        await asyncio.gather(*(front.embed_query(f"{number}") for number in range(7)))
    assert sorted(len(texts) for _, texts in gated.calls) == [1, 3, 3]


async def test_more_batches_than_one_run_at_once_if_that_helps(gated: GatedEmbedder) -> None:
    async with BatchingEmbedder(gated, parallel=2) as front:
        tasks = [asyncio.create_task(front.embed_query("a"))]
        await _until_called(gated)
        tasks.append(asyncio.create_task(front.embed_query("b")))
        await _until_called(gated, 2)
        gated.gate.set()
        await asyncio.gather(*tasks)


async def test_of_several_queries_only_the_misses_are_computed(
    front: BatchingEmbedder, gated: GatedEmbedder
) -> None:
    gated.gate.set()
    await front.embed_query("known")
    vectors = await front.embed_queries(["new", "known", "new"])
    expected = MockEmbedder().embed(["new", "known", "new"], "query")
    assert np.array_equal(np.stack(vectors), expected)
    assert gated.calls == [("query", ["known"]), ("query", ["new"])]


async def test_large_calls_end_one_after_the_other(
    front: BatchingEmbedder, gated: GatedEmbedder
) -> None:
    first = asyncio.create_task(front.embed_documents(["running"]))
    await _until_called(gated)
    calls = [[f"{name} {number}" for number in range(512)] for name in "ab"]
    one, other = (asyncio.create_task(front.embed_documents(texts)) for texts in calls)
    await asyncio.sleep(0)
    gated.gate.set()
    await asyncio.gather(first, one, other)
    assert [set(texts) for _, texts in gated.calls[1:]] == [set(texts) for texts in calls]


@pytest.mark.parametrize("text", ["", " \n\t"])
async def test_blank_texts_are_refused_before_any_work(
    front: BatchingEmbedder, gated: GatedEmbedder, text: str
) -> None:
    with pytest.raises(InvalidInputError):
        await front.embed_query(text)
    with pytest.raises(InvalidInputError, match=r"texts\[1\]"):
        await front.embed_documents(["fine", text])
    assert gated.calls == []


async def test_a_query_is_cached(front: BatchingEmbedder, gated: GatedEmbedder) -> None:
    gated.gate.set()
    first = await front.embed_query("again")
    second = await front.embed_query("again")
    assert np.array_equal(first, second)
    assert len(gated.calls) == 1
    assert front.cache_stats()["hits"] == 1
    with pytest.raises(ValueError, match="read-only"):
        first[0] = 0


async def test_without_a_cache_every_query_is_computed(gated: GatedEmbedder) -> None:
    gated.gate.set()
    async with BatchingEmbedder(gated, cache_bytes=0) as front:
        await front.embed_query("again")
        await front.embed_query("again")
        assert front.cache_stats() == {"hits": 0, "misses": 0, "evictions": 0, "bytes": 0}
    assert len(gated.calls) == 2


async def test_closing_ends_the_running_batches_and_refuses_what_waits(
    gated: GatedEmbedder,
) -> None:
    front = BatchingEmbedder(gated)
    running = [
        asyncio.create_task(front.embed_query("running")),
        asyncio.create_task(front.embed_documents(["running"])),
    ]
    await _until_called(gated, 2)
    waiting = [
        asyncio.create_task(front.embed_query("waiting")),
        asyncio.create_task(front.embed_documents(["waiting"])),
    ]
    await asyncio.sleep(0)
    closing = asyncio.create_task(front.close())
    await asyncio.sleep(0)
    gated.gate.set()
    await closing
    assert all(isinstance(outcome, np.ndarray) for outcome in await asyncio.gather(*running))
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(outcome, EmbeddingError) for outcome in outcomes)
    assert gated.closed
    with pytest.raises(EmbeddingError, match="closed"):
        await front.embed_query("late")


async def test_closing_waits_no_longer_than_allowed(gated: GatedEmbedder) -> None:
    front = BatchingEmbedder(gated)
    running = asyncio.create_task(front.embed_query("running"))
    await _until_called(gated)
    await front.close(within_seconds=0.01)
    with pytest.raises(EmbeddingError, match="closed"):
        await running
    gated.gate.set()


async def test_many_callers_at_once(front: BatchingEmbedder, gated: GatedEmbedder) -> None:
    gated.gate.set()
    texts = [f"query {number % 150}" for number in range(300)]
    vectors = await asyncio.gather(*(front.embed_query(text) for text in texts))
    assert np.array_equal(np.stack(vectors), MockEmbedder().embed(texts, "query"))
    assert sum(len(batch) for _, batch in gated.calls) == 150
