"""The recall check: what the served plan for vectors finds of what an exact search finds."""

import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

import numpy as np

from mnemolite.arms import ArmResult, Arms, SearchJob
from mnemolite.evaluate import draw_texts
from mnemolite.every_vector import nearest_to_each
from mnemolite.memory import Memory
from mnemolite.models import SearchQuery
from mnemolite.selectivity import SHARES, Case, choose, count_matching, make_cases

_CUTS = (10, 100)
# Distances this close are equal: the same sum in another order differs by less.
_TOLERANCE = 1e-6

Progress = Callable[[str, int, int], None]


@dataclass(slots=True)
class Outcome:
    """What was measured under one filter, a number for each question."""

    case: Case
    rows: int
    plans: Counter[str] = field(default_factory=Counter)
    estimates: list[int] = field(default_factory=list)
    recalls: dict[int, list[float]] = field(default_factory=lambda: {cut: [] for cut in _CUTS})
    milliseconds: list[float] = field(default_factory=list)

    def add(self, served: ArmResult, exact: Sequence[float], *, milliseconds: float) -> None:
        if served.plan is not None:
            self.plans[served.plan.vector] += 1
            if served.plan.estimated_rows is not None:
                self.estimates.append(served.plan.estimated_rows)
        self.milliseconds.append(milliseconds)
        for cut, recalls in self.recalls.items():
            recalls.append(recall(served.scores, exact, cut=cut))

    def summary(self, table_rows: int) -> dict[str, Any]:
        """The row of this filter, as the command prints it."""
        p50, p95 = np.percentile(self.milliseconds, [50, 95])
        return {
            "filter": self.case.kind,
            "target": self.case.target,
            "share": self.rows / table_rows,
            "rows": self.rows,
            "plans": dict(self.plans),
            "estimated_rows": int(np.median(self.estimates)) if self.estimates else None,
            **{f"recall@{cut}": round(float(np.mean(of)), 4) for cut, of in self.recalls.items()},
            "worst_recall@10": round(min(self.recalls[_CUTS[0]]), 4),
            "latency_ms": {"p50": round(float(p50), 2), "p95": round(float(p95), 2)},
            "fields": {name: _printable(value) for name, value in self.case.fields.items()},
        }


def recall(served: Sequence[float], exact: Sequence[float], *, cut: int) -> float:
    """The share of the nearest ``cut`` events that was found, by distances: ties are equal.

    1.0 when nothing passes the filter.
    """
    nearest = exact[:cut]
    if not nearest:
        return 1.0
    found = sum(distance <= nearest[-1] + _TOLERANCE for distance in served[:cut])
    return found / len(nearest)


async def check_recall(
    memory: Memory,
    *,
    namespace: str | None,
    texts: Sequence[str] = (),
    count: int,
    progress: Progress,
) -> dict[str, Any]:
    """Ask under every filter that the data allow, and read every vector beside; read-only.

    ``texts`` are the questions; without them, ``count`` are drawn from the events. The latency is
    that of the vector arm, the choice of the plan included and the model left out.
    """
    namespaces = await memory.namespaces()
    chosen = choose(namespaces, namespace)
    progress("looking for filters", 0, 1)
    cases = await make_cases(memory, chosen, of=namespaces)
    asked = list(texts)[:count] or await draw_texts(memory, chosen.name, count=count)
    vectors = [(await memory.embedder.embed_query(text)).tolist() for text in asked]
    questions = list(zip(asked, vectors, strict=True))
    outcomes = []
    for number, case in enumerate(cases):
        progress(case.kind, number, len(cases))
        outcomes.append(await _measure(memory, case, questions=questions))
    table_rows = sum(one.events for one in namespaces)
    return {
        "namespace": chosen.name,
        "events": chosen.events,
        "table_rows": table_rows,
        "questions": len(asked),
        "rows": [outcome.summary(table_rows) for outcome in outcomes],
        "missing": [
            {"filter": kind, "target": share}
            for kind in ("metadata", "namespace")
            for share in SHARES
            if not any((case.kind, case.target) == (kind, share) for case in cases)
        ],
    }


async def _measure(
    memory: Memory, case: Case, *, questions: Sequence[tuple[str, list[float]]]
) -> Outcome:
    arms = Arms(memory.database)
    outcome = Outcome(case, await count_matching(memory, SearchQuery(q="-", **case.fields)))
    jobs = [job async for job in _jobs(memory, case, questions=questions)]
    exact = await _exact(memory, jobs)
    for number, job in enumerate(jobs):
        started = time.perf_counter()
        served = await arms.vector(job)
        elapsed = (time.perf_counter() - started) * 1000
        outcome.add(served, exact[number], milliseconds=elapsed)
    return outcome


async def _exact(memory: Memory, jobs: Sequence[SearchJob]) -> list[Sequence[float]]:
    """The distances of the nearest events to each question, in one pass over the vectors."""
    vectors = np.array([job.query.vector for job in jobs], dtype=np.float32)
    found = await nearest_to_each(
        memory.database, jobs[0], space=memory.space, vectors=vectors, depth=max(_CUTS)
    )
    return [distances.tolist() for distances in found]


async def _jobs(
    memory: Memory, case: Case, *, questions: Sequence[tuple[str, list[float]]]
) -> AsyncIterator[SearchJob]:
    """The questions as a search would read them, with their vectors already there.

    What their words demand or exclude is left aside, so that all have the filter of the case.
    """
    for text, vector in questions:
        query = SearchQuery(q=text, vector=vector, mode="vector", **case.fields)
        question = await memory.lexicon.question(query.namespace, text, space=memory.space.id)
        plain = replace(question, phrases=(), excluded=())
        yield SearchJob(query, plain, memory.space, memory.embedder)


def _printable(value: object) -> object:
    return value.isoformat() if isinstance(value, datetime) else value
