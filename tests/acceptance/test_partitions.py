"""`mnemolite partitions`: what it prints for people and for programs, and its exit codes."""

import json
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from mnemolite.partitions import following, start_of
from tests.acceptance.server import run
from tests.partitioned import partition

MONTH = start_of(datetime.now(UTC), "month")

Done = subprocess.CompletedProcess[str]


@pytest.fixture
def mnemolite(dsn: str, tmp_path: Path) -> Callable[..., Done]:
    variables = {"DATABASE_URL": dsn, "EMBEDDING_MODE": "mock", "COLUMNS": "80"}

    def call(*arguments: str) -> Done:
        done = run(*arguments, cwd=tmp_path, variables=variables)
        assert "Traceback" not in done.stderr
        return done

    return call


def printed(done: Done) -> Any:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_an_unpartitioned_memory(mnemolite: Callable[..., Done]) -> None:
    mnemolite("add", "one event")
    status = printed(mnemolite("partitions", "status", "--json"))
    assert (status["mode"], status["events"]) == ("unpartitioned", 1)
    assert [each["name"] for each in status["partitions"]] == ["events", "embeddings_1"]
    assert "1 events in one table" in mnemolite("partitions", "status").stdout
    assert printed(mnemolite("partitions", "advise", "--json"))["verdict"] == "stay"
    assert "Leave the events in one table." in mnemolite("partitions", "advise").stdout
    assert "nothing to maintain" in mnemolite("partitions", "maintain").stdout
    refused = mnemolite("partitions", "drain")
    assert refused.returncode == 1
    assert "(layout_refused)" in refused.stderr
    assert mnemolite("partitions", "drain", "--max-rows", "0").returncode == 2


def test_a_partitioned_memory(mnemolite: Callable[..., Done], dsn: str) -> None:
    old = following(MONTH, "month", steps=-2)
    mnemolite("add", "an old event", "--timestamp", f"{old:%Y-%m-%d}")
    mnemolite("add", "an ancient event", "--timestamp", "1912-04-15")
    partition(dsn, since=MONTH, until=following(MONTH, "month"))
    status = mnemolite("partitions", "status")
    lines = status.stdout.splitlines()
    assert max(len(line) for line in lines) <= 80
    assert any(line.startswith("events_default") and "all others" in line for line in lines)
    assert "are missing" in status.stdout
    planned = printed(mnemolite("partitions", "maintain", "--dry-run", "--json"))
    made = mnemolite("partitions", "maintain")
    assert made.stdout.count(" made") == len(planned["created"]) >= 4
    assert "No partition is missing." in mnemolite("partitions", "maintain").stdout
    would = mnemolite("partitions", "drain", "--dry-run").stdout
    assert f"events_p{old:%Y%m%d}" in would
    assert "would be made, rows moved: 1" in would
    drained = printed(mnemolite("partitions", "drain", "--json"))
    for kind in ("created", "held_back"):
        assert [each["rows"] for each in drained[kind] if each["table"] == "events"] == [1]
    again = mnemolite("partitions", "drain").stdout
    assert "events: 1 row stays (1912-04-15" in again
