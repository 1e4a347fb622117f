"""The measures of an evaluation, by hand."""

import gzip
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from mnemolite.errors import InvalidFileError
from mnemolite.evaluate import (
    Question,
    Scores,
    as_json,
    difference,
    measure,
    read_questions,
    read_rows,
    read_texts,
    scratch_name,
)
from mnemolite.models import Hit, SearchMeta, SearchResult
from mnemolite.settings import Settings


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


@pytest.mark.parametrize("content", [b"{", b"\x1f\x8bxx", b"[1]"])
def test_files_that_cannot_be_read(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(InvalidFileError, match="file"):
        list(read_rows(tmp_path / "file"))
    with pytest.raises(InvalidFileError):
        list(read_rows(tmp_path / "missing"))


@pytest.mark.parametrize("row", [{"relevant": {"d": 1}}, {"text": "q", "relevant": ["d"]}])
def test_questions_that_are_none(tmp_path: Path, row: dict[str, object]) -> None:
    (tmp_path / "file").write_text(json.dumps(row))
    with pytest.raises(InvalidFileError, match="needs a text"):
        read_questions(tmp_path / "file")


def test_questions_are_asked_in_the_namespace_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text('{"text": "q", "scope": "own", "relevant": {"d": 1}}')
    assert read_questions(tmp_path / "file")[0].namespace == "own"
    assert read_questions(tmp_path / "file", namespace="other")[0].namespace == "other"


def test_texts_need_no_answers(tmp_path: Path) -> None:
    (tmp_path / "file").write_text('{"text": "one"}\n{"text": " "}\n{"text": "two", "x": 1}')
    assert read_texts(tmp_path / "file") == ["one", "two"]
    (tmp_path / "file").write_text('{"q": "one"}')
    with pytest.raises(InvalidFileError, match="no line has a text"):
        read_texts(tmp_path / "file")


def test_an_event_is_wanted_by_its_own_id_too() -> None:
    found = result("x", "y")
    question = Question("q", "n", "all", {str(found.data[1].id): 1})
    assert measure(question, found)["mrr"] == 0.5


def test_settings_are_compared_mode_by_mode() -> None:
    names = ["hybrid@a", "text@a", "hybrid@b", "text@b"]
    scores = {name: Scores() for name in names}
    for number, name in enumerate(names):
        scores[name].add("all", {"recall@10": float(number), "latency_ms": 1.0})
    compared = as_json(scores)
    assert list(compared["modes"]) == names
    assert {pair: delta["mean"] for pair, delta in compared["differences"].items()} == {
        "hybrid@a - hybrid@b": -2,
        "text@a - text@b": -2,
    }


def test_only_what_changes_the_contents_takes_another_database(tmp_path: Path) -> None:
    (tmp_path / "corpus").write_bytes(b"{}")

    def name(**groups: Any) -> str:
        return scratch_name(tmp_path / "corpus", Settings.load(**groups))

    assert name() == name(embedding={"cache_size": 0, "threads": 1}, search={"bm25_k1": 1.2})
    others = [name(embedding={"mode": "mock"}), name(search={"default_language": "french"})]
    assert len({name(), *others}) == 3
