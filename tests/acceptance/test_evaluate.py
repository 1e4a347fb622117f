"""`mnemolite eval`: of a corpus, under two settings, and of a memory as it is."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.acceptance.server import run

Done = subprocess.CompletedProcess[str]
Run = Callable[..., Done]
DOCUMENTS = [
    {"doc_id": f"d{n}", "scope": "n", "session": 1, "seq": n, "text": f"{what} is number {n}"}
    for n, what in enumerate(["the ferry", "a kitten", "our house", "my bicycle", "les chevaux"])
]
QUESTIONS = [
    {"text": "Where is the ferry?", "scope": "n", "category": "boats", "relevant": {"d0": 1}},
    {"text": "Who has a kitten?", "scope": "n", "category": "pets", "relevant": {"d1": 1}},
    {"text": "cheval", "scope": "n", "category": "pets", "relevant": {"d4": 1}},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One private PostgreSQL for all tests of this file, a corpus and its questions."""
    path = tmp_path_factory.mktemp("eval")
    for name, rows in (("corpus", DOCUMENTS), ("queries", QUESTIONS)):
        (path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (path / "a.env").write_text("EMBEDDING_CACHE_SIZE=0\n")
    (path / "b.env").write_text("MNEMO_LANGUAGE=french\n")
    return path


@pytest.fixture
def evaluate(folder: Path) -> Run:
    def call(*arguments: str, variables: dict[str, str] | None = None) -> Done:
        given = {"EMBEDDING_MODE": "mock", "MNEMO_DATA_DIR": str(folder / "data")}
        done = run("eval", *arguments, cwd=folder, variables=given | (variables or {}))
        assert "Traceback" not in done.stderr
        return done

    return call


FILES = ("corpus.jsonl", "queries.jsonl")


@pytest.mark.parametrize("arguments", [[*FILES], ["corpus", *FILES], ["--limit", "9", *FILES]])
def test_a_corpus_needs_no_command(evaluate: Run, arguments: list[str]) -> None:
    done = evaluate(*arguments, "--mode", "text", "--json")
    assert done.returncode == 0, done.stderr
    measured = json.loads(done.stdout)["modes"]["text"]
    assert measured["overall"]["queries"] == 3
    assert measured["by_category"]["boats"]["recall@5"] == 1
    assert set(measured["overall"]["latency_ms"]) == {"p50", "p95"}


@pytest.mark.parametrize(
    "row",
    [
        {"doc_id": "d"},
        {"text": "no id"},
        {"doc_id": "d", "text": 5},
        {"doc_id": "d", "text": "t", "ts": "yesterday"},
        {"doc_id": "d", "text": "t", "ts": 5},
        {"doc_id": "d", "text": "t", "seq": "first"},
        {"doc_id": "d", "text": "\x00"},
    ],
)
def test_documents_that_are_none(evaluate: Run, folder: Path, row: dict[str, object]) -> None:
    rows = [{"doc_id": "fine", "text": "fine"}, row]
    (folder / "bad.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = evaluate("bad.jsonl", "queries.jsonl")
    assert done.returncode == 1
    assert "(invalid_file) corpus" in done.stderr
    assert "document 2" in done.stderr


def test_two_files_of_settings_are_compared(evaluate: Run) -> None:
    files = ("--settings", "a.env", "--settings", "b.env")
    done = evaluate(*FILES, *files, "--mode", "text", "--mode", "hybrid", "--json")
    assert done.returncode == 0, done.stderr
    measured = json.loads(done.stdout)
    assert list(measured["modes"]) == ["text@a", "hybrid@a", "text@b", "hybrid@b"]
    # Only the French stemmer brings "cheval" and "chevaux" together.
    found = {name: one["overall"]["recall@10"] for name, one in measured["modes"].items()}
    assert found["text@b"] > found["text@a"]
    assert set(measured["differences"]) == {"text@a - text@b", "hybrid@a - hybrid@b"}
    one = evaluate(*FILES, "--settings", "b.env", "--mode", "text", "--json")
    assert list(json.loads(one.stdout)["modes"]) == ["text"]


def test_a_memory_is_measured_as_it_is(evaluate: Run, folder: Path, dsn: str) -> None:
    variables = {"DATABASE_URL": dsn, "EMBEDDING_MODE": "mock"}
    maps = ("--map", "scope=namespace", "--map", "seq=metadata.seq")
    stored = run("import", "corpus.jsonl", *maps, cwd=folder, variables=variables)
    assert stored.returncode == 0, stored.stderr
    with psycopg.connect(dsn) as connection:
        row = connection.execute("SELECT id::text FROM events WHERE text ~ 'kitten'").fetchone()
        before = connection.execute("SELECT count(*) FROM events").fetchone()
    assert row is not None
    saved = {"text": "Who has a kitten?", "relevant": {row[0]: 1}}
    (folder / "saved.jsonl").write_text(json.dumps(saved))
    for file, count in (("saved.jsonl", 1), ("queries.jsonl", 3)):
        options = ("--namespace", "n", "--mode", "text", "--json")
        done = evaluate("live", file, *options, variables=variables)
        assert done.returncode == 0, done.stderr
        overall = json.loads(done.stdout)["modes"]["text"]["overall"]
        assert (overall["queries"], overall["recall@5"] > 0.6) == (count, True)
    checked = evaluate("recall-check", "--limit", "2", variables=variables)
    assert checked.returncode == 0, checked.stderr
    assert checked.stdout.startswith("2 questions, 5 events in n, 5 in all namespaces")
    assert max(map(len, checked.stdout.splitlines())) <= 80
    with psycopg.connect(dsn) as connection:
        assert connection.execute("SELECT count(*) FROM events").fetchone() == before


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ([], 2, "Missing argument"),
        (["corpus.jsonl"], 2, "Missing argument"),
        (["missing.jsonl", "queries.jsonl"], 1, "missing.jsonl"),
        (["live"], 2, "Missing argument"),
        ([*FILES, "--settings", "missing.env"], 1, "missing.env"),
        ([*FILES, "--settings", "a.env", "--settings", "./a.env"], 1, "--settings"),
        ([*FILES, "--mode", "magic"], 1, "mode"),
        (["recall-check", "--namespace", "nobody"], 1, "nobody"),
        (["--help"], 0, "recall-check"),
    ],
)
def test_what_cannot_be_done_is_said(
    evaluate: Run, arguments: list[str], code: int, said: str
) -> None:
    done = evaluate(*arguments)
    shown: Any = done.stdout + done.stderr
    assert (done.returncode, said in shown) == (code, True), shown
