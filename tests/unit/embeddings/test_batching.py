"""The async front: joining, overtaking, cancelling, caching, closing."""

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence

import numpy as np
import pytest

from mnemolite.embeddings import Kind, Vectors
from mnemolite.embeddings.batching import BatchingEmbedder
from mnemolite.embeddings.mock import MockEmbedder
from mnemolite.errors import EmbeddingError, InvalidInputError

CACHE_BYTES = 100_000


class GatedEmbedder(MockEmbedder):
    """An embedder that works when it is told to, keeps account, and fails on demand."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()
        self.calls: list[tuple[Kind, list[str]]] = []
        self.closed = False

    def embed(self, texts: Sequence[str], kind: Kind) -> Vectors:
        self.calls.append((kind, list(texts)))
        assert self.gate.wait(timeout=30)
        if "poison" in texts:
            raise EmbeddingError("poisoned")
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


async def test_queries_overtake_documents(front: BatchingEmbedder, gated: GatedEmbedder) -> None:
    documents = asyncio.create_task(
        front.embed_documents(["long " * 1500 + str(n) for n in range(5)])
    )
    await _until_called(gated)
    query = asyncio.create_task(front.embed_query("urgent"))
    await asyncio.sleep(0)
    gated.gate.set()
    await asyncio.gather(documents, query)
    assert [kind for kind, _ in gated.calls] == ["document", "query", *["document"] * 4]


async def test_documents_keep_their_order_over_slices(
    front: BatchingEmbedder, gated: GatedEmbedder
) -> None:
    gated.gate.set()
    texts = [f"{number} " * (number * 37 % 400 + 1) for number in range(60)]
    vectors = await front.embed_documents(texts)
    assert np.array_equal(vectors, MockEmbedder().embed(texts, "document"))
    assert len(gated.calls) > 2


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
    documents = asyncio.create_task(front.embed_documents(["long " * 800] * 4))
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


async def test_a_failed_slice_fails_its_call_only(
    front: BatchingEmbedder, gated: GatedEmbedder
) -> None:
    gated.gate.set()
    with pytest.raises(EmbeddingError, match="poisoned"):
        await front.embed_documents(["poison", "long " * 800, "long " * 801])
    assert (await front.embed_documents(["fine"])).shape == (1, 384)


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


async def test_closing_ends_the_running_batch_and_refuses_what_waits(
    gated: GatedEmbedder,
) -> None:
    front = BatchingEmbedder(gated)
    running = asyncio.create_task(front.embed_query("running"))
    await _until_called(gated)
    waiting = [
        asyncio.create_task(front.embed_query("waiting")),
        asyncio.create_task(front.embed_documents(["waiting"])),
    ]
    await asyncio.sleep(0)
    closing = asyncio.create_task(front.close())
    await asyncio.sleep(0)
    gated.gate.set()
    await closing
    assert (await running).shape == (384,)
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(outcome, EmbeddingError) for outcome in outcomes)
    assert gated.closed
    with pytest.raises(EmbeddingError, match="closed"):
        await front.embed_query("late")


async def test_many_callers_at_once(front: BatchingEmbedder, gated: GatedEmbedder) -> None:
    gated.gate.set()
    texts = [f"query {number % 150}" for number in range(300)]
    vectors = await asyncio.gather(*(front.embed_query(text) for text in texts))
    assert np.array_equal(np.stack(vectors), MockEmbedder().embed(texts, "query"))
    assert sum(len(batch) for _, batch in gated.calls) == 150
