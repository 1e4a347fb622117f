"""The benchmarks as people run them: real servers, real databases, mock vectors."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.server import run

Done = subprocess.CompletedProcess[str]
Run = Callable[..., Done]
VARIABLES = {"EMBEDDING_MODE": "mock", "EMBEDDING_DIMENSION": "16", "COLUMNS": "80"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One private PostgreSQL for all tests of this file, and a file of events."""
    path = tmp_path_factory.mktemp("bench")
    rows = [
        {"text": f"turn {n} speaks of topic {n % 7} and of needle{n}", "scope": f"s{n // 50}",
         "ts": f"2024-{1 + n % 12:02}-{1 + n % 28:02}T09:00"}
        for n in range(600)
    ]  # fmt: skip
    (path / "events.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def bench(folder: Path) -> Run:
    def call(*arguments: str, **options: Any) -> Done:
        place = [] if arguments[0] == "embed" else ["--data-dir", str(folder / "data")]
        done = run("bench", *arguments, *place, cwd=folder, variables=VARIABLES, **options)
        assert "Traceback" not in done.stderr
        return done

    return call


EVENTS = ("--events", "events.jsonl", "--map", "scope=session", "--map", "ts=timestamp")


def test_searches_are_measured_by_mode_filter_and_clients(bench: Run) -> None:
    done = bench("search", *EVENTS, "--requests", "4", "--clients", "1,2", "--json")
    assert done.returncode == 0, done.stderr
    measured = json.loads(done.stdout)
    (size,) = measured["sizes"]
    assert (measured["vectors"], size["events"], size["embeddings"]) == ("model", 600, 600 + 68)
    assert size["build_seconds"]["storing"] > 0
    rows = {(row["mode"], row["filter"], row["clients"]): row for row in size["rows"]}
    assert {"none", "month", "day", "session", "metadata tenth"} <= {name for _, name, _ in rows}
    assert rows["hybrid", "metadata tenth", 1]["share"] == 0.1
    assert rows["hybrid", "session", 1]["share"] == pytest.approx(50 / 600, abs=1e-5)
    assert 0 < rows["vector", "month", 1]["share"] < 0.2
    assert rows["text", "none", 2]["plan"] is None
    for row in size["rows"]:
        assert row["latency_ms"]["p50"] > 0
        assert row["parts_ms"]["sql"] > 0
        assert (row["parts_ms"]["embedding"] > 0) is (row["mode"] != "text" and not row["cached"])
        assert sum(row["parts_ms"].values()) == pytest.approx(row["latency_ms"]["mean"], abs=0.05)
    # What is there is measured again without the file.
    again = bench("search", "--requests", "2", "--clients", "1", "--mode", "text")
    assert again.returncode == 0, again.stderr
    assert again.stdout.startswith("600 events, ")
    assert "built" not in again.stdout
    assert "text, metadata 10.00%" in again.stdout
    assert max(map(len, again.stdout.splitlines())) <= 80


def test_a_curve_grows_one_database(bench: Run, folder: Path) -> None:
    lines = (folder / "events.jsonl").read_text()
    options = ("--name", "curve", "--requests", "2", "--vectors", "seeded")
    done = bench(
        "search", "--events", "-", *EVENTS[2:], "--curve", "100,400", *options, input=lines
    )
    assert done.returncode == 0, done.stderr
    assert "seeded vectors, for scale only" in done.stdout
    header, *rows = done.stdout.partition("p50 / p95, ms")[2].splitlines()
    assert header.split() == ["100", "400"]
    assert [row.split()[0].strip(",") for row in rows[:6]] == [
        "hybrid", "hybrid", "vector", "vector", "text", "text",
    ]  # fmt: skip
    smaller = bench("search", "--count", "100", *options)
    assert (smaller.returncode, "400 events already" in smaller.stderr) == (1, True)
    assert "--fresh" in smaller.stderr
    fresh = bench("search", *EVENTS, "--count", "100", *options, "--fresh", "--json")
    assert json.loads(fresh.stdout)["sizes"][0]["events"] == 100


def test_what_an_interrupted_run_left_is_completed(bench: Run, folder: Path) -> None:
    place = ("--data-dir", str(folder / "data"), "--namespace", "bench", "--no-embed")
    variables = VARIABLES | {"MNEMO_DATABASE": "mnemolite_bench_rest_model"}
    stored = run("import", *EVENTS[1:], *place, cwd=folder, variables=variables)
    assert stored.returncode == 0, stored.stderr
    done = bench("search", "--name", "rest", "--mode", "text", "--requests", "2", "--json")
    assert done.returncode == 0, done.stderr
    (size,) = json.loads(done.stdout)["sizes"]
    assert set(size["build_seconds"]) == {"counting words", "embedding", "vacuum", "indexing"}
    assert size["embeddings"] == size["events"] == 600


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--name", "nothing"], "--events"),
        (["--name", "nothing", "--events", "missing.jsonl"], "missing.jsonl"),
        (["--name", "bad", "--events", "-"], "Line 1"),
        (["--name", "few", *EVENTS, "--count", "700"], "only 600"),
        (["--name", "Robert'); DROP"], "--name"),
        (["--curve", "100,10"], "--curve"),
        (["--clients", "none"], "--clients"),
        (["--mode", "magic"], "--mode"),
        (["--queries", "missing.jsonl"], "missing.jsonl"),
        (["--events", "events.jsonl", "--map", "a=b"], "--map"),
    ],
)
def test_what_cannot_be_measured_is_said(bench: Run, arguments: list[str], said: str) -> None:
    done = bench("search", *arguments, input="no json\n")
    assert (done.returncode, said in done.stderr) == (1, True), done.stderr


def test_models_are_measured_beside_each_other(bench: Run) -> None:
    done = bench("embed", "--rounds", "5", "--against", "onnx", "--json")
    assert done.returncode == 0, done.stderr
    providers = json.loads(done.stdout)["providers"]
    assert [(name, one["dimension"]) for name, one in providers.items()] == [
        ("mock", 16),
        ("onnx", 384),
    ]
    for figures in providers.values():
        assert list(figures["single_ms"]) == ["2", "50", "256"]
        assert list(figures["batch_ms"]) == ["10", "100"]
        assert list(figures["callers"]) == ["1", "4", "16"]
        assert figures["cached_us"]["hit"]["p50"] > 0
        assert all(row["per_second"] > 0 for row in figures["callers"].values())
    assert providers["onnx"]["resident_bytes"] > providers["mock"]["resident_bytes"]


def test_the_table_of_a_model_fits_a_terminal(bench: Run) -> None:
    done = bench("embed", "--rounds", "2")
    assert done.returncode == 0, done.stderr
    assert "16 callers" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80


@pytest.mark.parametrize(("against", "said"), [("magic", "'magic'"), ("mock", "already")])
def test_a_provider_that_cannot_be_had(bench: Run, against: str, said: str) -> None:
    done = bench("embed", "--against", against)
    assert (done.returncode, said in done.stderr) == (1, True), done.stderr
