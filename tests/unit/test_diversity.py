"""Diversity: copies come last, what is alike is held back, and nothing else moves."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mnemolite.diversity import LIKE, diversify, vector_likeness, word_likeness


def test_a_copy_comes_last_however_good() -> None:
    copies = np.eye(3, dtype=bool)
    copies[0, 1] = copies[1, 0] = True
    order, factors = diversify(
        np.array([3.0, 2.9, 0.1]), np.zeros((3, 3)), copies=copies, diversity=0.01
    )
    assert order == [0, 2, 1]
    assert factors.tolist() == [1, 0, 1]


def test_what_is_alike_is_held_back_by_as_much() -> None:
    likeness = np.array([[1, 0.8, 0], [0.8, 1, 0], [0, 0, 1]])
    order, factors = diversify(
        np.array([2.0, 1.8, 1.5]), likeness, copies=np.eye(3, dtype=bool), diversity=0.5
    )
    assert order == [0, 2, 1]
    assert factors == pytest.approx([1, 0.6, 1])


def test_vectors_are_alike_from_a_cosine_on() -> None:
    angle = np.arccos((1 + LIKE) / 2)
    one = np.array([1, 0], np.float32)
    near = np.array([np.cos(angle), np.sin(angle)], np.float32)
    far = np.array([0, 1], np.float32)
    likeness = vector_likeness([one, near, far, None])
    assert likeness[0] == pytest.approx([1, 0.5, 0, 0], abs=1e-6)
    assert vector_likeness([None, None]).tolist() == [[0, 0], [0, 0]]


def test_words_are_alike_by_what_they_share() -> None:
    likeness = word_likeness([frozenset("abc"), frozenset("bcd"), frozenset()])
    assert likeness[0].tolist() == [0, 0.5, 0]
    assert (likeness == likeness.T).all()


@given(
    st.lists(st.floats(-2, 5), max_size=12),
    st.floats(0, 1),
    st.randoms(use_true_random=False),
)
def test_nothing_is_lost_and_no_score_grows(
    scores: list[float], diversity: float, random: np.random.Generator
) -> None:
    rows = len(scores)
    likeness = np.array([[random.random() for _ in range(rows)] for _ in range(rows)])
    likeness = np.maximum(likeness, likeness.T).reshape(rows, rows)
    copies = np.eye(rows, dtype=bool)
    order, factors = diversify(np.array(scores), likeness, copies=copies, diversity=diversity)
    assert sorted(order) == list(range(rows))
    assert ((factors >= 0) & (factors <= 1)).all()
    final = np.array(scores) * factors
    assert (np.diff(final[order]) <= 1e-12).all()
