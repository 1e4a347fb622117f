"""Retention that is killed at any step goes on when its command is run again."""

import gzip
import json
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest
from psycopg.rows import dict_row

from mnemolite.memory import Memory
from mnemolite.settings import Settings
from tests.acceptance.server import command, environment, run
from tests.faults.test_reembed import held, wait_until_blocked, wait_until_gone
from tests.integration.retention.conftest import assert_consistent, fill, month, settle
from tests.partitioned import partition

# What somebody else holds, so that the command is killed at that very place; how far it is then.
STAGES = (
    ("LOCK TABLE events IN ACCESS SHARE MODE", None),  # to be detached
    ("LOCK TABLE retention_log IN SHARE MODE", None),  # detached, to be written down
    ("LOCK TABLE namespaces IN ACCESS EXCLUSIVE MODE", "detached"),  # to be archived
    ("LOCK TABLE embedding_queue IN SHARE MODE", "archived"),  # to be taken off the queue
    ("LOCK TABLE embeddings_1 IN SHARE MODE", "archived"),  # its vectors to be deleted
    ("LOCK TABLE lexicon IN SHARE MODE", "emptied"),  # to be discounted
    ("LOCK TABLE event_changes IN SHARE MODE", "emptied"),  # to be told of
)


@pytest.mark.timeout(600)
async def test_a_drop_goes_on_after_a_kill_at_any_step(
    settings: Settings, dsn: str, tmp_path: Path
) -> None:
    async with Memory.open(settings) as memory:
        await fill(memory, range(1, 4))
        await settle(memory)
        partition(dsn, since=month(1), until=month(4), embeddings="month")
        await fill(memory, range(1, 2), each=3)  # some wait to be embedded and counted
    folder = tmp_path / "archive"
    folder.mkdir()
    age = (datetime.now(UTC) - month(3)) // timedelta(days=1)
    arguments = ("retention", "run", "--older-than", f"{age} days", "--archive", str(folder))
    variables = {"DATABASE_URL": dsn, "COLUMNS": "200"}
    with psycopg.connect(dsn, autocommit=True) as sql:
        for blocker, step in STAGES:
            with held(dsn, blocker):
                process = subprocess.Popen(
                    command(*arguments),
                    env=environment(**variables),
                    cwd=tmp_path,
                    text=True,
                    stderr=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                )
                wait_until_blocked(sql, process)
                process.kill()
                process.communicate()
            wait_until_gone(sql)
            steps = sql.execute("SELECT step FROM retention_log ORDER BY id").fetchall()
            assert steps == ([(step,)] if step else [])
        done = run(*arguments, "--json", cwd=tmp_path, variables=variables)
        assert done.returncode == 0, done.stderr
    first, second = json.loads(done.stdout)["data"]
    assert [(one["name"], one["events"]) for one in first["partitions"]] == [
        ("events_p20200101", 33)
    ]
    assert [(one["name"], one["events"]) for one in second["partitions"]] == [
        ("events_p20200201", 30)
    ]
    names = sorted(path.name for path in folder.iterdir())
    assert [name for name in names if not name.startswith(".")] == [
        "events_p20200101.jsonl.gz",
        "events_p20200201.jsonl.gz",
    ]
    lines = gzip.decompress((folder / "events_p20200101.jsonl.gz").read_bytes()).splitlines()
    assert json.loads(lines[-1]) == {"mnemolite": "end", "events": 33}
    async with Memory.open(settings) as memory:
        await settle(memory)
    with psycopg.connect(dsn, autocommit=True, row_factory=dict_row) as rows:
        assert_consistent(lambda query, *values: rows.execute(query.encode(), values).fetchall())
        assert rows.execute("SELECT count(*) AS n FROM events").fetchone() == {"n": 30}
        assert rows.execute("SELECT count(*) AS n FROM event_changes WHERE kind = 'deleted'"
                            ).fetchone() == {"n": 63}  # fmt: skip


async def test_a_rule_goes_on_after_a_kill_and_counts_each_event_once(
    settings: Settings, dsn: str, tmp_path: Path
) -> None:
    async with Memory.open(settings) as memory:
        await fill(memory, range(1, 4))
        await settle(memory)
    variables = {"DATABASE_URL": dsn, "COLUMNS": "200"}
    arguments = ("retention", "run", "--older-than", "1 year", "--json")
    with psycopg.connect(dsn, autocommit=True) as sql:
        # n0 goes in the first batch, and n1 is where it is killed.
        with held(dsn, "SELECT FROM events WHERE namespace = 'n1' FOR UPDATE"):
            process = subprocess.Popen(
                command(*arguments),
                env=environment(**variables),
                cwd=tmp_path,
                text=True,
                stderr=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
            )
            wait_until_blocked(sql, process)
            process.kill()
            process.communicate()
        wait_until_gone(sql)
        log = "SELECT kind, events, finished_at IS NOT NULL FROM retention_log"
        assert sql.execute(log).fetchall() == [("rule", 45, False)]
        done = run(*arguments, cwd=tmp_path, variables=variables)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["data"][0]["deleted"] == 45
        assert sql.execute(log).fetchall() == [("rule", 90, True)]
    with psycopg.connect(dsn, autocommit=True, row_factory=dict_row) as rows:
        assert_consistent(lambda query, *values: rows.execute(query.encode(), values).fetchall())
