"""Benchmarks: what is asked, of which events, and what the figures mean."""

import io
import json
from itertools import pairwise

import numpy as np
import pytest

from mnemolite.bench.corpus import BUCKETS, NAMESPACE, read_lines
from mnemolite.bench.embed import LENGTHS, Texts
from mnemolite.bench.search import Extent, Row, make_rows, summarise
from mnemolite.bench.seeded import near
from mnemolite.bench.server import Answers
from mnemolite.errors import InvalidFileError
from mnemolite.import_export import LineMapping


def lines(count: int) -> io.BytesIO:
    return io.BytesIO(b"".join(b'{"text": "turn %d", "ts": 7}\n' % n for n in range(count)))


def test_an_equal_part_of_the_events_has_each_number() -> None:
    mapping = LineMapping.parse(["ts=metadata.ts"])
    stored = [line[0] for line in read_lines(lines(20_000), mapping)]
    assert {event.namespace for event in stored} == {NAMESPACE}
    for name, size in BUCKETS.items():
        numbers = [event.metadata[name] for event in stored]
        assert set(np.bincount(numbers)) == {20_000 // size}
    # Neighbours in time are far apart, or a filter by number would be one by time.
    numbers = [event.metadata["bucket"] for event in stored]
    assert min(abs(one - other) for one, other in pairwise(numbers)) > 1000


def test_parts_of_the_events_are_in_smaller_namespaces_too() -> None:
    copies = [event for line in read_lines(lines(20_000), LineMapping()) for event in line[1:]]
    counts = {place: sum(event.namespace == place for event in copies) for place in places(copies)}
    assert counts == {f"{NAMESPACE}-1-in-{size}": 20_000 // size for size in BUCKETS.values()}


def places(events: list) -> set[str]:  # type: ignore[type-arg]
    return {event.namespace for event in events}


@pytest.mark.parametrize("bad", [b"no json", b"[1]", b'{"timestamp": "never"}'])
def test_the_first_bad_line_is_named(bad: bytes) -> None:
    with pytest.raises(InvalidFileError, match="Line 2") as caught:
        list(read_lines(io.BytesIO(b'{"text": "good"}\n' + bad), LineMapping()))
    assert caught.value.field == "--events"


def test_seeded_vectors_lie_near_their_centres() -> None:
    centres = np.eye(384, dtype=np.float32)[:5]
    vectors = near(centres, 500, generator=np.random.default_rng(0))
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    cosines = (vectors @ centres.T).max(axis=1)
    assert 0.6 < cosines.min() < cosines.max() < 0.8
    again = near(centres, 500, generator=np.random.default_rng(0))
    assert np.array_equal(vectors, again)


def test_every_mode_meets_every_filter_and_number_of_clients() -> None:
    extent = Extent(modes=("hybrid", "text"), clients=(1, 4))
    rows = make_rows({"none": {}, "day": {"session": "s"}}, extent)
    assert [(row.mode, row.filter, row.clients, row.cached) for row in rows] == [
        ("hybrid", "none", 1, False),
        ("hybrid", "day", 1, False),
        ("text", "none", 1, False),
        ("text", "day", 1, False),
        ("hybrid", "none", 4, False),
        ("text", "none", 4, False),
        ("hybrid", "none", 1, True),
    ]


def test_a_curve_has_few_rows() -> None:
    rows = make_rows({"none": {}, "month": {}}, Extent(brief=True))
    assert len(rows) == 6
    assert {(row.clients, row.cached) for row in rows} == {(1, False)}


def test_the_parts_add_up_to_what_clients_waited() -> None:
    parts = {"embedding": 2.0, "database": 5.0, "rest": 1.0}
    answers = Answers([9.0, 11.0, 10.0, 10.0], 0.02, parts, {"plan": {"vector": "hnsw"}})
    row = summarise(Row("hybrid"), answers, share=0.5)
    assert row["parts_ms"] == {"embedding": 2.0, "sql": 5.0, "rest": 3.0}
    assert sum(row["parts_ms"].values()) == row["latency_ms"]["mean"] == 10.0
    assert (row["plan"], row["per_second"]) == ("hnsw", 200.0)
    assert json.loads(json.dumps(row)) == row


def test_a_search_by_words_has_no_plan() -> None:
    answers = Answers([1.0], 0.001, {"database": 0.5}, {"plan": None})
    assert summarise(Row("text"), answers, share=1.0)["plan"] is None


@pytest.mark.parametrize("length", LENGTHS)
def test_texts_differ_and_fit_the_window(length: int) -> None:
    drawn = Texts().some(50, length=length)
    assert len(set(drawn)) > 45
    assert {len(text.split()) for text in drawn} == {min(length, 254)}
    assert Texts().some(50, length=length) == drawn
