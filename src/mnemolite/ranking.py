"""The ranking: from what the arms know of each candidate to one score, in arrays, without I/O.

Each constant was chosen on one half of four corpora together and confirmed on the other half;
``docs/retrieval.md`` has the ablations.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# Words at which an event stops being a remark and becomes a document.
LENGTH_SCALE = 100.0
# How much of its words' and its vector's weight the longest document loses: a long text has many
# chances to be near to anything.
LONG_WORDS = 0.5
LONG_VECTORS = 0.2
# What a word, or a likeness, 1, 2, 3 events away in the conversation counts.
WORD_SPREAD = (0.7, 0.5, 0.3)
VECTOR_SPREAD = (0.5, 0.5)
VECTOR_WEIGHT = 1.5
# Below this share of the question's weight in words the words arm fades: it has found little.
COVERAGE = 0.2
SPEAKER_BOOST = 0.15
# The evidence at which a question is as likely to be known of as not, and how fast that changes.
CONFIDENCE_MIDDLE = 0.69
CONFIDENCE_SLOPE = 12.9

_ABSENT = -1


@dataclass(frozen=True, slots=True)
class Pool:
    """Everything that could become a hit, as rows of arrays.

    ``frequencies`` is (rows, terms); ``cosines`` has NaN where there is no vector; ``nearest``
    marks what the vector arm found by itself; ``nearby`` is (rows, 2 * reach): the rows of the
    session neighbours at -reach … -1, 1 … reach, or -1. ``boosts`` are factors of the score.
    """

    words: Floats
    frequencies: Floats
    cosines: Floats
    nearest: NDArray[np.bool_]
    named: NDArray[np.bool_]
    nearby: Ints
    boosts: Mapping[str, Floats] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Bm25:
    """The two constants of BM25 (Robertson and Zaragoza, 2009), which settings may change."""

    k1: float = 0.9  # how fast further mentions of a word stop counting; above 0
    b: float = 0.4  # how much of an event's length is held against it, 0 to 1


@dataclass(frozen=True, slots=True)
class Weights:
    """The question's side of the words: one idf a term, and the namespace's average length."""

    idf: Floats
    average_words: float
    bm25: Bm25 = Bm25()

    @property
    def mass(self) -> float:
        """The most that BM25 could give to one event, were every term in it without end."""
        return float(self.idf.sum()) * (self.bm25.k1 + 1)


@dataclass(frozen=True, slots=True)
class Ranking:
    """The scores of a pool's rows, and the parts that they are made of.

    ``scores == (vector + text) * boost`` in every row, and ``boost`` is the product of ``boosts``.
    ``evidence`` is what ``confidence`` is told from. ``own_vector`` (cosine) and ``own_text``
    (BM25) are what the event itself says, its length held against it, before its neighbours help.
    ``terms`` is ``own_text`` by term, ``length`` each row's ``long_share``, and ``floor`` what
    counts in place of a cosine that is not known.
    """

    scores: Floats
    vector: Floats
    text: Floats
    boost: Floats
    bm25: Floats
    own_vector: Floats
    own_text: Floats
    terms: Floats
    length: Floats
    floor: float
    boosts: Mapping[str, Floats]
    evidence: Floats

    def boosted(self, name: str, factors: Floats) -> "Ranking":
        """The ranking with one more boost."""
        return replace(
            self,
            scores=self.scores * factors,
            boost=self.boost * factors,
            boosts={**self.boosts, name: factors},
        )


def rank(pool: Pool, weights: Weights, *, use_vectors: bool, use_words: bool) -> Ranking:
    """Score every row of the pool by the arms that ran."""
    rows = len(pool.words)
    length = long_share(pool.words)
    contributions = bm25(pool.frequencies, pool.words, weights=weights)
    own_text = contributions * (1 - LONG_WORDS * length)[:, None]
    own_vector = pool.cosines * (1 - LONG_VECTORS * length)
    vector, text = np.zeros(rows), np.zeros(rows)
    floor = _floor(own_vector, pool.nearest)
    totals = word_totals(own_text, length, nearby=pool.nearby)
    if use_vectors and rows:
        weight = VECTOR_WEIGHT if use_words else 1.0
        vector = weight * vector_scores(own_vector, length, nearby=pool.nearby, floor=floor)
    if use_words and rows:
        text = word_scores(totals, mass=weights.mass)
    boosts = {"speaker": np.where(pool.named, 1.0 + SPEAKER_BOOST, 1.0), **pool.boosts}
    boost = np.prod(list(boosts.values()), axis=0)
    found = totals / weights.mass if weights.mass > 0 else np.full(rows, np.nan)
    return Ranking(
        scores=(vector + text) * boost,
        vector=vector,
        text=text,
        boost=boost,
        bm25=contributions.sum(axis=1),
        own_vector=np.nan_to_num(own_vector),
        own_text=own_text.sum(axis=1),
        terms=own_text,
        length=length,
        floor=floor,
        boosts=boosts,
        evidence=pool.cosines + found,
    )


def confidence(evidence: Floats) -> float | None:
    """Whether the memory knows of the question's subject, in [0, 1]; None if none is known.

    The best of cosine and share of the question's words found, as a probability. Fitted on every
    second question of four corpora, asked in their own namespace and in a wrong one.
    """
    known = evidence[~np.isnan(evidence)]
    if not len(known):
        return None
    return float(1 / (1 + np.exp(-CONFIDENCE_SLOPE * (known.max() - CONFIDENCE_MIDDLE))))


def long_share(words: Floats) -> Floats:
    """0 for a remark, 1 for a document: L² / (L² + scale²)."""
    squared = words**2
    return np.asarray(squared / (squared + LENGTH_SCALE**2))


def bm25(frequencies: Floats, words: Floats, *, weights: Weights) -> Floats:
    """What each term adds to each row's BM25, (rows, terms)."""
    k1, b = weights.bm25.k1, weights.bm25.b
    norm = k1 * (1 - b + b * words / weights.average_words)
    # With b = 1 an event without words has no norm, and no frequency either.
    saturated = frequencies * (k1 + 1) / np.maximum(frequencies + norm[:, None], 1e-9)
    return np.asarray(weights.idf * saturated)


def word_totals(own: Floats, length: Floats, *, nearby: Ints) -> Floats:
    """Every term once, at its best place in the conversation around, summed for each row.

    A term said by the event itself counts whole; one said next to it counts less. Summing the
    events' totals instead would count a word again for each time it is repeated.
    """
    return np.asarray(heard_words(own, length, nearby=nearby).max(axis=0).sum(axis=1))


def word_scores(totals: Floats, *, mass: float) -> Floats:
    """The totals as a share of the best row, less where even that one holds little."""
    top = float(totals.max(initial=0.0))
    if top <= 0 or mass <= 0:
        return np.zeros(len(totals))
    return np.asarray(totals / top * min(1.0, top / (COVERAGE * mass)))


def vector_scores(own: Floats, length: Floats, *, nearby: Ints, floor: float) -> Floats:
    """Likeness spread to the neighbours in the session, as a share of the best row.

    What has no vector, or no neighbour, counts as ``floor``, so that nothing is lost or won by
    being unknown. A document needs no context: its neighbours' share fades with its length.
    Where nothing is alike, and the worst row is further from 0 than the best one, that one is the
    measure: no share is beyond -1 or 1.
    """
    known = np.where(np.isnan(own), floor, own)
    gains, _ = likely_neighbours(known, length, nearby=nearby, floor=floor)
    spread = known + gains.sum(axis=0)
    return np.asarray(spread / max(float(np.abs(spread).max()), 1e-9))


def heard_words(own: Floats, length: Floats, *, nearby: Ints) -> Floats:
    """What each term counts for each row, said by the row itself or at each place of ``nearby``.

    (1 + places, rows, terms); a document hears less of its neighbours.
    """
    weights = [*reversed(WORD_SPREAD), *WORD_SPREAD]
    shortness = (1 - length)[:, None]
    heard = [
        weight * shortness * _at(own, nearby[:, place], absent=0.0)
        for place, weight in enumerate(weights)
    ]
    return np.stack([own, *heard])


def likely_neighbours(
    known: Floats, length: Floats, *, nearby: Ints, floor: float
) -> tuple[Floats, Ints]:
    """What is added to each row's cosine at each step, and the row it comes from, or -1.

    Both are (steps, rows).
    """
    gains, givers = [], []
    for weight, before, after in _steps(VECTOR_SPREAD, nearby):
        early, late = _at(known, before, absent=-1.0), _at(known, after, absent=-1.0)
        giver = np.where(late > early, after, before)
        giver = np.where(before == _ABSENT, after, giver)
        near = np.where(giver == _ABSENT, floor, np.maximum(early, late))
        gains.append(weight * (floor + (1 - length) * (near - floor)))
        givers.append(giver)
    return np.stack(gains), np.stack(givers)


def _floor(own: Floats, nearest: NDArray[np.bool_]) -> float:
    """The least similar of the vector arm's own candidates."""
    known = own[nearest & ~np.isnan(own)]
    return float(known.min()) if len(known) else 0.0


def chain_neighbours(
    links: Sequence[tuple[int, int]], members: int, *, reach: int = len(WORD_SPREAD)
) -> Ints:
    """``nearby`` of a pool from links (row, next row); rows >= ``members`` only connect others."""
    rows, next_rows = np.array(links, dtype=np.int64).reshape(-1, 2).T
    nobody = max(members, int(rows.max(initial=0)) + 1, int(next_rows.max(initial=0)) + 1)
    before = _walk(next_rows, rows, nobody=nobody, steps=reach)
    after = _walk(rows, next_rows, nobody=nobody, steps=reach)
    places = np.stack([*reversed(before), *after], axis=1)[:members]
    return np.where(places < members, places, _ABSENT)


def _walk(rows: Ints, following: Ints, *, nobody: int, steps: int) -> list[Ints]:
    """Where each row, followed step by step, leads; ``nobody`` follows the last."""
    after = np.full(nobody + 1, nobody, dtype=np.int64)
    after[rows] = following
    reached = [after]
    for _ in range(steps - 1):
        reached.append(after[reached[-1]])
    return reached


def _steps(weights: Sequence[float], nearby: Ints) -> list[tuple[float, Ints, Ints]]:
    reach = nearby.shape[1] // 2
    return [
        (weight, nearby[:, reach - step], nearby[:, reach + step - 1])
        for step, weight in enumerate(weights, start=1)
    ]


def _at(values: Floats, rows: Ints, *, absent: float) -> Floats:
    taken = values[np.maximum(rows, 0)]
    missing = rows == _ABSENT
    return np.where(missing if values.ndim == 1 else missing[:, None], absent, taken)
