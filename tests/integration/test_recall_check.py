"""Filters of known shares, and what the served plan finds under them."""

from datetime import UTC, datetime, timedelta
from typing import Literal

import pytest

from mnemolite.arms import Arms, SearchJob
from mnemolite.errors import InvalidInputError
from mnemolite.evaluate import draw_texts
from mnemolite.memory import Memory
from mnemolite.models import NewEvent, SearchQuery
from mnemolite.recall_check import check_recall
from mnemolite.selectivity import choose, count_matching, make_cases
from mnemolite.worker import Worker

START = datetime(2024, 1, 1, tzinfo=UTC)


@pytest.fixture
async def filled(memory: Memory) -> Memory:
    """A thousand embedded events with numbers, and a hundred in a namespace of their own."""
    events = [
        NewEvent(
            content={"text": f"turn {n} speaks of the topic {n % 7} and of needle{n}"},
            namespace="large" if n < 1000 else "small",
            timestamp=START + timedelta(minutes=n),
            metadata={"number": n * 7919 % 1000, "tenth": n * 7919 % 10, "no.key": 1},
        )
        for n in range(1100)
    ]
    await memory.add_many(events)
    await Worker(memory).drain()
    await memory.settle()
    return memory


def nothing(*_: object) -> None:
    """Progress that nobody watches."""


async def test_each_filter_lets_its_share_pass(filled: Memory) -> None:
    namespaces = await filled.namespaces()
    large = choose(namespaces, None)
    assert large.name == "large"
    cases = await make_cases(filled, large, of=namespaces)
    found = {}
    for case in cases:
        query = SearchQuery(q="-", **case.fields)
        found[case.kind, round(case.target, 8)] = await count_matching(filled, query)
    assert found["none", 1.0] == 1000
    assert [found["time", share] for share in (0.1, 0.01, 0.001)] == [100, 10, 1]
    assert [found["metadata", share] for share in (0.1, 0.001)] == [100, 1]
    assert [found["number", share] for share in (0.1, 0.01)] == [100, 10]
    assert found["namespace", 0.1] == 100
    assert found["namespace, time", 0.01] == 10
    assert 5 <= found["time, metadata", 0.01] <= 15


async def test_an_exact_plan_finds_everything(filled: Memory) -> None:
    said: list[str] = []
    measured = await check_recall(
        filled,
        namespace="large",
        count=5,
        progress=lambda doing, _done, _total: said.append(doing),
    )
    assert (measured["namespace"], measured["events"], measured["table_rows"]) == (
        "large",
        1000,
        1100,
    )
    assert {row["recall@10"] for row in measured["rows"]} == {1.0}
    assert {plan for row in measured["rows"] for plan in row["plans"]} == {"exact"}
    assert {"filter": "metadata", "target": 0.01} in measured["missing"]
    assert {"none", "time", "metadata"} <= set(said)


async def test_the_index_is_held_against_the_exact_plan(filled: Memory) -> None:
    await filled.spaces.build_index(filled.space)
    (text,) = await draw_texts(filled, "large", count=1)
    query = SearchQuery(q=text, namespace="large", mode="vector")
    question = await filled.lexicon.question("large", text, space=filled.space.id)
    arms, found = Arms(filled.database), {}
    plans: tuple[Literal["exact", "hnsw"], ...] = ("exact", "hnsw")
    for plan in plans:
        job = SearchJob(query, question, filled.space, filled.embedder, forced=plan)
        found[plan] = await arms.vector(job)
        served = found[plan].plan
        assert served is not None
        assert served.vector == plan
    assert len(found["exact"].scores) == len(found["hnsw"].scores) == 100
    assert found["exact"].scores[0] == pytest.approx(found["hnsw"].scores[0])


async def test_texts_are_the_same_each_time_and_differ_by_seed(filled: Memory) -> None:
    drawn = await draw_texts(filled, "large", count=20)
    assert drawn == await draw_texts(filled, "large", count=20)
    assert drawn != await draw_texts(filled, "large", count=20, seed=1)
    assert all(3 <= len(text.split()) <= 8 for text in drawn)


async def test_a_namespace_without_events_is_refused(memory: Memory) -> None:
    with pytest.raises(InvalidInputError, match="holds no events"):
        await check_recall(memory, namespace=None, count=1, progress=nothing)
    with pytest.raises(InvalidInputError, match="nobody"):
        await check_recall(memory, namespace="nobody", count=1, progress=nothing)
    with pytest.raises(InvalidInputError, match="no text"):
        await draw_texts(memory, "nobody", count=1)
