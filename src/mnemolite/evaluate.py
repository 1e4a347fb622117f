"""Evaluation: load a corpus, ask its questions in the served way, and measure what was found."""

import gzip
import hashlib
import json
import math
import random
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnemolite.errors import InvalidFileError, InvalidInputError
from mnemolite.memory import Memory
from mnemolite.migrations import schema_digest
from mnemolite.models import DEFAULT_NAMESPACE, Hit, Mode, NewEvent, SearchQuery, SearchResult
from mnemolite.settings import Settings
from mnemolite.sql import load

_queries = load("evaluate")

DEPTH = 20
_CUTS = (5, 10, 20)
_TOP = 10
_BATCH = 1000
# An estimate, said as such: English text has about four characters a token.
_CHARACTERS_PER_TOKEN = 4
_BOOTSTRAP_SAMPLES = 2000
# What a question drawn from an event has of its words.
_DRAWN_WORDS = (3, 8)
_WORD = re.compile(r"\w+")
# Nothing of a stored corpus depends on these.
_RUNTIME_ONLY = {"cache_size", "threads"}

Row = dict[str, Any]
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Question:
    """A question, and which documents answer it."""

    text: str
    namespace: str
    category: str
    relevant: Mapping[str, float]


@dataclass(slots=True)
class Scores:
    """What was measured for one mode, a number for each question."""

    values: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    categories: list[str] = field(default_factory=list)

    def add(self, category: str, measured: Mapping[str, float]) -> None:
        self.categories.append(category)
        for name, value in measured.items():
            self.values[name].append(value)

    def summary(self) -> dict[str, Any]:
        """``overall`` and ``by_category``, as the command prints them."""
        everyone = range(len(self.categories))
        groups: dict[str, list[int]] = defaultdict(list)
        for number, category in enumerate(self.categories):
            groups[category].append(number)
        return {
            "overall": self._mean(everyone),
            "by_category": {name: self._mean(groups[name]) for name in sorted(groups)},
        }

    def _mean(self, numbers: Iterable[int]) -> dict[str, Any]:
        chosen = list(numbers)
        means: dict[str, Any] = {
            name: round(float(np.mean([values[number] for number in chosen])), 4)
            for name, values in self.values.items()
            if name != "latency_ms"
        }
        latency = [self.values["latency_ms"][number] for number in chosen]
        p50, p95 = np.percentile(latency, [50, 95])
        means["queries"] = len(chosen)
        means["latency_ms"] = {"p50": round(float(p50), 2), "p95": round(float(p95), 2)}
        return means


def read_rows(path: Path) -> Iterator[Row]:
    """The JSON objects of a file of lines, plain or gzip. Raises InvalidFileError."""
    try:
        with path.open("rb") as raw:
            packed = raw.read(2) == b"\x1f\x8b"
        with gzip.open(path) if packed else path.open("rb") as lines:
            yield from map(_as_row, lines)
    except (OSError, EOFError, ValueError) as error:
        raise InvalidFileError(f"{path}: {error}.", field="file") from error


def read_questions(
    path: Path, categories: Sequence[str] = (), *, namespace: str | None = None
) -> list[Question]:
    """The questions that have an answer, of these categories if any are named.

    ``namespace`` is where to ask them all; without it each names its own.
    """
    questions = [
        _as_question(row, path, namespace=namespace)
        for row in read_rows(path)
        if row.get("relevant") and row.get("answerable") is not False
    ]
    chosen = [one for one in questions if not categories or one.category in categories]
    if not chosen:
        raise InvalidFileError(f"{path}: no question with evidence.", field="queries")
    return chosen


def read_texts(path: Path) -> list[str]:
    """The texts of a file of questions, whether they have answers or not."""
    texts = [text for row in read_rows(path) if isinstance(text := row.get("text"), str)]
    if not any(text.strip() for text in texts):
        raise InvalidFileError(f"{path}: no line has a text.", field="queries")
    return [text for text in texts if text.strip()]


async def draw_texts(memory: Memory, namespace: str, *, count: int, seed: int = 0) -> list[str]:
    """Questions made of a few neighbouring words of stored events: the same for the same events.

    Raises InvalidInputError when the namespace holds no words.
    """
    parameters = {"namespace": namespace, "seed": str(seed), "count": count}
    async with memory.database.own_connection() as connection:
        cursor = await connection.execute(_queries["texts"], parameters)
        texts = [row["text"] async for row in cursor]
    drawn = [" ".join(_some_words(_WORD.findall(text), text)) for text in texts]
    if not any(drawn):
        raise InvalidInputError(
            f"The namespace {namespace!r} holds no text to draw questions from.",
            field="--namespace",
            remedy="Import events first, or name a file with --queries.",
        )
    return [text for text in drawn if text]


def scratch_name(corpus: Path, settings: Settings) -> str:
    """The scratch database of a corpus, named after all that its contents depend on.

    Raises InvalidFileError when the corpus cannot be read.
    """
    try:
        digest = hashlib.sha256(corpus.read_bytes())
    except OSError as error:
        raise InvalidFileError(f"{corpus}: {error.strerror}.", field="corpus") from error
    digest.update(settings.embedding.model_dump_json(exclude=_RUNTIME_ONLY).encode())
    digest.update(settings.search.default_language.encode())
    digest.update(schema_digest().encode())
    return f"mnemolite_eval_{digest.hexdigest()[:16]}"


async def load_corpus(memory: Memory, path: Path, *, progress: Progress) -> int:
    """Store the documents as events, in the order of their sessions; how many there are.

    What an earlier run has stored before it was interrupted is not stored again: the order of the
    documents is always the same, and a batch is stored whole. Raises InvalidFileError.
    """
    events = _read_documents(path)
    for start in range((await memory.stats()).events, len(events), _BATCH):
        await memory.add_many(events[start : start + _BATCH])
        progress("storing", min(start + _BATCH, len(events)), len(events))
    return len(events)


async def ask(
    memory: Memory, questions: Sequence[Question], *, mode: Mode, progress: Progress
) -> Scores:
    """Ask every question once and score the answers."""
    scores = Scores()
    for number, question in enumerate(questions, start=1):
        query = SearchQuery(q=question.text, namespace=question.namespace, mode=mode, limit=DEPTH)
        started = time.perf_counter()
        result = await memory.search(query)
        elapsed = (time.perf_counter() - started) * 1000
        scores.add(question.category, measure(question, result) | {"latency_ms": elapsed})
        progress(mode, number, len(questions))
    return scores


def measure(question: Question, result: SearchResult) -> dict[str, float]:
    """The measures of one answer; see ``docs/retrieval.md`` for each."""
    grades = [_grade(question, hit) for hit in result.data]
    measured = {
        f"recall@{cut}": sum(grade > 0 for grade in grades[:cut]) / len(question.relevant)
        for cut in _CUTS
    }
    first = next((place for place, grade in enumerate(grades, start=1) if grade > 0), None)
    ideal = _gain(sorted(question.relevant.values(), reverse=True)[:_TOP])
    return measured | {
        "ndcg@10": _gain(grades[:_TOP]) / ideal,
        "mrr": 1 / first if first else 0.0,
        "any@10": float(any(grades[:_TOP])),
        "tokens@10": sum(len(hit.text) for hit in result.data[:_TOP]) / _CHARACTERS_PER_TOKEN,
    }


def difference(one: Scores, other: Scores, *, name: str = "recall@10") -> dict[str, float]:
    """Mean difference of two modes over the same questions, with its paired bootstrap interval."""
    deltas = np.array(one.values[name]) - np.array(other.values[name])
    generator = np.random.default_rng(0)
    picks = generator.integers(0, len(deltas), (_BOOTSTRAP_SAMPLES, len(deltas)))
    low, high = np.percentile(deltas[picks].mean(axis=1), [2.5, 97.5])
    return {
        "mean": round(float(deltas.mean()), 4),
        "low": round(float(low), 4),
        "high": round(float(high), 4),
    }


def as_json(scores: Mapping[str, Scores]) -> dict[str, Any]:
    """Everything that was measured, and how the first differs from the others.

    The keys are modes, or ``mode@settings``; of these, equal modes are held against each other.
    """
    return {
        "modes": {name: scores[name].summary() for name in scores},
        "differences": {
            f"{one} - {other}": difference(scores[one], scores[other])
            for one, other in _pairs(list(scores))
        },
    }


def _pairs(names: Sequence[str]) -> Iterator[tuple[str, str]]:
    groups: dict[str, list[str]] = defaultdict(list)
    for name in names:
        mode, at, _ = name.partition("@")
        groups[mode if at else ""].append(name)
    for first, *others in groups.values():
        yield from ((first, other) for other in others)


def _grade(question: Question, hit: Hit) -> float:
    """What the hit is worth to the question, which may name it by its id or by its doc_id."""
    grades = question.relevant
    return grades.get(str(hit.id)) or grades.get(str(hit.metadata.get("doc_id"))) or 0


def _some_words(words: Sequence[str], text: str) -> Sequence[str]:
    choice = random.Random(text)
    count = choice.randint(*_DRAWN_WORDS)
    start = choice.randint(0, max(0, len(words) - count))
    return words[start : start + count]


def _gain(grades: Sequence[float]) -> float:
    discounts: NDArray[np.float64] = np.log2(np.arange(len(grades)) + 2)
    return math.fsum(np.asarray(grades, dtype=np.float64) / discounts)


def _as_row(line: bytes) -> Row:
    row = json.loads(line)
    if not isinstance(row, dict):
        raise ValueError("a line is not a JSON object")
    return row


def _as_question(row: Row, path: Path, *, namespace: str | None) -> Question:
    text, relevant = row.get("text"), row["relevant"]
    if not isinstance(text, str) or not isinstance(relevant, dict):
        raise InvalidFileError(
            f"{path}: a question needs a text, and relevant as an object of ids and grades.",
            field="queries",
        )
    category = str(row.get("category_name") or row.get("category") or "all")
    place = namespace or row.get("scope") or DEFAULT_NAMESPACE
    return Question(text, place, category, relevant)


def _read_documents(path: Path) -> list[NewEvent]:
    """The documents of a corpus as events, in the order of their sessions."""
    placed = []
    for number, row in enumerate(read_rows(path), start=1):
        try:
            placed.append((str(row.get("scope")), float(row.get("seq") or 0), _as_event(row)))
        except (ValueError, TypeError) as error:
            raise InvalidFileError(f"{path}: document {number}: {error}", field="corpus") from error
    placed.sort(key=itemgetter(0, 1))
    return [event for *_, event in placed]


def _as_event(row: Row) -> NewEvent:
    text, title = row.get("text"), row.get("title")
    if not isinstance(text, str) or row.get("doc_id") is None:
        raise ValueError("a document needs a doc_id, and a text as a string.")
    text = f"{title}\n{text}" if title else text
    session = row.get("session")
    return NewEvent(
        content={"text": text} | ({"speaker": row["speaker"]} if row.get("speaker") else {}),
        namespace=row.get("scope") or DEFAULT_NAMESPACE,
        session=None if session is None else str(session),
        timestamp=_as_utc(row.get("ts")),
        metadata={"doc_id": row["doc_id"]},
    )


def _as_utc(text: str | None) -> datetime | None:
    if text is None:
        return None
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
