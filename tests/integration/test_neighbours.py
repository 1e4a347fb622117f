"""Neighbours: what stands around a hit, once, in order of time, its own passages first."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from mnemolite.memory import Memory
from mnemolite.models import Event, Hit, NewEvent, SearchQuery
from mnemolite.worker import Worker

START = datetime(2024, 1, 1, tzinfo=UTC)


async def talk(
    memory: Memory, *texts: str, session: str | None = "s", **fields: Any
) -> list[Event]:
    events, _ = await memory.add_many(
        [
            NewEvent(
                content={"text": text},
                session=session,
                timestamp=START + timedelta(minutes=minute),
                **fields,
            )
            for minute, text in enumerate(texts)
        ]
    )
    return events


async def ask(memory: Memory, q: str, **options: Any) -> list[Hit]:
    query = SearchQuery(q=q, mode=options.pop("mode", "text"), **options)
    return (await memory.search(query)).data


def around(hit: Hit) -> list[tuple[int, str | None]]:
    return [(near.place, near.event.text if near.event else None) for near in hit.neighbours]


async def test_events_of_the_session_on_both_sides(memory: Memory) -> None:
    await talk(memory, "a", "b", "the needle", "c", "d")
    await talk(memory, "x", "y", "z", session="other")
    (hit,) = await ask(memory, "needle", limit=1, neighbours=2)
    assert around(hit) == [(-2, "a"), (-1, "b"), (1, "c"), (2, "d")]
    (hit,) = await ask(memory, "needle", limit=1, neighbours=20)
    assert [text for _, text in around(hit)] == ["a", "b", "c", "d"]
    (hit,) = await ask(memory, "needle", limit=1)
    assert hit.neighbours == []


async def test_what_hits_share_is_given_once(memory: Memory) -> None:
    events = await talk(memory, "a", "a needle and a needle", "b", "c", "the needle of tea", "d")
    for number in (1, 4):
        await memory.merge_metadata(events[number].id, {"hit": True})
    only = {"where": {"hit": True}}
    hits = await ask(memory, "needle", neighbours=2, **only)
    first, second = sorted(hits, key=lambda hit: hit.timestamp)
    if hits[0] is first:
        assert around(first) == [(-1, "a"), (1, "b"), (2, "c")]
        assert around(second) == [(-2, None), (-1, None), (1, "d")]
    else:
        assert around(second) == [(-2, "b"), (-1, "c"), (1, "d")]
        assert around(first) == [(-1, "a"), (1, None), (2, None)]
    assert [near.id for near in second.neighbours] == [events[n].id for n in (2, 3, 5)]
    for hit in await ask(memory, "needle", neighbours=3, **only):
        place = 3 if hit.id == first.id else -3
        assert (place, None) in around(hit), "a hit itself is not repeated"


async def test_turns_of_one_moment_keep_their_order(memory: Memory) -> None:
    await memory.add_many(
        [
            NewEvent(content=text, session="s", timestamp=START)
            for text in ("one", "two", "needle", "four", "five")
        ]
    )
    (hit,) = await ask(memory, "needle", limit=1, neighbours=2)
    assert [text for _, text in around(hit)] == ["one", "two", "four", "five"]


async def test_filters_choose_hits_and_not_their_neighbours(memory: Memory) -> None:
    await talk(memory, "before", session="s", metadata={"user": "bob"})
    await memory.add(
        NewEvent(
            content="the needle",
            session="s",
            timestamp=START + timedelta(hours=1),
            metadata={"user": "ada"},
        )
    )
    await talk(memory, "of another scope", namespace="elsewhere")
    (hit,) = await ask(memory, "needle", neighbours=5, where={"user": "ada"})
    assert around(hit) == [(-1, "before")]


async def test_an_event_outside_of_sessions_stands_alone(memory: Memory) -> None:
    await talk(memory, "a", "the needle", "b", session=None)
    (hit,) = await ask(memory, "needle", limit=1, neighbours=3)
    assert hit.neighbours == []


@pytest.mark.parametrize("most", [1, 2, 20])
async def test_passages_of_a_long_event_come_first(memory: Memory, most: int) -> None:
    long = " ".join(f"Sentence number {number} of a long text." for number in range(400))
    await talk(memory, "before", long, "after")
    await Worker(memory).drain()
    spans = memory.embedder.passages(long)
    assert len(spans) > 3
    hits = await ask(memory, "anything", mode="vector", limit=3, neighbours=most)
    hit = next(one for one in hits if one.text == long)
    assert hit.passage
    best = spans.index((hit.passage.start, hit.passage.end))
    expected: list[tuple[int, object]] = []
    before: list[object] = [*reversed(spans[:best]), "before"]
    after: list[object] = [*spans[best + 1 :], "after"]
    expected += [(-step, what) for step, what in enumerate(before[:most], start=1)]
    expected += [(step, what) for step, what in enumerate(after[:most], start=1)]
    texts = {event.id: event.text for event in hits}
    told = [
        (near.place, (near.passage.start, near.passage.end) if near.passage else texts[near.id])
        for near in hit.neighbours
    ]
    assert told == sorted(expected, key=lambda pair: pair[0])
    for near in hit.neighbours:
        if near.passage:
            assert near.passage.text == long[near.passage.start : near.passage.end]


@pytest.mark.parametrize("most", [-1, 21])
def test_their_number_is_bounded(most: int) -> None:
    with pytest.raises(ValueError, match="neighbours"):
        SearchQuery(q="x", neighbours=most)
