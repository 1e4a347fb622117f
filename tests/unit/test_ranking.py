"""The ranking's formula, part by part."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mnemolite.ranking import (
    LENGTH_SCALE,
    SPEAKER_BOOST,
    VECTOR_WEIGHT,
    WORD_SPREAD,
    Bm25,
    Pool,
    Weights,
    chain_neighbours,
    confidence,
    long_share,
    rank,
)
from mnemolite.settings import SearchSettings

WEIGHTS = Weights(np.array([2.0, 1.0]), 10.0)


def pool(
    frequencies: list[list[int]],
    cosines: list[float],
    *,
    links: list[tuple[int, int]] | None = None,
    words: list[int] | None = None,
    named: list[bool] | None = None,
) -> Pool:
    rows = len(cosines)
    return Pool(
        words=np.array(words or [10] * rows, float),
        frequencies=np.array(frequencies, float).reshape(rows, -1),
        cosines=np.array(cosines, float),
        nearest=~np.isnan(np.array(cosines, float)),
        named=np.array(named or [False] * rows),
        nearby=chain_neighbours(links or [], rows),
    )


def test_scores_are_the_sum_of_their_parts() -> None:
    ranking = rank(
        pool([[1, 0], [0, 3], [0, 0]], [0.5, 0.2, np.nan], named=[False, True, False]),
        WEIGHTS,
        use_vectors=True,
        use_words=True,
    )
    total = (ranking.vector + ranking.text) * ranking.boost
    assert ranking.scores == pytest.approx(total)
    assert ranking.boost.tolist() == [1, 1 + SPEAKER_BOOST, 1]
    assert ranking.vector.max() == pytest.approx(VECTOR_WEIGHT)
    assert ranking.text.max() == pytest.approx(1)


def test_a_rarer_word_weighs_more() -> None:
    ranking = rank(
        pool([[1, 0], [0, 1]], [np.nan, np.nan]), WEIGHTS, use_vectors=False, use_words=True
    )
    assert ranking.scores[0] > ranking.scores[1]


def test_constants_of_bm25() -> None:
    def said(frequencies: list[list[int]], words: list[int], **constants: float) -> list[float]:
        weights = replace(WEIGHTS, bm25=Bm25(**constants))
        found = pool(frequencies, [np.nan] * len(words), words=words)
        ranking = rank(found, weights, use_vectors=False, use_words=True)
        return [float(score) for score in ranking.bm25]

    once, often = said([[1, 0], [9, 0]], [10, 10], k1=1e-6)
    assert often == pytest.approx(once)
    once, often = said([[1, 0], [9, 0]], [10, 10], k1=10)
    assert often > 3 * once
    short, long = said([[1, 0], [1, 0]], [5, 20], b=0)
    assert short == long
    short, long, nothing = said([[1, 0], [1, 0], [0, 0]], [5, 20, 0], b=1)
    assert short > long > nothing == 0


def test_the_settings_have_the_defaults_of_bm25() -> None:
    settings = SearchSettings()
    assert Bm25(settings.bm25_k1, settings.bm25_b) == Bm25()


def test_a_word_beside_an_event_counts_less_and_only_once() -> None:
    frequencies = [[1, 0], [0, 0], [1, 0], [0, 0]]
    ranking = rank(
        pool(frequencies, [np.nan] * 4, links=[(0, 1), (1, 2)]),
        WEIGHTS,
        use_vectors=False,
        use_words=True,
    )
    own, beside, other, alone = ranking.text
    assert own == other
    # The terms of length take a little more from the neighbour's share.
    assert beside == pytest.approx(WORD_SPREAD[0] * own, rel=0.02)
    assert alone == 0


def test_an_event_without_a_vector_is_neither_lost_nor_first() -> None:
    ranking = rank(
        pool([[0, 0]] * 3, [0.9, 0.1, np.nan]), WEIGHTS, use_vectors=True, use_words=False
    )
    assert ranking.scores[0] > ranking.scores[1] == ranking.scores[2] > 0


@pytest.mark.parametrize("cosines", [[-0.02, -0.3], [0.001, -0.3], [-0.3, -0.3], [0.0, 0.0]])
def test_unlike_events_are_worth_no_more_than_like_ones(cosines: list[float]) -> None:
    ranking = rank(pool([[0, 0], [3, 2]], cosines), WEIGHTS, use_vectors=True, use_words=True)
    assert np.abs(ranking.vector).max() <= VECTOR_WEIGHT
    alone = rank(pool([[0, 0], [0, 0]], cosines), WEIGHTS, use_vectors=True, use_words=False)
    assert np.abs(alone.scores).max() <= 1
    assert (alone.scores[0] >= alone.scores[1]) == (cosines[0] >= cosines[1])


def test_a_likely_neighbour_helps() -> None:
    ranking = rank(
        pool([[0, 0]] * 3, [0.9, 0.3, 0.3], links=[(0, 1)]),
        WEIGHTS,
        use_vectors=True,
        use_words=False,
    )
    assert ranking.scores[1] > ranking.scores[2]


def test_of_two_likely_events_the_shorter_one_wins() -> None:
    ranking = rank(
        pool([[1, 0]] * 2, [0.5, 0.5], words=[20, 600]), WEIGHTS, use_vectors=True, use_words=True
    )
    assert ranking.scores[0] > ranking.scores[1]


def test_the_share_of_length() -> None:
    assert long_share(np.array([0.0, LENGTH_SCALE, 1e9])) == pytest.approx([0, 0.5, 1])


def test_words_that_cover_little_of_the_question_fade() -> None:
    many = Weights(np.array([1.0] * 30), 10.0)
    weak = rank(pool([[1] + [0] * 29], [0.5]), many, use_vectors=True, use_words=True)
    strong = rank(pool([[1] * 30], [0.5]), many, use_vectors=True, use_words=True)
    assert weak.text[0] < strong.text[0] == pytest.approx(1)


@given(st.integers(1, 12), st.integers(0, 4))
def test_neighbours_of_a_chain(members: int, outside: int) -> None:
    links = [(row, row + 1) for row in range(members + outside - 1)]
    nearby = chain_neighbours(links, members)
    for row in range(members):
        for column, step in enumerate((-3, -2, -1, 1, 2, 3)):
            at = row + step
            assert nearby[row, column] == (at if 0 <= at < members else -1)


@given(
    st.lists(
        st.tuples(
            st.integers(0, 32), st.integers(0, 32), st.floats(-1, 1) | st.just(float("nan")),
            st.integers(0, 5000), st.booleans(),
        ),
        min_size=1,
        max_size=20,
    )
)  # fmt: skip
def test_scores_are_finite_whatever_the_pool(rows: list[tuple[int, int, float, int, bool]]) -> None:
    ranking = rank(
        pool(
            [[one, two] for one, two, *_ in rows],
            [cosine for _, _, cosine, _, _ in rows],
            links=[(row, row + 1) for row in range(len(rows) - 1)],
            words=[words for *_, words, _ in rows],
            named=[named for *_, named in rows],
        ),
        WEIGHTS,
        use_vectors=True,
        use_words=True,
    )
    assert np.isfinite(ranking.scores).all()


def test_a_question_without_words_ranks_by_vectors() -> None:
    none = Weights(np.array([]), 10.0)
    ranking = rank(pool([[], []], [0.1, 0.9]), none, use_vectors=True, use_words=True)
    assert ranking.scores[1] > ranking.scores[0]


def test_boosts_multiply() -> None:
    boosted = replace(
        pool([[1, 0], [0, 1]], [0.5, 0.2], named=[True, False]),
        boosts={"recency": np.array([0.9, 1.0]), "importance": np.array([1.0, 1.5])},
    )
    ranking = rank(boosted, WEIGHTS, use_vectors=True, use_words=True)
    assert ranking.boost == pytest.approx([(1 + SPEAKER_BOOST) * 0.9, 1.5])
    assert ranking.scores == pytest.approx((ranking.vector + ranking.text) * ranking.boost)
    once_more = ranking.boosted("diversity", np.array([1.0, 0.5]))
    assert once_more.boost == pytest.approx(np.prod(list(once_more.boosts.values()), axis=0))
    assert once_more.scores == pytest.approx(ranking.scores * [1, 0.5])


def test_confidence_grows_with_likeness_and_with_words_found() -> None:
    def told(frequencies: list[int], cosine: float) -> float | None:
        only = pool([frequencies], [cosine])
        return confidence(rank(only, WEIGHTS, use_vectors=True, use_words=True).evidence)

    nothing, likeness, both = told([0, 0], 0.1), told([0, 0], 0.8), told([3, 3], 0.8)
    assert nothing is not None
    assert likeness is not None
    assert both is not None
    assert 0 <= nothing < likeness < both <= 1
    assert nothing < 0.01
    assert likeness > 0.5


def test_confidence_is_not_told_without_vectors_or_words() -> None:
    no_vectors = rank(pool([[1, 0]], [np.nan]), WEIGHTS, use_vectors=False, use_words=True)
    assert confidence(no_vectors.evidence) is None
    no_words = Weights(np.array([]), 10.0)
    assert (
        confidence(rank(pool([[]], [0.9]), no_words, use_vectors=True, use_words=True).evidence)
        is None
    )
    assert confidence(np.array([])) is None
