"""Reranking inside a search: its order, its limits, and what happens when it does not come."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog

from mnemolite.app import create_app
from mnemolite.errors import InvalidInputError, RerankerUnavailableError, SettingsError
from mnemolite.memory import Memory
from mnemolite.models import Hit, NewEvent, SearchQuery, SearchResult
from mnemolite.settings import RerankerSettings, Settings
from mnemolite.worker import Worker
from tests.rerankers import (
    Answer,
    Items,
    RerankServer,
    build_cross_encoder,
    needs_cross_encoder,
    rerank_server,
)

PAIRS = 4
KEY = "sk-very-secret-0123456789"
TURNS = [f"The boat number {number} leaves " + "soon " * number for number in range(8)]


def the_last_is_best(items: Items) -> Items:
    return [item | {"score": float(item["index"])} for item in items]


@pytest.fixture
async def server() -> AsyncIterator[RerankServer]:
    async with rerank_server() as started:
        started.default = Answer(tamper=the_last_is_best)
        yield started


def reranked(settings: Settings, url: str, **others: Any) -> Settings:
    fields: dict[str, Any] = {"pairs": PAIRS, "deadline_seconds": 10, "api_key": KEY} | others
    reranker = RerankerSettings(provider="tei", url=url, **fields)
    return settings.model_copy(update={"reranker": reranker})


async def filled(memory: Memory) -> Memory:
    events = [NewEvent(content={"text": text, "speaker": "Ada"}, metadata={"n": number % 2},
                       timestamp="2023-05-08T13:56:00Z")
              for number, text in enumerate(TURNS)]  # fmt: skip
    await memory.add_many(events)
    await Worker(memory).drain()
    return memory


@pytest.fixture
async def asked(settings: Settings, server: RerankServer) -> AsyncIterator[Memory]:
    """A memory whose reranker prefers the last of what it is given."""
    async with Memory.open(reranked(settings, server.url)) as memory:
        yield await filled(memory)


@pytest.fixture
async def hasty(settings: Settings, server: RerankServer) -> AsyncIterator[Memory]:
    """A memory with a short deadline and a server that sleeps."""
    server.default = Answer(delay_seconds=60)
    async with Memory.open(reranked(settings, server.url, deadline_seconds=0.05)) as memory:
        yield await filled(memory)


async def search(memory: Memory, **others: Any) -> SearchResult:
    return await memory.search(SearchQuery(**{"q": "boat leaves", "limit": 8} | others))


def texts(result: SearchResult) -> list[str]:
    return [hit.text for hit in result.data]


# --- The order ----------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["hybrid", "vector", "text"])
async def test_the_best_come_in_the_rerankers_order_and_then_the_rest(
    asked: Memory, mode: str
) -> None:
    before = await search(asked, mode=mode, rerank=False)
    after = await search(asked, mode=mode)
    assert len(before.data) == 8
    assert texts(after) == texts(before)[:PAIRS][::-1] + texts(before)[PAIRS:]
    assert [hit.rerank_score for hit in after.data] == [3, 2, 1, 0, None, None, None, None]
    assert sorted(scores(after.data)) == sorted(scores(before.data))


def scores(hits: list[Hit]) -> list[float]:
    return [hit.score for hit in hits]


async def test_a_small_limit_shows_the_best_of_all_pairs(asked: Memory) -> None:
    best = texts(await search(asked, rerank=False))[PAIRS - 1]
    after = await search(asked, limit=1)
    assert (texts(after), after.meta.count) == ([best], 1)


async def test_equal_scores_keep_their_order(asked: Memory, server: RerankServer) -> None:
    server.default = Answer(tamper=lambda items: [item | {"score": 0} for item in items])
    assert texts(await search(asked)) == texts(await search(asked, rerank=False))


async def test_the_answer_says_what_was_done(asked: Memory) -> None:
    meta = (await search(asked)).meta.rerank
    assert meta is not None
    assert meta.model_dump(exclude={"ms"}) == {
        "provider": "tei", "model": "the server's own", "pairs": PAIRS, "applied": True,
        "reason": None,
    }  # fmt: skip
    assert meta.ms > 0


async def test_a_request_can_do_without(asked: Memory, server: RerankServer) -> None:
    result = await search(asked, rerank=False)
    assert result.meta.rerank is None
    assert {hit.rerank_score for hit in result.data} == {None}
    assert server.asked == []


async def test_no_more_than_the_pairs_are_judged(asked: Memory, server: RerankServer) -> None:
    await search(asked, limit=200)
    assert [len(one.payload["texts"]) for one in server.asked] == [PAIRS]


async def test_only_what_passes_the_filters_is_judged(asked: Memory, server: RerankServer) -> None:
    result = await search(asked, where={"n": 1}, limit=2)
    assert {hit.metadata["n"] for hit in result.data} == {1}
    odd = {f"number {number}" for number in (1, 3, 5, 7)}
    assert {text[text.index("number") :][:8] for text in server.asked[0].payload["texts"]} == odd


async def test_the_least_similarity_stays_true(asked: Memory) -> None:
    everything = await search(asked, rerank=False)
    floor = sorted(hit.similarity or 0 for hit in everything.data)[4]
    result = await search(asked, min_similarity=floor)
    assert len(result.data) == 4
    assert all((hit.similarity or 0) >= floor for hit in result.data)


async def test_nothing_found_is_nothing_judged(asked: Memory, server: RerankServer) -> None:
    result = await search(asked, namespace="elsewhere")
    assert result.data == []
    assert server.asked == []


async def test_a_vector_without_words_is_not_judged(asked: Memory, server: RerankServer) -> None:
    result = await search(asked, q="", vector=[1.0] * 16)
    assert len(result.data) == 8
    assert (result.meta.rerank, server.asked) == (None, [])


# --- What is judged -----------------------------------------------------------------------------


async def test_an_event_is_judged_as_it_is_embedded(asked: Memory, server: RerankServer) -> None:
    await search(asked, limit=1)
    for text in server.asked[0].payload["texts"]:
        assert text.startswith('On 8 May 2023, Ada said: "The boat number ')
    assert server.asked[0].payload["query"] == "boat leaves"


@pytest.mark.parametrize("mode", ["hybrid", "text"])
async def test_a_long_event_is_judged_by_a_passage(
    asked: Memory, server: RerankServer, mode: str
) -> None:
    filler = "We talked about the weather, the garden and what to cook on Sunday. " * 60
    text = f"{filler} The spare key is under the flowerpot. {filler}"
    # Alone in its namespace: mock vectors are no reason to be among the best.
    await asked.add(NewEvent(namespace="long", content={"text": text}))
    await Worker(asked).drain()
    await search(asked, q="spare key flowerpot", mode=mode, namespace="long")
    long = [text for text in server.asked[-1].payload["texts"] if "weather" in text]
    assert len(long) == 1
    assert len(long[0]) < 3000
    if mode == "text":
        assert "The spare key is under the flowerpot." in long[0]


# --- When it does not come ----------------------------------------------------------------------


async def test_after_the_deadline_the_answer_is_unreranked_and_says_so(hasty: Memory) -> None:
    result = await search(hasty)
    assert texts(result) == texts(await search(hasty, rerank=False))
    assert {hit.rerank_score for hit in result.data} == {None}
    meta = result.meta.rerank
    assert meta is not None
    assert (meta.applied, meta.pairs) == (False, PAIRS)
    assert meta.reason is not None
    assert meta.reason.startswith("reranking_timeout: ")


async def test_without_an_answer_the_limit_stays_true(hasty: Memory) -> None:
    result = await search(hasty, limit=2)
    assert texts(result) == texts(await search(hasty, rerank=False))[:2]


async def test_a_failure_is_named_and_kept_out_of_the_key(
    asked: Memory, server: RerankServer
) -> None:
    server.default = Answer(status=401, body=b"who are you?")
    with structlog.testing.capture_logs() as lines:
        result = await search(asked)
    assert len(result.data) == 8
    assert result.meta.rerank is not None
    assert "401: who are you?" in str(result.meta.rerank.reason)
    assert [line["event"] for line in lines] == ["not_reranked"]
    assert KEY not in f"{lines}{result!r}{asked.settings!r}{asked.settings.model_dump_json()}"


async def test_after_three_failures_in_a_row_nobody_asks_for_a_while(
    asked: Memory, server: RerankServer
) -> None:
    bad, good = Answer(status=400), server.default
    server.answers = [bad, bad, good, bad, bad, bad]
    outcomes = [(await search(asked)).meta.rerank for _ in range(8)]
    assert [one.applied for one in outcomes if one] == [False] * 2 + [True] + [False] * 5
    assert len(server.asked) == 6
    assert outcomes[-1] is not None
    assert str(outcomes[-1].reason).startswith("paused after 3 failures: reranking_failed: ")


async def test_health_names_the_reranker_and_stays_green(
    asked: Memory, server: RerankServer
) -> None:
    await search(asked)
    health = await asked.health()
    assert health.checks["reranker"].detail == "tei, the server's own"
    server.default = Answer(status=400, body=b"broken")
    await search(asked)
    health = await asked.health()
    assert health.status == "ok"
    assert "not reranked: reranking_failed" in health.checks["reranker"].detail


async def test_the_reranker_can_be_tried_out(
    asked: Memory, server: RerankServer, hasty: Memory
) -> None:
    assert (await hasty.try_reranker()).detail.endswith("no answer within 0.05 s")
    server.default = Answer()
    assert (await asked.try_reranker()).ok
    server.default = Answer(status=400)
    tried = await asked.try_reranker()
    assert (tried.ok, "400" in tried.detail) == (False, True)


async def test_a_cancelled_search_ends_at_once_and_harms_no_other(
    asked: Memory, server: RerankServer
) -> None:
    server.answers = [Answer(delay_seconds=60)]
    task = asyncio.create_task(search(asked))
    while not server.asked:
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    result = await search(asked)
    assert result.meta.rerank is not None
    assert result.meta.rerank.applied


async def test_searches_at_the_same_time_are_all_reranked(asked: Memory) -> None:
    results = await asyncio.gather(*(search(asked) for _ in range(12)))
    assert all(result.meta.rerank and result.meta.rerank.applied for result in results)
    assert len({tuple(texts(result)) for result in results}) == 1


# --- Without a reranker -------------------------------------------------------------------------


async def test_without_one_nothing_is_said_of_it(memory: Memory) -> None:
    result = await search(await filled(memory))
    assert result.meta.rerank is None
    assert "reranker" not in (await memory.health()).checks
    assert (await memory.try_reranker()).ok


@pytest.mark.parametrize("namespace", ["default", "empty"])
async def test_to_demand_one_that_is_not_there_is_an_error(memory: Memory, namespace: str) -> None:
    with pytest.raises(InvalidInputError, match="MNEMO_RERANKER") as caught:
        await search(memory, namespace=namespace, rerank=True)
    assert caught.value.field == "rerank"


async def test_to_demand_one_without_a_question_is_an_error(asked: Memory) -> None:
    with pytest.raises(InvalidInputError) as caught:
        await search(asked, q=" ", vector=[1.0] * 16, rerank=True)
    assert caught.value.field == "rerank"


async def test_a_program_may_leave_it_out(settings: Settings, server: RerankServer) -> None:
    configured = reranked(settings, server.url)
    async with Memory.open(configured, with_reranker=False) as memory:
        assert (await search(await filled(memory))).meta.rerank is None


async def test_one_that_cannot_be_had_stops_the_start(settings: Settings) -> None:
    wrong = RerankerSettings(provider="tei")
    with pytest.raises(SettingsError, match="MNEMO_RERANKER_URL"):
        async with Memory.open(settings.model_copy(update={"reranker": wrong})):
            pass


# --- Over REST ----------------------------------------------------------------------------------


async def test_over_rest(asked: Memory, server: RerankServer) -> None:
    transport = httpx.ASGITransport(create_app(asked), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        plain = (await client.get("/v1/search?q=boat+leaves&rerank=false")).json()
        assert plain["meta"]["rerank"] is None
        answer = (await client.get("/v1/search?q=boat+leaves")).json()
        assert answer["meta"]["rerank"]["applied"] is True
        ids = [hit["id"] for hit in plain["data"]]
        assert [hit["id"] for hit in answer["data"]] == ids[:PAIRS][::-1] + ids[PAIRS:]
        assert answer["data"][0]["rerank_score"] == PAIRS - 1
        server.default = Answer(status=500)
        late = (await client.post("/v1/search", json={"q": "boat leaves", "rerank": True})).json()
        assert [hit["id"] for hit in late["data"]] == ids
        assert late["meta"]["rerank"]["applied"] is False
        ready = await client.get("/health/ready")
        assert ready.status_code == 200
        assert ready.json()["checks"]["reranker"]["ok"] is True
        metrics = (await client.get("/metrics")).text
        assert 'mnemolite_rerank_seconds_count{outcome="not_applied"}' in metrics


async def test_over_rest_without_one(client: httpx.AsyncClient) -> None:
    response = await client.get("/v1/search?q=boat&rerank=true")
    assert response.status_code == 422
    assert (response.json()["code"], response.json()["field"]) == ("invalid_input", "rerank")


# --- A cross-encoder ----------------------------------------------------------------------------


@needs_cross_encoder
async def test_a_cross_encoder_orders_the_hits(settings: Settings, tmp_path: Path) -> None:
    folder = build_cross_encoder(tmp_path / "model")
    reranker = RerankerSettings(
        provider="cross-encoder", model=str(folder), pairs=PAIRS, deadline_seconds=60
    )
    async with Memory.open(settings.model_copy(update={"reranker": reranker})) as memory:
        before = await search(await filled(memory), rerank=False)
        after = await search(memory)
        assert (await memory.try_reranker()).ok
    judged = [hit.rerank_score or 0 for hit in after.data[:PAIRS]]
    assert judged == sorted(judged, reverse=True)
    assert len(set(judged)) > 1
    assert {hit.id for hit in after.data[:PAIRS]} == {hit.id for hit in before.data[:PAIRS]}
    assert texts(after)[PAIRS:] == texts(before)[PAIRS:]


@needs_cross_encoder
async def test_a_cross_encoder_that_cannot_be_loaded_stops_the_start(
    settings: Settings, tmp_path: Path
) -> None:
    reranker = RerankerSettings(provider="cross-encoder", model=str(tmp_path / "missing"))
    with pytest.raises(RerankerUnavailableError, match="missing"):
        async with Memory.open(settings.model_copy(update={"reranker": reranker})):
            pass
