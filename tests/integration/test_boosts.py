"""What a caller can wish for in a search: newer, important, dated, different; and confidence."""

from datetime import UTC, datetime
from typing import Any

import pytest

from mnemolite.memory import Memory
from mnemolite.models import Hit, NewEvent, SearchQuery, SearchResult
from mnemolite.worker import Worker

NOW = "2024-06-01T00:00:00Z"


async def remember(memory: Memory, *turns: tuple[str, str, dict[str, Any]]) -> None:
    await memory.add_many(
        [
            NewEvent.model_validate({"content": text, "timestamp": at, "metadata": metadata})
            for at, text, metadata in turns
        ]
    )
    await Worker(memory).drain()
    await memory.settle()


async def find(memory: Memory, q: str, **options: Any) -> SearchResult:
    query = {"q": q, "now": NOW, "mode": "text", "explain": True} | options
    return await memory.search(SearchQuery.model_validate(query))


def boosts(hit: Hit) -> dict[str, float]:
    """A hit's boosts, having checked that its parts make up its score."""
    why = hit.explanation
    assert why is not None
    product = 1.0
    for factor in why.boosts.values():
        product *= factor
    assert why.boost == pytest.approx(product)
    assert hit.score == pytest.approx((why.vector.score + why.text.score) * product)
    return why.boosts


def days(result: SearchResult) -> list[int]:
    return [hit.timestamp.day for hit in result.data]


@pytest.fixture
async def dated(memory: Memory) -> Memory:
    await remember(
        memory,
        ("2024-04-10T00:00:00Z", "We planted tomatoes in the garden.", {}),
        ("2024-05-11T00:00:00Z", "We planted tomatoes in the garden again.", {}),
        ("2024-05-31T00:00:00Z", "Of tomatoes we planted many in the garden, many more.", {}),
        ("2024-06-20T00:00:00Z", "Some day we will have planted tomatoes, in every garden.", {}),
    )
    return memory


# --- Recency ------------------------------------------------------------------------------------


async def test_what_is_nearly_equal_is_settled_by_age(dated: Memory) -> None:
    plain = await find(dated, "planted tomatoes garden")
    assert days(plain)[0] == 10
    assert all("recency" not in boosts(hit) for hit in plain.data)
    newer = await find(dated, "planted tomatoes garden", recency_half_life="10d")
    factors = {hit.timestamp.day: boosts(hit)["recency"] for hit in newer.data}
    assert factors[20] == 1
    assert factors[20] > factors[31] > factors[11] > factors[10] >= 0.8
    assert days(newer).index(31) < days(newer).index(10)


async def test_ages_are_measured_from_now(dated: Memory) -> None:
    early = await find(
        dated, "planted tomatoes", recency_half_life="P1D", now="2024-04-10T00:00:00Z"
    )
    assert {boosts(hit)["recency"] for hit in early.data} == {1.0}


async def test_a_replay_measures_ages_as_the_search_did(dated: Memory) -> None:
    query = SearchQuery.model_validate(
        {"q": "planted tomatoes yesterday", "recency_half_life": "12h", "explain": True}
    )
    result = await dated.search(query)
    assert result.meta.request_id is not None
    replay = await dated.replay(result.meta.request_id)
    assert replay.query.now is not None
    assert replay.same
    assert [hit.score for hit in replay.result.data] == [hit.score for hit in result.data]


# --- Importance ---------------------------------------------------------------------------------


async def test_importance_lifts_and_what_is_no_number_does_not(memory: Memory) -> None:
    values: list[Any] = [None, 0, 0.5, 1, 7, -3, "1", True, [1], {"a": 1}, 1e300]
    at = "2024-05-01T00:00:00Z"
    await remember(
        memory, *[(at, "a note on tea", {"importance": v, "v": repr(v)}) for v in values]
    )
    await remember(memory, (at, "a note on tea", {"v": "missing"}))
    found = await find(memory, "tea", importance=2, limit=20)
    factors = {hit.metadata["v"]: boosts(hit)["importance"] for hit in found.data}
    whole = {"1", "7", "1e+300"}
    assert {name for name, factor in factors.items() if factor == 3} == whole
    assert factors["0.5"] == 2
    assert {factors[name] for name in factors.keys() - whole - {"0.5"}} == {1}
    assert all("importance" not in boosts(hit) for hit in (await find(memory, "tea")).data)


# --- Dates --------------------------------------------------------------------------------------


async def test_a_date_in_the_question_favours_its_span(dated: Memory) -> None:
    found = await find(dated, "Where were tomatoes planted last month?")
    assert [(date.phrase, date.since, date.until) for date in found.meta.dates] == [
        ("last month", datetime(2024, 5, 1, tzinfo=UTC), datetime(2024, 6, 1, tzinfo=UTC))
    ]
    factors = {hit.timestamp.day: boosts(hit)["dates"] for hit in found.data}
    assert factors == {10: 1, 11: pytest.approx(1.2), 31: pytest.approx(1.2), 20: 1}
    assert days(found)[0] == 11


async def test_dates_can_be_a_filter_or_ignored(dated: Memory) -> None:
    q = "tomatoes planted last month"
    assert sorted(days(await find(dated, q, dates="filter"))) == [11, 31]
    both = await find(dated, q, dates="filter", since="2024-05-20T00:00:00Z")
    assert days(both) == [31]
    nothing = await find(dated, q, dates="filter", until="2024-04-20T00:00:00Z")
    assert (nothing.data, len(nothing.meta.dates)) == ([], 1)
    for mode in ("hybrid", "vector"):
        assert sorted(days(await find(dated, q, dates="filter", mode=mode))) == [11, 31]
    ignored = await find(dated, q, dates="ignore")
    assert ignored.meta.dates == []
    assert len(ignored.data) == 4
    undated = await find(dated, "tomatoes", dates="filter")
    assert (len(undated.data), undated.meta.dates) == (4, [])


async def test_the_language_is_the_namespace_s(memory: Memory) -> None:
    await memory.events.add_namespaces(["fr"], "french")
    await memory.add_many(
        [NewEvent(content={"text": "Nous avons planté des tomates."}, namespace="fr")]
    )
    found = await find(memory, "les tomates, la semaine dernière", namespace="fr")
    assert [date.phrase for date in found.meta.dates] == ["la semaine dernière"]
    assert (await find(memory, "last week", namespace="fr")).meta.dates == []


async def test_the_longest_question_is_read_too(dated: Memory) -> None:
    found = await find(dated, "last month " + "in the of may 8 " * 624)
    assert found.meta.dates[0].phrase == "last month"


# --- Diversity ----------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["hybrid", "vector", "text"])
async def test_copies_do_not_fill_the_answer(memory: Memory, mode: str) -> None:
    at = "2024-05-01T00:00:00Z"
    copies = [(at, "the tea is ready", {"n": number}) for number in range(15)]
    others: list[tuple[str, str, dict[str, Any]]] = [
        (at, f"tea number {number} is ready in the kitchen", {}) for number in range(5)
    ]
    await remember(memory, *copies, *others)
    plain = await find(memory, "the tea is ready", mode=mode, limit=6)
    assert len({hit.text for hit in plain.data}) < 6
    found = await find(memory, "the tea is ready", mode=mode, limit=6, diversity=0.1)
    assert len({hit.text for hit in found.data}) == 6
    assert all(0 < boosts(hit)["diversity"] <= 1 for hit in found.data)
    scores = [hit.score for hit in found.data]
    assert scores == sorted(scores, reverse=True)
    everything = await find(memory, "the tea is ready", mode=mode, limit=20, diversity=1)
    assert len(everything.data) == 20
    assert len({hit.text for hit in everything.data[:6]}) == 6


# --- Confidence ---------------------------------------------------------------------------------


async def test_confidence_is_told_where_it_can_be(dated: Memory) -> None:
    hybrid = await find(dated, "We planted tomatoes in the garden.", mode="hybrid")
    assert hybrid.meta.confidence is not None
    assert 0 <= hybrid.meta.confidence <= 1
    unknown = await find(dated, "quantum elephants", mode="hybrid")
    assert unknown.meta.confidence is not None
    assert unknown.meta.confidence < hybrid.meta.confidence
    assert (await find(dated, "tomatoes", mode="text")).meta.confidence is None
    assert (await find(dated, "the of and", mode="hybrid")).meta.confidence is None


async def test_nothing_is_known_of_an_empty_namespace(dated: Memory) -> None:
    empty = await find(dated, "tomatoes", mode="hybrid", namespace="elsewhere")
    assert empty.meta.confidence == 0
    await dated.add("pending tomatoes")
    waiting = await find(
        dated, "tomatoes", mode="vector", since="2024-12-01T00:00:00Z", until="2024-12-02T00:00:00Z"
    )
    assert (waiting.data, waiting.meta.confidence) == ([], None)
