"""The command line as people and programs use it: arguments, output, exit codes."""

import gzip
import json
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.acceptance.server import command, environment, run

Done = subprocess.CompletedProcess[str]
Run = Callable[..., Done]

ROWS: list[dict[str, Any]] = [
    {"doc": "D1:1", "scope": "chat", "session": 1, "ts": "2023-05-08 13:56",
     "speaker": "Caroline", "text": "I went to the parade."},
    {"doc": "D1:2", "scope": "chat", "session": 1, "ts": "2023-05-08 13:56",
     "speaker": "Melanie", "text": "Was the weather fine?"},
    {"doc": "D2:1", "scope": "chat", "session": 2, "ts": "2023-06-01 09:00",
     "speaker": "Caroline", "text": "My sister adopted a kitten."},
]  # fmt: skip
MAPS = ("--map", "doc=metadata.doc", "--map", "scope=namespace", "--map", "ts=timestamp")


@pytest.fixture
def mnemolite(dsn: str, tmp_path: Path) -> Run:
    """The command, over a database of its own, with mock vectors."""
    variables = {"DATABASE_URL": dsn, "EMBEDDING_MODE": "mock", "COLUMNS": "200"}

    def call(*arguments: str, **options: Any) -> Done:
        done = run(*arguments, cwd=tmp_path, variables=variables, **options)
        assert "Traceback" not in done.stderr
        return done

    return call


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


def count(dsn: str, table: str) -> int:
    with psycopg.connect(dsn) as connection:
        row = connection.execute(f"SELECT count(*) FROM {table}".encode()).fetchone()
    return int(row[0]) if row else 0


# --- import -------------------------------------------------------------------------------------


def test_an_import_stores_then_embeds(mnemolite: Run, rows: Path, dsn: str) -> None:
    done = mnemolite("import", rows.name, *MAPS, "--timezone", "Europe/Paris")
    assert done.returncode == 0, done.stderr
    assert "Stored 3 events" in done.stdout
    assert "Embedded 3 events" in done.stdout
    assert "3 timestamps named no zone" in done.stdout
    assert count(dsn, "embedded_events") == 3
    found = mnemolite("search", "parade", "-n", "chat", "--mode", "text", "--json")
    hit = json.loads(found.stdout)["data"][0]
    assert hit["metadata"] == {"doc": "D1:1"}
    assert (hit["session"], hit["timestamp"]) == ("1", "2023-05-08T11:56:00Z")
    assert hit["content"] == {"speaker": "Caroline", "text": "I went to the parade."}


def test_an_import_from_a_packed_file_and_from_a_pipe(
    mnemolite: Run, rows: Path, tmp_path: Path, dsn: str
) -> None:
    (tmp_path / "rows.jsonl.gz").write_bytes(gzip.compress(rows.read_bytes()))
    assert mnemolite("import", "rows.jsonl.gz", *MAPS, "--no-embed").returncode == 0
    piped = mnemolite("import", "-", *MAPS, "--no-embed", input=rows.read_text())
    assert piped.returncode == 0, piped.stderr
    assert count(dsn, "events") == 3  # the same lines, so nothing is doubled


def test_bad_lines_end_with_code_3(mnemolite: Run, dsn: str) -> None:
    lines = '{"text": "good"}\n[bold]not json[/]\n{"text": "good too", "timestamp": "never"}\n'
    done = mnemolite("import", "-", "--no-embed", input=lines)
    assert done.returncode == 3
    assert "line 2: " in done.stderr
    assert "line 3: timestamp: " in done.stderr
    assert "2 were left out" in done.stderr
    assert "Stored 1 events" in done.stdout
    assert count(dsn, "events") == 1


def test_strict_ends_with_code_1(mnemolite: Run, dsn: str) -> None:
    lines = '{"text": "good"}\nnot json\n{"text": "too late"}\n'
    done = mnemolite("import", "-", "--strict", "--no-embed", input=lines)
    assert done.returncode == 1
    assert "(invalid_input) line 2: " in done.stderr
    assert count(dsn, "events") == 1


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["import", "nowhere.jsonl"], 1, "nowhere.jsonl"),
        (["import", "-", "--map", "a=b"], 1, "--map"),
        (["import", "-", "--timezone", "Mars"], 1, "--timezone"),
        (["import", "-", "--language", "klingon", "--no-embed"], 1, "klingon"),
        (["import"], 2, "Missing argument"),
        (["nothing"], 2, "nothing"),
        (["search", "x", "--where", "{"], 1, "--where"),
        (["search", "x", "--where", '{"a": {"$near": 1}}'], 1, "where.a.$near"),
        (["search", "x", "--limit", "0"], 1, "limit"),
        (["search", "x", "--since", "soon"], 1, "since"),
        (["search", "x", "--now", "soon"], 1, "now"),
        (["search", "x", "--dates", "maybe"], 1, "dates"),
        (["search", "x", "--recency-half-life", "30"], 1, "recency_half_life"),
        (["search", "x", "--importance", "-1"], 1, "importance"),
        (["search", "x", "--diversity", "2"], 1, "diversity"),
        (["search", " "], 1, "nothing to look for"),
        (["add", "x", "--metadata", "{"], 1, "--metadata"),
        (["add", "x", "--timestamp", "soon"], 1, "timestamp"),
    ],
)
def test_what_cannot_be_done_is_said(
    mnemolite: Run, dsn: str, arguments: list[str], code: int, said: str
) -> None:
    done = mnemolite(*arguments, input='{"text": "x"}\n')
    assert (done.returncode, said in done.stderr) == (code, True), done.stderr
    assert count(dsn, "events") == 0


# --- add and search -----------------------------------------------------------------------------


def test_an_event_is_added_and_its_id_printed(mnemolite: Run, dsn: str) -> None:
    options = ("--namespace", "n", "--session", "s", "--speaker", "Ada", "--metadata", '{"k": 1}',
               "--timestamp", "2024-05-08")  # fmt: skip
    done = mnemolite("add", "I like [tea].", *options)
    assert done.returncode == 0, done.stderr
    with psycopg.connect(dsn) as connection:
        query = "SELECT id::text, namespace, session, content, metadata, text FROM embedded_events"
        (row,) = connection.execute(query).fetchall()
    assert row == (
        done.stdout.strip(), "n", "s", {"text": "I like [tea].", "speaker": "Ada"}, {"k": 1},
        "I like [tea].",
    )  # fmt: skip


def test_an_event_from_a_pipe_can_wait_for_a_worker(mnemolite: Run, dsn: str) -> None:
    done = mnemolite("add", "-", "--no-embed", "--json", input="first line\nsecond line\n")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["text"].splitlines() == ["first line", "second line"]
    assert count(dsn, "events") == 1
    worked = mnemolite("import", "-", input="")
    assert worked.returncode == 0, worked.stderr
    assert count(dsn, "embedded_events") == 1


def test_hits_are_shown_in_a_table(mnemolite: Run, rows: Path) -> None:
    mnemolite("import", rows.name, *MAPS)
    done = mnemolite("search", "Who went to the parade?", "--namespace", "chat", "--mode", "text")
    assert done.returncode == 0, done.stderr
    first = done.stdout.splitlines()[1]
    for part in ("1", "2023-05-08 13:56", "Caroline: I went to the parade."):
        assert part in first
    where = json.dumps({"doc": {"$in": ["D1:2"]}})
    for option, doc in (("--since=2023-06-01", "D2:1"), (f"--where={where}", "D1:2")):
        found = mnemolite("search", "kitten", "-n", "chat", option, "--json")
        assert [hit["metadata"]["doc"] for hit in json.loads(found.stdout)["data"]] == [doc]


def test_a_search_without_hits_says_so(mnemolite: Run) -> None:
    done = mnemolite("search", "anything", "--mode", "text")
    assert (done.returncode, "Nothing found." in done.stdout) == (0, True)
    done = mnemolite("search", "anything", "--json")
    assert json.loads(done.stdout)["data"] == []


def test_a_search_says_how_it_read_dates(mnemolite: Run, rows: Path) -> None:
    mnemolite("import", rows.name, *MAPS)
    wishes = ("--now=2023-06-15", "--recency-half-life=30d", "--importance=1", "--diversity=0.5")
    search = ("search", "kitten or parade last month", "-n", "chat", *wishes)
    done = mnemolite(*search)
    assert done.returncode == 0, done.stderr
    assert '"last month" was read as 2023-05-01 00:00 to 2023-06-01 00:00' in done.stderr
    answer = json.loads(mnemolite(*search, "--dates=filter", "--json").stdout)
    assert {hit["metadata"]["doc"] for hit in answer["data"]} == {"D1:1", "D1:2"}
    assert 0 <= answer["meta"]["confidence"] <= 1


def test_an_evaluation_measures_confidence(mnemolite: Run, tmp_path: Path) -> None:
    corpus = [
        {"doc_id": name, "scope": name, "text": text}
        for name, text in (("a", "We planted tomatoes."), ("b", "The printer jams."))
    ]
    questions = [
        {"text": row["text"], "scope": row["scope"], "relevant": {row["doc_id"]: 1}}
        for row in corpus
    ]
    nobody = {"text": "Who planted the printer?", "scope": "a", "answerable": False}
    for name, lines in (("corpus", corpus), ("queries", [*questions, nobody])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    files = ("corpus.jsonl", "queries.jsonl")
    evaluate = ("eval", *files, "--confidence", "--data-dir", str(tmp_path / "data"))
    measured = json.loads(mnemolite(*evaluate, "--json").stdout)["confidence"]
    assert {name: row["questions"] for name, row in measured.items()} == {
        "answerable": 2,
        "unanswerable": 1,
        "wrong_namespace": 2,
    }
    assert measured["wrong_namespace"]["auc"] == 1
    shown = mnemolite(*evaluate).stdout
    assert "wrong namespace" in shown


def test_a_search_tells_what_is_pending(mnemolite: Run, rows: Path) -> None:
    mnemolite("db", "upgrade")
    mnemolite("search", "x")  # the first use of a model makes its space
    mnemolite("import", rows.name, *MAPS, "--no-embed")
    done = mnemolite("search", "parade", "-n", "chat")
    assert "I went to the parade." in done.stdout
    assert "3 events are not embedded yet" in done.stderr


def test_a_search_whose_reranker_is_gone_says_so(dsn: str, tmp_path: Path) -> None:
    variables = {"DATABASE_URL": dsn, "EMBEDDING_MODE": "mock", "COLUMNS": "200",
                 "MNEMO_RERANKER": "tei", "MNEMO_RERANKER_URL": "http://127.0.0.1:1"}  # fmt: skip
    run("add", "the boat leaves at seven", cwd=tmp_path, variables=variables)
    done = run("search", "boat", cwd=tmp_path, variables=variables)
    assert (done.returncode, "the boat leaves" in done.stdout) == (0, True)
    assert "not reranked: reranking_failed" in " ".join(done.stderr.split())
    done = run("search", "boat", "--no-rerank", cwd=tmp_path, variables=variables)
    assert (done.returncode, "not reranked" in done.stderr) == (0, False)
    done = run("doctor", cwd=tmp_path, variables=variables)
    assert (done.returncode, "cannot be reached" in " ".join(done.stdout.split())) == (1, True)


def test_only_a_search_that_wants_a_reranker_needs_one(dsn: str, tmp_path: Path) -> None:
    variables = {"DATABASE_URL": dsn, "EMBEDDING_MODE": "mock", "MNEMO_RERANKER": "tei"}
    assert run("add", "a boat", cwd=tmp_path, variables=variables).returncode == 0
    assert run("search", "a", "--no-rerank", cwd=tmp_path, variables=variables).returncode == 0
    done = run("search", "a", cwd=tmp_path, variables=variables)
    assert (done.returncode, "MNEMO_RERANKER_URL" in done.stderr) == (1, True)


def test_a_reranker_that_is_not_there_cannot_be_demanded(mnemolite: Run) -> None:
    done = mnemolite("search", "a boat", "--rerank")
    assert (done.returncode, "MNEMO_RERANKER" in done.stderr) == (1, True)


def test_neighbours_stand_around_their_hits(mnemolite: Run, rows: Path) -> None:
    mnemolite("import", rows.name, *MAPS, "--no-embed")
    search = ("search", "parade", "-n", "chat", "--mode", "text", "--limit", "1")
    alone = mnemolite(*search)
    assert "weather" not in alone.stdout
    done = mnemolite(*search, "--neighbours", "2")
    assert done.stdout.index("parade") < done.stdout.index("Melanie: Was the weather fine?")


def test_an_explained_search_and_its_replay(mnemolite: Run, rows: Path) -> None:
    mnemolite("import", rows.name, *MAPS)
    done = mnemolite("search", "the parade, Caroline?", "-n", "chat", "--explain")
    assert done.returncode == 0, done.stderr
    for said in ("words (idf)", "filters namespace = chat", "#1 ", "own ", "time question"):
        assert said in done.stdout
    request_id = done.stdout.rpartition("--replay ")[2].strip()
    again = mnemolite("search", "--replay", request_id)
    assert "Nothing differs" in again.stdout
    mnemolite("add", "Another parade in May.", "-n", "chat")
    changed = mnemolite("search", "--replay", request_id)
    assert "came" in changed.stdout
    assert "Another parade in May." in changed.stdout
    replay = json.loads(mnemolite("search", "--replay", request_id, "--json").stdout)
    assert replay["same"] is False
    assert "came" in {change["change"] for change in replay["hits"]}


def test_replays_that_cannot_be(mnemolite: Run) -> None:
    unknown = mnemolite("search", "--replay", "00000000-0000-7000-8000-000000000001")
    assert (unknown.returncode, "(search_not_found)" in unknown.stderr) == (1, True)
    assert mnemolite("search", "--replay", "nothing").returncode == 2
    nothing = mnemolite("search")
    assert (nothing.returncode, "nothing to look for" in nothing.stderr) == (1, True)


def test_a_context_is_printed_as_it_is(mnemolite: Run, rows: Path) -> None:
    mnemolite("import", rows.name, *MAPS, "--no-embed")
    context = ("context", "parade", "-n", "chat", "--mode", "text", "--limit", "1")
    done = mnemolite(*context)
    assert done.returncode == 0, done.stderr
    assert done.stdout == (
        "Monday, 8 May 2023 (session 1)\n"
        "13:56 Caroline: I went to the parade.\n"
        "13:56 Melanie: Was the weather fine?\n"
    )
    assert "of 1000 tokens (all-MiniLM-L6-v2)" in done.stderr
    as_json = json.loads(
        mnemolite(*context, "--max-tokens", "32", "--tokenizer", "characters/4", "--json").stdout
    )
    assert as_json["tokens"] <= 32
    assert [part["part"] for part in as_json["parts"]] == ["whole", "whole"]
    wrong = mnemolite("context", "x", "--max-tokens", "1")
    assert (wrong.returncode, "max_tokens" in wrong.stderr) == (1, True)


# --- worker -------------------------------------------------------------------------------------


def test_a_worker_embeds_what_was_left_to_it(
    mnemolite: Run, rows: Path, dsn: str, tmp_path: Path
) -> None:
    assert mnemolite("import", rows.name, *MAPS, "--no-embed").returncode == 0
    variables = {"DATABASE_URL": dsn, "EMBEDDING_MODE": "mock"}
    with (tmp_path / "worker.log").open("wb") as log:
        worker = subprocess.Popen(
            command("worker"), env=environment(**variables), stderr=log, cwd=tmp_path
        )
    try:
        for _ in range(600):
            if count(dsn, "pg_views WHERE viewname = 'embedded_events'") and (
                count(dsn, "embedded_events") == 3
            ):
                break
            time.sleep(0.1)
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(timeout=60) == 0
    finally:
        worker.kill()
    assert count(dsn, "embedded_events") == 3
    said = (tmp_path / "worker.log").read_text()
    assert "working on space" in said
    assert "Traceback" not in said


# --- db and doctor ------------------------------------------------------------------------------


def test_the_schema_is_made_by_hand(empty_dsn: str, tmp_path: Path) -> None:
    for _ in range(2):
        done = run("db", "upgrade", cwd=tmp_path, variables={"DATABASE_URL": empty_dsn})
        assert done.returncode == 0, done.stderr
        assert "Schema 0" in done.stdout
    assert count(empty_dsn, "events") == 0


def test_the_doctor_finds_nothing_in_a_new_place_and_makes_nothing(tmp_path: Path) -> None:
    place = tmp_path / "new place"
    done = run("doctor", "--json", "--data-dir", str(place), cwd=tmp_path, variables={})
    assert done.returncode == 0, done.stderr
    findings = {one["check"]: one for one in json.loads(done.stdout)["data"]}
    assert findings["database"]["status"] == "note"
    assert str(place) in findings["database"]["detail"]
    assert "mnemolite serve" in findings["database"]["remedy"]
    assert list(tmp_path.iterdir()) == []


def test_the_doctor_of_an_empty_database_makes_nothing(empty_dsn: str, tmp_path: Path) -> None:
    run("doctor", cwd=tmp_path, variables={"DATABASE_URL": empty_dsn, "EMBEDDING_MODE": "mock"})
    with psycopg.connect(empty_dsn) as connection:
        made = connection.execute("SELECT to_regclass('events')").fetchone()
    assert made == (None,)


def test_the_doctor_finds_all_well(dsn: str, tmp_path: Path) -> None:
    variables = {"DATABASE_URL": dsn}
    assert run("add", "all is well", cwd=tmp_path, variables=variables).returncode == 0
    done = run("doctor", cwd=tmp_path, variables=variables | {"COLUMNS": "200"})
    assert done.returncode == 0, done.stdout
    for part in ("PostgreSQL", "vector", "nothing is pending", "1 events, 1 embeddings"):
        assert part in done.stdout


def test_the_doctor_does_not_take_mock_vectors_for_well(mnemolite: Run) -> None:
    mnemolite("add", "means nothing")
    done = mnemolite("doctor")
    assert done.returncode == 1
    assert "unset EMBEDDING_MODE" in done.stdout


def test_the_doctor_names_pending_and_parked_events(tmp_path: Path, dsn: str) -> None:
    variables = {"DATABASE_URL": dsn, "COLUMNS": "200"}
    assert run("search", "x", cwd=tmp_path, variables=variables).returncode == 0
    run("add", "for later", "--no-embed", cwd=tmp_path, variables=variables)
    pending = run("doctor", cwd=tmp_path, variables=variables)
    assert (pending.returncode, "1 events are pending" in pending.stdout) == (0, True)
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("UPDATE embedding_queue SET not_before = 'infinity', error = 'chokes'")
    parked = run("doctor", cwd=tmp_path, variables=variables)
    assert parked.returncode == 1
    assert "1 events could not be embedded: chokes" in parked.stdout


def test_the_doctor_cannot_reach_the_database(tmp_path: Path) -> None:
    variables = {"DATABASE_URL": "postgresql://localhost:1/none", "EMBEDDING_MODE": "mock"}
    done = run("doctor", "--json", cwd=tmp_path, variables=variables)
    assert done.returncode == 1
    wrong = [one for one in json.loads(done.stdout)["data"] if one["status"] == "wrong"]
    assert "database_unavailable" in wrong[0]["detail"]


def test_the_doctor_of_a_model_that_is_not_the_databases(dsn: str, tmp_path: Path) -> None:
    mock = {"DATABASE_URL": dsn, "EMBEDDING_MODE": "mock"}
    run("add", "embedded by the mock", cwd=tmp_path, variables=mock)
    done = run("doctor", "--json", cwd=tmp_path, variables={"DATABASE_URL": dsn})
    assert done.returncode == 1
    wrong = [one for one in json.loads(done.stdout)["data"] if one["status"] == "wrong"]
    assert "model_mismatch" in wrong[0]["detail"]
    assert "Set the model back" in wrong[0]["remedy"]


@pytest.mark.parametrize("arguments", [[], ["--help"], ["import", "--help"], ["db"]])
def test_help_is_there_without_a_database(tmp_path: Path, arguments: list[str]) -> None:
    variables = {"DATABASE_URL": "postgresql://localhost:1/none"}
    done = run(*arguments, cwd=tmp_path, variables=variables)
    assert "Usage:" in done.stdout + done.stderr
    assert list(tmp_path.iterdir()) == []
