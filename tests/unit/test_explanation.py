"""Explanations: whatever the ranking did, the parts add up to the score."""

import math
from typing import Any
from uuid import UUID

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mnemolite.arms import SearchJob
from mnemolite.explanation import Explainer
from mnemolite.lexicon import Question, Term
from mnemolite.models import Explanation, SearchQuery
from mnemolite.ranking import Pool, Weights, chain_neighbours, rank

QUESTION = Question(
    terms=(Term("rare", 1, 2.0), Term("common", 9, 1.0)), documents=20, average_words=10.0
)
EVENT = st.tuples(
    st.integers(0, 32),
    st.integers(0, 32),
    st.floats(-1, 1) | st.just(math.nan),
    st.integers(0, 5000),
    st.booleans(),
    st.booleans(),
)


def explain(events: list[tuple[Any, ...]], **arms: bool) -> list[tuple[float, Explanation]]:
    """The score of each event and its explanation; linked in one conversation where told so."""
    links = [(number, number + 1) for number, event in enumerate(events[:-1]) if event[5]]
    cosines = np.array([event[2] for event in events], float)
    pool = Pool(
        words=np.array([event[3] for event in events], float),
        frequencies=np.array([event[:2] for event in events], float).reshape(len(events), -1),
        cosines=cosines,
        nearest=~np.isnan(cosines),
        named=np.array([event[4] for event in events], bool),
        nearby=chain_neighbours(links, len(events)),
    )
    weights = Weights(np.array([term.idf for term in QUESTION.terms]), QUESTION.average_words)
    ranking = rank(pool, weights, **arms)
    rows = [
        {"id": str(UUID(int=number)), "words": event[3], "frequencies": list(event[:2])}
        for number, event in enumerate(events)
    ]
    job = SearchJob(SearchQuery(q="rare common"), QUESTION, None, None)
    explainer = Explainer(job, rows, pool=pool, ranking=ranking)
    return [
        (float(ranking.scores[place]), explainer.explain(place, {})) for place in range(len(events))
    ]


@settings(deadline=None)
@given(st.lists(EVENT, min_size=1, max_size=12), st.booleans(), st.booleans())
def test_the_parts_add_up(events: list[tuple[Any, ...]], vectors: bool, words: bool) -> None:
    for number, (score, why) in enumerate(explain(events, use_vectors=vectors, use_words=words)):
        assert math.fsum(why.parts.values()) == pytest.approx(score, rel=1e-9, abs=1e-12)
        assert (why.vector.score + why.text.score) * why.boost == pytest.approx(
            score, rel=1e-9, abs=1e-9
        )
        for arm in (why.vector, why.text):
            given_by = [near.score for near in arm.neighbours]
            total = math.fsum([arm.own_score, arm.assumed, *given_by])
            assert total == pytest.approx(arm.score, rel=1e-9, abs=1e-9)
            assert all(near.id.int != number for near in arm.neighbours)
        assert why.text.assumed == 0
        if not words:
            assert why.text.score == 0
        if not vectors:
            assert why.vector.score == 0


def test_neighbours_are_named_with_what_they_added() -> None:
    silent, speaking = (0, 0, 0.2, 10, False, True), (3, 0, 0.9, 10, False, False)
    (_, why), (_, other) = explain([silent, speaking], use_vectors=True, use_words=True)
    assert [near.id.int for near in why.text.neighbours] == [1]
    assert why.text.own_score == 0
    assert why.text.score == pytest.approx(why.text.neighbours[0].score) == pytest.approx(0.7, 0.02)
    assert [near.id.int for near in why.vector.neighbours] == [1]
    assert why.vector.raw == pytest.approx(0.2)
    assert other.text.neighbours == []
    assert other.text.own_score == pytest.approx(1)
    assert other.terms.keys() == {"rare"}
    assert other.terms["rare"].frequency == 3


def test_what_has_no_vector_owns_nothing_of_its_likeness() -> None:
    events = [(0, 0, math.nan, 10, False, False), (0, 0, 0.5, 10, False, False)]
    (_, why), _ = explain(events, use_vectors=True, use_words=False)
    assert why.vector.raw is None
    assert why.vector.own_score == 0
    assert why.vector.assumed == pytest.approx(why.vector.score)
