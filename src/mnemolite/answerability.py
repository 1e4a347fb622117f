"""Answerability: how well `meta.confidence` tells what a memory can answer from the rest."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from mnemolite.evaluate import Progress, Question, read_rows
from mnemolite.memory import Memory
from mnemolite.models import DEFAULT_NAMESPACE, SearchQuery


def read_unanswerable(path: Path) -> list[Question]:
    """The questions that the file marks ``"answerable": false``. Raises InvalidFileError."""
    return [
        Question(
            text=row["text"],
            namespace=row.get("scope") or DEFAULT_NAMESPACE,
            category=str(row.get("category_name") or row.get("category") or "all"),
            relevant={},
        )
        for row in read_rows(path)
        if row.get("answerable") is False
    ]


def misplaced(questions: Sequence[Question]) -> list[Question]:
    """The same questions, each asked of the next namespace; none where there is only one."""
    names = sorted({question.namespace for question in questions})
    if len(names) == 1:
        return []
    following = dict(zip(names, [*names[1:], names[0]], strict=True))
    return [replace(one, namespace=following[one.namespace]) for one in questions]


async def measure_confidence(
    memory: Memory,
    questions: Sequence[Question],
    *,
    unanswerable: Sequence[Question],
    progress: Progress,
) -> dict[str, Any]:
    """Area under the ROC curve of the answerable questions against each kind of others.

    1 is perfect, 0.5 is chance, and null stands where a kind has no questions.
    """
    own = await _confidences(memory, questions, name="answerable", progress=progress)
    kinds = {"unanswerable": list(unanswerable), "wrong_namespace": misplaced(questions)}
    measured: dict[str, Any] = {
        "answerable": {"questions": len(own), "median": _median(own)},
    }
    for name, others in kinds.items():
        found = await _confidences(memory, others, name=name, progress=progress)
        area = auc(own, found)
        measured[name] = {
            "questions": len(found),
            "median": _median(found),
            "auc": None if area is None else round(area, 4),
        }
    return measured


def auc(positives: Sequence[float], negatives: Sequence[float]) -> float | None:
    """The chance that a positive ranks above a negative, ties counting half; None without both."""
    if not positives or not negatives:
        return None
    ordered = np.sort(np.asarray(negatives))
    below = np.searchsorted(ordered, positives, side="left")
    up_to = np.searchsorted(ordered, positives, side="right")
    return float((below + up_to).mean() / (2 * len(ordered)))


def _median(values: Sequence[float]) -> float | None:
    return round(float(np.median(values)), 4) if values else None


async def _confidences(
    memory: Memory, questions: Sequence[Question], *, name: str, progress: Progress
) -> list[float]:
    """What the memory says of each question; those of which it cannot tell are left out."""
    told = []
    for number, question in enumerate(questions, start=1):
        query = SearchQuery(q=question.text, namespace=question.namespace, limit=1)
        confidence = (await memory.search(query)).meta.confidence
        told += [] if confidence is None else [confidence]
        progress(name, number, len(questions))
    return told
