"""The measures of an evaluation, by hand."""

import gzip
import json
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import pytest

from mnemolite.errors import InvalidFileError
from mnemolite.evaluate import Question, Scores, difference, measure, read_questions, read_rows
from mnemolite.models import Hit, SearchMeta, SearchResult


def result(*doc_ids: str) -> SearchResult:
    now = datetime.now(UTC)
    hits = [
        Hit(
            id=uuid4(), namespace="n", session=None, timestamp=now, created_at=now, content={},
            metadata={"doc_id": name}, text="four", pending=False, score=1.0, distance=None,
            similarity=None, text_score=None, ranks={}, passage=None, explanation=None,
        )
        for name in doc_ids
    ]  # fmt: skip
    meta = SearchMeta(
        mode="text", arms=["text"], degraded=[], plan=None, space=None, vector_source=None,
        pending=0, pending_is_lower_bound=False, count=len(hits),
    )  # fmt: skip
    return SearchResult(data=hits, meta=meta)


def test_measures() -> None:
    question = Question("q", "n", "all", {"a": 1, "b": 1})
    measured = measure(question, result("x", "a", "y", "z", "w", "b"))
    assert measured["recall@5"] == 0.5
    assert measured["recall@10"] == 1
    assert measured["mrr"] == 0.5
    assert measured["any@10"] == 1
    assert measured["ndcg@10"] == pytest.approx((0.6309 + 0.3562) / (1 + 0.6309), abs=1e-3)
    assert measured["tokens@10"] == 6


def test_nothing_found() -> None:
    measured = measure(Question("q", "n", "all", {"a": 1}), result())
    assert set(measured.values()) == {0}


def test_a_summary_has_every_category() -> None:
    scores = Scores()
    scores.add("one", {"recall@10": 1.0, "latency_ms": 2.0})
    scores.add("two", {"recall@10": 0.0, "latency_ms": 4.0})
    summary = scores.summary()
    assert summary["overall"]["recall@10"] == 0.5
    assert summary["overall"]["latency_ms"]["p50"] == 3
    assert summary["by_category"]["one"] == {
        "recall@10": 1.0, "queries": 1, "latency_ms": {"p50": 2.0, "p95": 2.0},
    }  # fmt: skip


def test_the_interval_of_a_difference() -> None:
    better, worse = Scores(), Scores()
    for number in range(50):
        better.add("all", {"recall@10": 1.0, "latency_ms": 1.0})
        worse.add("all", {"recall@10": float(number % 2), "latency_ms": 1.0})
    delta = difference(better, worse)
    assert delta["mean"] == 0.5
    assert 0.3 < delta["low"] < 0.5 < delta["high"] < 0.7
    assert difference(better, better) == {"mean": 0, "low": 0, "high": 0}


def test_files_are_read_packed_or_not(tmp_path: Path) -> None:
    rows = [
        {"text": "a", "relevant": {"d": 1}, "category": 4, "category_name": "easy"},
        {"text": "b", "relevant": {}},
        {"text": "c", "relevant": {"d": 1}, "answerable": False},
    ]
    lines = "\n".join(map(json.dumps, rows)).encode()
    (tmp_path / "plain").write_bytes(lines)
    (tmp_path / "packed").write_bytes(gzip.compress(lines))
    assert list(read_rows(tmp_path / "plain")) == list(read_rows(tmp_path / "packed")) == rows
    assert read_questions(tmp_path / "plain") == [Question("a", "default", "easy", {"d": 1})]
    with pytest.raises(InvalidFileError, match="no question"):
        read_questions(tmp_path / "plain", ["hard"])


@pytest.mark.parametrize("content", [b"{", b"\x1f\x8bxx"])
def test_files_that_cannot_be_read(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(InvalidFileError, match="file"):
        list(read_rows(tmp_path / "file"))
    with pytest.raises(InvalidFileError):
        list(read_rows(tmp_path / "missing"))
