"""Comparing a recorded search with the same search now."""

from datetime import UTC, datetime
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from mnemolite.history import compare
from mnemolite.models import Hit, Plan, Recorded, RerankMeta, SearchMeta, SearchQuery, SearchResult

NOW = datetime(2024, 1, 1, tzinfo=UTC)
EXACT = Plan(vector="exact", estimated_rows=None)
HITS = st.dictionaries(st.integers(1, 6), st.sampled_from([0.5, 1.0, 1.0 + 1e-12]), max_size=6)


def recorded(hits: dict[int, float]) -> Recorded:
    return Recorded(
        id=UUID(int=99),
        created_at=NOW,
        query=SearchQuery(q="x"),
        arms=["vector", "text"],
        degraded=[],
        plan=EXACT.model_dump(),
        space=1,
        hits=[(UUID(int=number), score) for number, score in hits.items()],
    )


def answer(hits: dict[int, float], *, space: int = 1, plan: Plan = EXACT) -> SearchResult:
    data = [
        Hit(
            id=UUID(int=number),
            namespace="n",
            session=None,
            timestamp=NOW,
            created_at=NOW,
            content={},
            metadata={},
            text="",
            pending=False,
            score=score,
            distance=None,
            similarity=None,
            text_score=None,
            ranks={},
            passage=None,
            explanation=None,
        )
        for number, score in hits.items()
    ]
    meta = SearchMeta(
        mode="hybrid",
        arms=["vector", "text"],
        degraded=[],
        plan=plan,
        space=space,
        vector_source=None,
        pending=0,
        pending_is_lower_bound=False,
        count=len(data),
    )
    return SearchResult(data=data, meta=meta)


def test_each_kind_of_change() -> None:
    replay = compare(
        recorded({1: 0.9, 2: 0.8, 3: 0.7, 4: 0.6, 5: 0.5}),
        answer({6: 1.0, 2: 0.75, 1: 0.6, 4: 0.6}),
    )
    assert [(change.change, change.id.int) for change in replay.hits] == [
        ("came", 6),
        ("rescored", 2),
        ("moved", 1),
        ("went", 3),
        ("went", 5),
    ]
    moved = replay.hits[2]
    assert (moved.rank_before, moved.rank) == (1, 3)
    assert (moved.score_before, moved.score) == (0.9, 0.6)
    assert not replay.same


def test_a_reranker_that_was_not_heard_and_not_how_long_it_took() -> None:
    judge = RerankMeta(provider="tei", model="m", pairs=5, applied=True, reason=None, ms=9.0)
    now = answer({1: 1.0})
    heard = now.model_copy(update={"meta": now.meta.model_copy(update={"rerank": judge})})
    said = {"provider": "tei", "model": "m", "applied": True}
    before = recorded({1: 1.0}).model_copy(update={"rerank": said})
    assert compare(before, heard).same
    change = compare(before, now).meta["rerank"]
    assert (change.before, change.now) == (said, None)


def test_another_space_and_plan() -> None:
    hnsw = Plan(vector="hnsw", estimated_rows=50_000)
    replay = compare(recorded({1: 1.0}), answer({1: 1.0}, space=2, plan=hnsw))
    assert (replay.hits, replay.same) == ([], False)
    assert (replay.meta["space"].before, replay.meta["space"].now) == (1, 2)
    assert replay.meta["plan"].now == hnsw.model_dump()
    assert set(replay.meta) == {"plan", "space"}


@given(HITS, HITS)
def test_the_changes_lead_from_then_to_now(before: dict[int, float], now: dict[int, float]) -> None:
    changes = {change.id.int: change for change in compare(recorded(before), answer(now)).hits}
    for number in before.keys() | now.keys():
        change = changes.get(number)
        if number not in now:
            assert change
            assert change.change == "went"
        elif number not in before:
            assert change
            assert change.change == "came"
        elif change is None:
            assert list(before).index(number) == list(now).index(number)
            assert abs(before[number] - now[number]) < 1e-9
    assert compare(recorded(now), answer(now)).same
