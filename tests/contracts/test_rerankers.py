"""What every reranker promises, whoever judges; and what a remote one makes of a bad server."""

import asyncio
import math
import socket
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest

from mnemolite.errors import (
    InvalidInputError,
    InvalidTextError,
    RerankerUnavailableError,
    RerankingError,
    RerankingTimeoutError,
    SettingsError,
)
from mnemolite.reranking import Reranker, create_reranker
from mnemolite.settings import RerankerSettings
from tests.rerankers import (
    Answer,
    RerankServer,
    build_cross_encoder,
    needs_cross_encoder,
    rerank_server,
)

REMOTE = ["tei", "cohere", "jina"]
KEY = "sk-very-secret-0123456789"
QUERY = "When does the boat leave?"
TEXTS = [
    "tea",
    "On 8 May 2023, Ada said: \"The boat leaves at seven.\"",
    "word " * 300,
    "\U0001f600 今天天气很好 naïve café",
    "\x01 control characters \x7f",
    "?",
]  # fmt: skip


@pytest.fixture(scope="module")
def cross_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_cross_encoder(tmp_path_factory.mktemp("cross-encoder"))


@pytest.fixture
async def server() -> AsyncIterator[RerankServer]:
    async with rerank_server() as started:
        yield started


@pytest.fixture(params=[pytest.param("cross-encoder", marks=needs_cross_encoder), *REMOTE])
async def reranker(request: pytest.FixtureRequest, server: RerankServer) -> AsyncIterator[Reranker]:
    if request.param == "cross-encoder":
        folder = request.getfixturevalue("cross_encoder")
        settings = RerankerSettings(provider="cross-encoder", model=str(folder))
    else:
        settings = remote(request.param, server.url)
    async for opened in opening(settings):
        yield opened


@pytest.fixture(params=REMOTE)
async def remote_reranker(
    request: pytest.FixtureRequest, server: RerankServer
) -> AsyncIterator[Reranker]:
    async for opened in opening(remote(request.param, server.url)):
        yield opened


def remote(provider: Any, url: str | None, **others: Any) -> RerankerSettings:
    fields: dict[str, Any] = {"model": "judge-1", "api_key": KEY, "deadline_seconds": 5} | others
    return RerankerSettings(provider=provider, url=url, **fields)


async def opening(settings: RerankerSettings) -> AsyncIterator[Reranker]:
    reranker = await asyncio.to_thread(create_reranker, settings)
    assert reranker is not None
    yield reranker
    await reranker.close()


def refused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# --- Every reranker -----------------------------------------------------------------------------


async def test_every_text_gets_a_finite_score_of_its_own(reranker: Reranker) -> None:
    scores = await reranker.rerank(QUERY, TEXTS)
    assert len(scores) == len(TEXTS)
    assert all(math.isfinite(score) for score in scores)
    assert len(set(scores)) > 1


async def test_scores_follow_their_texts(reranker: Reranker) -> None:
    scores = await reranker.rerank(QUERY, TEXTS)
    backwards = await reranker.rerank(QUERY, TEXTS[::-1])
    assert backwards[::-1] == pytest.approx(scores, abs=1e-5)


async def test_the_query_matters(reranker: Reranker) -> None:
    assert await reranker.rerank("tea", TEXTS) != await reranker.rerank(QUERY, TEXTS)


async def test_two_hundred_texts_keep_their_order(reranker: Reranker) -> None:
    texts = [f"boat number {number} " + "leave " * (number % 7) for number in range(200)]
    together = await reranker.rerank(QUERY, texts)
    halves = await reranker.rerank(QUERY, texts[:100]) + await reranker.rerank(QUERY, texts[100:])
    assert together == pytest.approx(halves, abs=1e-5)


async def test_no_texts_get_no_scores(reranker: Reranker) -> None:
    assert await reranker.rerank(QUERY, []) == []


async def test_calls_at_the_same_time_do_not_mix(reranker: Reranker) -> None:
    alone = [await reranker.rerank(query, TEXTS) for query in ("tea", "boat", "word")]
    together = await asyncio.gather(*(reranker.rerank(q, TEXTS) for q in ("tea", "boat", "word")))
    for one, other in zip(alone, together, strict=True):
        assert other == pytest.approx(one, abs=1e-5)


@pytest.mark.parametrize(("query", "texts", "field"), [
    (" ", ["fine"], "query"), ("fine", ["fine", "\n"], "texts[1]"), ("", [], "query"),
])  # fmt: skip
async def test_blanks_are_refused_by_name(
    reranker: Reranker, query: str, texts: list[str], field: str
) -> None:
    with pytest.raises(InvalidInputError, match="blank") as caught:
        await reranker.rerank(query, texts)
    assert caught.value.field == field


async def test_a_lone_surrogate_is_refused_by_name(reranker: Reranker) -> None:
    with pytest.raises(InvalidTextError, match="Character 3") as caught:
        await reranker.rerank("fine", ["fine", "bad\ud800"])
    assert caught.value.field == "texts[1]"


async def test_a_cancelled_call_harms_no_other(reranker: Reranker) -> None:
    expected = await reranker.rerank(QUERY, TEXTS)
    running = [asyncio.create_task(reranker.rerank(QUERY, TEXTS * 20)) for _ in range(3)]
    await asyncio.sleep(0)
    for task in running:
        task.cancel()
    results = await asyncio.gather(*running, return_exceptions=True)
    assert all(isinstance(result, asyncio.CancelledError) for result in results)
    assert await reranker.rerank(QUERY, TEXTS) == pytest.approx(expected, abs=1e-5)


async def test_a_closed_reranker_says_so_and_may_be_closed_again(reranker: Reranker) -> None:
    await reranker.close()
    await reranker.close()
    with pytest.raises(RerankingError):
        await reranker.rerank(QUERY, TEXTS)


# --- A server that misbehaves -------------------------------------------------------------------


async def test_a_better_text_gets_a_higher_score(remote_reranker: Reranker) -> None:
    scores = await remote_reranker.rerank("boat leaves", TEXTS)
    assert scores == [0, 2, 0, 0, 0, 0]


WRONG: dict[str, Answer] = {
    "a score too few": Answer(tamper=lambda items: items[1:]),
    "a score too many": Answer(tamper=lambda items: [*items, items[0] | {"index": len(items)}]),
    "an index out of range": Answer(tamper=lambda items: [items[0] | {"index": 99}, *items[1:]]),
    "a negative index": Answer(tamper=lambda items: [items[0] | {"index": -1}, *items[1:]]),
    "an index twice": Answer(tamper=lambda items: [items[1], *items[1:]]),
    "an index that is true": Answer(tamper=lambda items: [items[0] | {"index": True}, *items[1:]]),
    "an index that is text": Answer(tamper=lambda items: [items[0] | {"index": "0"}, *items[1:]]),
    "NaN": Answer(tamper=lambda items: [dict.fromkeys(items[0], math.nan), *items[1:]]),
    "a score too large": Answer(
        body=b'[{"index": 0, "score": 1e999}]'),
    "a score that is null": Answer(
        tamper=lambda items: [dict.fromkeys(item) | {"index": item["index"]} for item in items]),
    "no scores": Answer(tamper=lambda items: [{"index": item["index"]} for item in items]),
    "no list": Answer(tamper=lambda items: "none"),
    "a list of other things": Answer(tamper=lambda items: [1, 2, 3]),
    "null": Answer(body=b"null"),
    "no JSON": Answer(body=b"<html>Welcome</html>"),
    "nothing": Answer(body=b""),
    "no UTF-8": Answer(body=b'["\xff"]'),
    "too much": Answer(body=b" " * 5_000_000),
    "a redirection": Answer(status=307, headers={"location": "http://127.0.0.1:9/"}),
    "a refusal": Answer(status=422, body=b'{"error": "batch too large"}'),
    "an unknown key": Answer(status=401, body=b'{"message": "invalid api token"}'),
    "half an answer": Answer(cut=True),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
async def test_a_wrong_answer_is_an_error(
    remote_reranker: Reranker, server: RerankServer, name: str
) -> None:
    server.default = WRONG[name]
    with pytest.raises(RerankingError) as caught:
        await remote_reranker.rerank(QUERY, TEXTS)
    assert KEY not in f"{caught.value!r} {caught.value}"
    assert "reranker" in str(caught.value)


@pytest.mark.parametrize("name", ["a refusal", "an unknown key", "no JSON", "a score too few"])
async def test_what_would_be_refused_again_is_asked_once(
    remote_reranker: Reranker, server: RerankServer, name: str
) -> None:
    server.default = WRONG[name]
    with pytest.raises(RerankingError):
        await remote_reranker.rerank(QUERY, TEXTS)
    assert len(server.asked) == 1


async def test_the_servers_own_words_are_told(
    remote_reranker: Reranker, server: RerankServer
) -> None:
    server.default = WRONG["a refusal"]
    with pytest.raises(RerankingError, match=r"422.*batch too large"):
        await remote_reranker.rerank(QUERY, TEXTS)


@pytest.mark.parametrize("passing", [
    Answer(status=500), Answer(status=503, body=b"busy"), Answer(cut=True),
    Answer(status=429, headers={"retry-after": "0"}),
    Answer(status=429, headers={"retry-after": "soon"}),
    Answer(status=503, headers={"retry-after": "Thu, 01 Jan 1970 00:00:00 GMT"}),
], ids=["500", "503", "closed", "429 0", "429 soon", "503 date"])  # fmt: skip
async def test_a_passing_fault_is_tried_again(
    remote_reranker: Reranker, server: RerankServer, passing: Answer
) -> None:
    server.answers = [passing, passing]
    scores = await remote_reranker.rerank("boat leaves", TEXTS)
    assert scores == [0, 2, 0, 0, 0, 0]
    assert len(server.asked) == 3


async def test_a_lasting_fault_is_given_up(remote_reranker: Reranker, server: RerankServer) -> None:
    server.default = Answer(status=500)
    with pytest.raises(RerankingError, match=r"500.*tries: 3"):
        await remote_reranker.rerank(QUERY, TEXTS)
    assert len(server.asked) == 3


async def test_retry_after_is_waited_for(remote_reranker: Reranker, server: RerankServer) -> None:
    server.answers = [Answer(status=429, headers={"retry-after": "1"})]
    started = time.monotonic()
    await remote_reranker.rerank(QUERY, TEXTS)
    assert time.monotonic() - started >= 1  # a promise to the server, not a speed


@pytest.mark.parametrize("in_words", [True, False])
async def test_a_retry_after_beyond_the_deadline_is_given_up_at_once(
    remote_reranker: Reranker, server: RerankServer, in_words: bool
) -> None:
    later = format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)
    server.default = Answer(status=429, headers={"retry-after": later if in_words else "3600"})
    with pytest.raises(RerankingError, match="429"):
        await remote_reranker.rerank(QUERY, TEXTS)
    assert len(server.asked) == 1


@pytest.mark.parametrize("provider", REMOTE)
async def test_a_slow_server_is_a_timeout(server: RerankServer, provider: str) -> None:
    server.default = Answer(delay_seconds=60)
    async for reranker in opening(remote(provider, server.url, deadline_seconds=0.1)):
        with pytest.raises(RerankingTimeoutError, match=r"0\.1 s"):
            await reranker.rerank(QUERY, TEXTS)


@pytest.mark.parametrize("provider", REMOTE)
async def test_a_refused_connection_is_an_error(provider: str) -> None:
    async for reranker in opening(remote(provider, f"http://127.0.0.1:{refused_port()}")):
        with pytest.raises(RerankingError, match="cannot be reached"):
            await reranker.rerank(QUERY, TEXTS)


# --- The forms ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("provider", "path", "payload"), [
    ("tei", "/rerank", {"query": "q", "texts": ["a", "b"], "truncate": True}),
    ("cohere", "/v2/rerank",
     {"model": "judge-1", "query": "q", "documents": ["a", "b"], "top_n": 2}),
    ("jina", "/v1/rerank",
     {"model": "judge-1", "query": "q", "documents": ["a", "b"], "top_n": 2,
      "return_documents": False}),
])  # fmt: skip
async def test_each_form_is_asked_in_its_own_way(
    server: RerankServer, provider: str, path: str, payload: dict[str, Any]
) -> None:
    async for reranker in opening(remote(provider, f"{server.url}/")):
        await reranker.rerank("q", ["a", "b"])
        assert reranker.info.provider == provider
        assert reranker.info.model == "judge-1"
    [asked] = server.asked
    assert (asked.path, asked.payload) == (path, payload)
    assert asked.headers["authorization"] == f"bearer {KEY}"


async def test_a_route_of_ones_own_is_kept(server: RerankServer) -> None:
    async for reranker in opening(remote("cohere", f"{server.url}/proxy/v9/rerank", api_key=None)):
        await reranker.rerank("q", ["a"])
    assert server.asked[0].path == "/proxy/v9/rerank"
    assert "authorization" not in server.asked[0].headers


async def test_tei_is_asked_in_parts_that_it_takes(server: RerankServer) -> None:
    async for reranker in opening(remote("tei", server.url)):
        await reranker.rerank("q", ["a"] * 70)
    assert sorted(len(asked.payload["texts"]) for asked in server.asked) == [6, 32, 32]


@pytest.mark.parametrize(("provider", "url", "fields", "variable"), [
    ("tei", None, {}, "MNEMO_RERANKER_URL"),
    ("tei", "localhost:8080", {}, "MNEMO_RERANKER_URL"),
    ("tei", "ftp://host", {}, "MNEMO_RERANKER_URL"),
    ("tei", "http://", {}, "MNEMO_RERANKER_URL"),
    ("tei", "http://host:port", {}, "MNEMO_RERANKER_URL"),
    ("jina", "http://\x00", {}, "MNEMO_RERANKER_URL"),
    ("cohere", "http://host", {"model": None}, "MNEMO_RERANKER_MODEL"),
    ("jina", None, {"api_key": None}, "MNEMO_RERANKER_API_KEY"),
    ("jina", None, {"api_key": "line\nbreak-0123456789"}, "MNEMO_RERANKER_API_KEY"),
    ("cohere", None, {"api_key": "clé-0123456789"}, "MNEMO_RERANKER_API_KEY"),
    ("cross-encoder", None, {"model": None}, "MNEMO_RERANKER_MODEL"),
])  # fmt: skip
def test_bad_settings_are_named(
    provider: str, url: str | None, fields: dict[str, Any], variable: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        create_reranker(remote(provider, url, **fields))
    assert caught.value.field == variable
    assert "0123456789" not in str(caught.value)


def test_nobody_is_a_reranker_too() -> None:
    assert create_reranker(RerankerSettings(provider="none")) is None


# --- The cross-encoder --------------------------------------------------------------------------


@needs_cross_encoder
@pytest.mark.parametrize("damage", ["missing", "empty", "broken", "headless", "three labels"])
def test_a_folder_without_a_cross_encoder_is_refused(tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "model"
    if damage == "empty":
        folder.mkdir()
    elif damage == "broken":
        build_cross_encoder(folder)
        (folder / "model.safetensors").write_bytes(b"not weights")
    elif damage == "headless":
        build_cross_encoder(folder, head=False)
    elif damage == "three labels":
        build_cross_encoder(folder, labels=3)
    with pytest.raises(RerankerUnavailableError, match="model") as caught:
        create_reranker(RerankerSettings(provider="cross-encoder", model=str(folder)))
    assert caught.value.field == "MNEMO_RERANKER_MODEL"
