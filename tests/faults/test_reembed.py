"""A change of the model that is killed at any stage goes on when its command is run again."""

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from mnemolite.memory import Memory
from mnemolite.models import NewEvent
from mnemolite.settings import Settings
from mnemolite.worker import Worker
from tests.acceptance.server import command, environment, run

Sql = psycopg.Connection[tuple[Any, ...]]

START = ("start", "--provider", "mock", "--dimension", "24")
NEW_EVENT = """INSERT INTO events (content) VALUES ('{"text": "written between two tries"}')"""
# What somebody else holds, so that the command is killed at that very place.
STAGES = (
    (START, "LOCK TABLE embedding_spaces IN EXCLUSIVE MODE"),  # to be registered
    (START, "LOCK TABLE embedding_queue IN EXCLUSIVE MODE"),  # to be queued
    (START, "LOCK TABLE embeddings_{new} IN EXCLUSIVE MODE"),  # to be embedded
    (START, "LOCK TABLE embeddings_{new} IN ROW EXCLUSIVE MODE"),  # to be indexed
    (START, None),
    (("switch",), "SELECT FROM embedding_spaces FOR UPDATE"),
    (("switch",), "LOCK TABLE embedded_events IN ACCESS SHARE MODE"),
    (("switch",), None),
    (("rollback",), "SELECT FROM embedding_spaces FOR UPDATE"),
    (("rollback",), None),
    (("switch",), None),
    (("drop", "1"), "SELECT FROM embedding_spaces FOR UPDATE"),
    (("drop", "1"), "LOCK TABLE embedding_queue IN EXCLUSIVE MODE"),
    (("drop", "1"), "LOCK TABLE embeddings_1 IN ROW EXCLUSIVE MODE"),
    (("drop", "1"), None),
)


@contextmanager
def held(dsn: str, statement: str) -> Iterator[None]:
    with psycopg.connect(dsn) as connection:
        connection.execute(statement.encode())
        yield
        connection.rollback()


def wait_until_blocked(sql: Sql, process: subprocess.Popen[str]) -> None:
    query = (
        "SELECT count(*) > 0 FROM pg_locks l JOIN pg_stat_activity a USING (pid) "
        "WHERE NOT l.granted AND a.datname = current_database()"
    )
    while sql.execute(query).fetchone() != (True,):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.02)


def wait_until_gone(sql: Sql) -> None:
    """Until the server has noticed that the killed command's connections are dead."""
    query = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
        "AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
    )
    while sql.execute(query).fetchone() != (0,):
        time.sleep(0.02)


def active(sql: Sql) -> list[tuple[Any, ...]]:
    return sql.execute("SELECT id FROM embedding_spaces WHERE status = 'active'").fetchall()


def newest(sql: Sql) -> int:
    """The newest space; a try that was killed may have used up a number."""
    (number,) = sql.execute("SELECT max(id) FROM embedding_spaces").fetchone() or (0,)
    return int(number)


@pytest.mark.timeout(600)
async def test_a_change_goes_on_after_a_kill_at_any_stage(
    settings: Settings, dsn: str, tmp_path: Path
) -> None:
    async with Memory.open(settings) as memory:
        await memory.add_many([NewEvent(content={"text": f"text {n}"}) for n in range(100)])
        await Worker(memory).drain()
        await memory.spaces.build_index(memory.space)
    variables = {
        "DATABASE_URL": dsn,
        "EMBEDDING_MODE": "mock",
        "EMBEDDING_DIMENSION": "16",
        "MNEMO_HNSW_MIN_ROWS": "50",
        "COLUMNS": "200",
    }
    with psycopg.connect(dsn, autocommit=True) as sql:
        for arguments, blocker in STAGES:
            before, new = active(sql), newest(sql)
            if blocker is None:
                done = run("reembed", *arguments, cwd=tmp_path, variables=variables)
                assert done.returncode == 0, done.stderr
                continue
            with held(dsn, blocker.format(new=new)):
                process = subprocess.Popen(
                    command("reembed", *arguments),
                    env=environment(**variables),
                    cwd=tmp_path,
                    text=True,
                    stderr=subprocess.PIPE,
                )
                wait_until_blocked(sql, process)
                process.kill()
                process.communicate()
            wait_until_gone(sql)
            assert active(sql) == before
            if arguments == START:
                sql.execute(NEW_EVENT)
                async with Memory.open(settings, role="work") as memory:
                    await Worker(memory).drain()
        spaces = "SELECT id, status FROM embedding_spaces"
        assert sql.execute(spaces).fetchall() == [(new, "active")]
        assert sql.execute("SELECT count(*) FROM embedding_queue").fetchone() == (0,)
        assert sql.execute("SELECT to_regclass('embeddings_1')").fetchone() == (None,)
        count = f"SELECT count(*), count(DISTINCT event_id) FROM embeddings_{new}"
        assert sql.execute(count.encode()).fetchone() == (104, 104)
        index = "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(%s)"
        assert sql.execute(index, [f"embeddings_{new}_hnsw_idx"]).fetchall() == [(True,)]
    found = run("search", "text 7", "--json", cwd=tmp_path, variables=variables)
    assert found.returncode == 1
    assert "model_mismatch" in found.stderr
    variables["EMBEDDING_DIMENSION"] = "24"
    found = run("search", "text 7", "--json", cwd=tmp_path, variables=variables)
    assert f'"space": {new}' in found.stdout
