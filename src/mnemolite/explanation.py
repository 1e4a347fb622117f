"""Explanations: who gave how much to a hit's score, and how a query was understood."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from mnemolite.arms import ArmResult, SearchJob
from mnemolite.models import (
    Arm,
    ArmExplanation,
    Explanation,
    NeighbourShare,
    QueryTerm,
    SearchExplanation,
    TermExplanation,
)
from mnemolite.ranking import Floats, Pool, Ranking, heard_words, likely_neighbours

Row = dict[str, Any]

_NOBODY = -1


@dataclass(frozen=True, slots=True)
class Shares:
    """What each row's score in one arm is made of.

    ``own`` is (rows,), ``given`` (sources, rows) what came from elsewhere, ``givers`` the rows it
    came from, or -1 for what merely counts in place of a neighbour that is not there.
    """

    own: Floats
    given: Floats
    givers: NDArray[np.int64]


class Explainer:
    """Explains the hits of one ranking; the same steps are walked again, with names."""

    def __init__(
        self, job: SearchJob, rows: Sequence[Row], *, pool: Pool, ranking: Ranking
    ) -> None:
        self._job = job
        self._rows = rows
        self._ranking = ranking
        self._vector = vector_shares(pool, ranking)
        self._text = text_shares(pool, ranking)
        self._no_vector = np.isnan(pool.cosines)
        self._cosines = pool.cosines

    def explain(self, place: int, ranks: Mapping[Arm, int | None]) -> Explanation:
        """Why the row at ``place`` has its score; ``ranks`` are its ranks in the arms."""
        ranking, row = self._ranking, self._rows[place]
        unknown = bool(self._no_vector[place])
        vector = self._arm(
            self._vector,
            place,
            rank=ranks.get("vector"),
            raw=None if unknown else float(self._cosines[place]),
            own=float(ranking.own_vector[place]),
        )
        if unknown:  # what the event has is what counts in place of its vector
            vector = vector.model_copy(
                update={"own_score": 0.0, "assumed": vector.assumed + vector.own_score}
            )
        text = self._arm(
            self._text,
            place,
            rank=ranks.get("text"),
            raw=float(ranking.bm25[place]) or None,
            own=float(ranking.own_text[place]),
        )
        return Explanation(
            vector=vector,
            text=text,
            boost=float(ranking.boost[place]),
            boosts={name: float(factors[place]) for name, factors in ranking.boosts.items()},
            parts=_parts(vector, text, score=float(ranking.scores[place])),
            words=row["words"],
            terms=self._terms(row),
        )

    def _arm(
        self, shares: Shares, place: int, *, rank: int | None, raw: float | None, own: float
    ) -> ArmExplanation:
        from_others: dict[int, float] = {}
        for giver, share in zip(shares.givers[:, place], shares.given[:, place], strict=True):
            from_others[int(giver)] = from_others.get(int(giver), 0.0) + float(share)
        assumed = from_others.pop(_NOBODY, 0.0)
        neighbours = [
            NeighbourShare(id=UUID(self._rows[giver]["id"]), score=share)
            for giver, share in sorted(from_others.items(), key=lambda pair: -abs(pair[1]))
            if share
        ]
        own_score = float(shares.own[place])
        return ArmExplanation(
            rank=rank,
            raw=raw,
            own=own,
            own_score=own_score,
            neighbours=neighbours,
            assumed=assumed,
            score=own_score + assumed + sum(near.score for near in neighbours),
        )

    def _terms(self, row: Row) -> dict[str, TermExplanation]:
        found = zip(self._job.question.terms, row["frequencies"], strict=True)
        return {
            term.lexeme: TermExplanation(
                idf=term.idf, documents=term.documents, frequency=frequency
            )
            for term, frequency in found
            if frequency
        }


def vector_shares(pool: Pool, ranking: Ranking) -> Shares:
    """The parts of ``ranking.vector``."""
    known = np.where(np.isnan(pool.cosines), ranking.floor, ranking.own_vector)
    gains, givers = likely_neighbours(
        known, ranking.length, nearby=pool.nearby, floor=ranking.floor
    )
    scale = _scale(ranking.vector, known + gains.sum(axis=0))
    return Shares(known * scale, gains * scale, givers)


def text_shares(pool: Pool, ranking: Ranking) -> Shares:
    """The parts of ``ranking.text``: each term belongs to whoever said it best, or first."""
    heard = heard_words(ranking.terms, ranking.length, nearby=pool.nearby)
    winners = heard.argmax(axis=0)
    sources = np.arange(len(heard))[:, None, None]
    shares = np.where(winners == sources, heard, 0.0).sum(axis=2)
    scale = _scale(ranking.text, shares.sum(axis=0))
    return Shares(shares[0] * scale, shares[1:] * scale, pool.nearby.T)


def account(job: SearchJob, arms: Mapping[Arm, ArmResult]) -> SearchExplanation:
    """How the query was understood, what its arms found, and where the time went."""
    query, question = job.query, job.question
    looked_for = {
        term.lexeme: QueryTerm(idf=term.idf, documents=term.documents) for term in question.terms
    }
    return SearchExplanation(
        namespace=query.namespace,
        session=query.session,
        since=query.since,
        until=query.until,
        where=query.where,
        phrases=list(question.phrases),
        excluded=list(question.excluded),
        terms=looked_for,
        ignored=[lexeme for lexeme in question.asked if lexeme not in looked_for],
        found={arm: len(result.keys) for arm, result in arms.items()},
        timings=_timings(job),
    )


def _timings(job: SearchJob) -> dict[str, float]:
    """The vector arm's time without the embedding, which is listed by itself."""
    timings = job.watch.milliseconds()
    if "vector" in timings:
        timings["vector"] = round(timings["vector"] - timings.get("embedding", 0.0), 3)
    return timings


def _parts(vector: ArmExplanation, text: ArmExplanation, *, score: float) -> dict[str, float]:
    """What the score is the sum of; what multiplies it counts as what it adds."""
    parts: dict[str, float] = {}
    for name, arm in (("vector", vector), ("text", text)):
        parts[f"{name}.own"] = arm.own_score
        parts[f"{name}.neighbours"] = sum(near.score for near in arm.neighbours)
        parts[f"{name}.assumed"] = arm.assumed
    parts["boost"] = score - sum(parts.values())
    return parts


def _scale(scores: Floats, raw: Floats) -> float:
    """The factor between an arm's sums and what it gave to the fused scores."""
    if not len(raw):
        return 0.0
    top = int(np.abs(raw).argmax())
    return float(scores[top] / raw[top]) if raw[top] else 0.0
