"""`mnemolite retention` and `mnemolite forget` as an operator runs them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest

from mnemolite.cli.terminal import SOME_REJECTED
from mnemolite.memory import Memory
from mnemolite.models import NewEvent
from mnemolite.settings import Settings
from tests.acceptance.server import run
from tests.integration.retention.conftest import fill

Command = Callable[..., str]


@pytest.fixture
async def mnemolite(settings: Settings, dsn: str, tmp_path: Path) -> Command:
    """The command line, over a memory of five events, four of them old."""
    async with Memory.open(settings) as memory:
        await fill(memory, range(1, 2), each=4)
        await memory.add(NewEvent(namespace="n0", content={"text": "new"}))

    def command(*arguments: str, code: int = 0, **options: Any) -> str:
        variables = {"DATABASE_URL": dsn, "COLUMNS": "200"}
        done = run(*arguments, cwd=tmp_path, variables=variables, **options)
        assert done.returncode == code, done.stderr
        return done.stdout if code in (0, SOME_REJECTED) else done.stderr

    return command


@pytest.mark.timeout(600)
async def test_rules_holds_and_the_log(mnemolite: Command, dsn: str) -> None:
    retention = ("retention",)
    assert "There are no rules" in mnemolite(*retention, "status")
    mnemolite(*retention, "add", "old", "--max-age", "2 years", "--namespace", "n0")
    assert "taken" in mnemolite(*retention, "add", "old", "--keep-last", "1", code=1)
    assert "max_age" in mnemolite(*retention, "add", "x", "--max-age", "5", code=1)
    assert "keep_last" in mnemolite(*retention, "add", "x", code=1)
    assert "invalid_filter" in mnemolite(
        *retention, "add", "x", "--max-age", "1 day", "--where", '{"a": {"$near": 1}}', code=1
    )
    (rule,) = json.loads(mnemolite(*retention, "list", "--json"))["data"]
    assert (rule["name"], rule["max_age"], rule["namespace"]) == ("old", "24 months", "n0")
    mnemolite(*retention, "hold", "add", "case", "--where", '{"number": 0}', "--reason", "court")
    (hold,) = json.loads(mnemolite(*retention, "hold", "list", "--json"))["data"]
    assert (hold["where"], hold["reason"]) == ({"number": 0}, "court")
    assert "court" in mnemolite(*retention, "status")

    seen = json.loads(mnemolite(*retention, "run", "--dry-run", "--json"))
    assert seen["dry_run"] is True
    (outcome,) = seen["data"]
    assert (outcome["deleted"], outcome["held"]) == (1, 1)
    assert "deleted 1 events" in mnemolite(*retention, "run")
    assert "retention_not_found" in mnemolite(*retention, "run", "--rule", "no", code=1)
    assert "max_age" in mnemolite(*retention, "run", "--older-than", "0 days", code=1)
    options = ("--older-than", "1 year", "--keep")
    assert "2 more are not in a whole partition" in mnemolite(*retention, "run", *options)
    (entry,) = json.loads(mnemolite(*retention, "log", "--json"))["data"]
    assert (entry["rule"], entry["events"]) == ("old", 1)

    with psycopg.connect(dsn) as busy:
        busy.execute("SELECT pg_advisory_lock(x'6D6E656D72'::bigint)")
        assert "layout_busy" in mnemolite(*retention, "run", code=1)
    mnemolite(*retention, "remove", "old")
    assert "no rule" in mnemolite(*retention, "run")
    mnemolite(*retention, "hold", "remove", "case")
    assert "retention_not_found" in mnemolite(*retention, "hold", "remove", "case", code=1)


@pytest.mark.timeout(600)
async def test_forgetting(mnemolite: Command) -> None:
    mnemolite("retention", "hold", "add", "case", "--where", '{"number": 0}')
    assert "nothing says what to forget" in mnemolite("forget", code=1)
    assert "nothing says what to forget" in mnemolite("forget", "--where", "{}", "--yes", code=1)
    assert "Erase 2 events" in mnemolite("forget", "--namespace", "n1", input="n\n", code=1)
    report = json.loads(mnemolite("forget", "--namespace", "n1", "--yes", "--json"))
    assert (report["erased"], report["verified"]) == (2, True)
    mnemolite("forget", "--namespace", "n0", "--until", "2025-01-01", "--yes", code=3)
    report = json.loads(mnemolite("forget", "--namespace", "n0", "--dry-run", "--json"))
    assert (report["matched"], report["held"], report["held_by"]) == (2, 1, ["case"])
    said = mnemolite("forget", "--namespace", "n0", "--override-holds", input="y\n")
    assert "Erased 2" in said
