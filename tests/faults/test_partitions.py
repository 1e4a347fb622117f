"""A change of the layout that is cut off at any step goes on when its command is run again."""

import asyncio
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest

from mnemolite.local_postgres import LocalPostgres
from mnemolite.memory import Memory
from mnemolite.settings import DatabaseSettings, EmbeddingSettings, Settings
from mnemolite.worker import Worker, running_worker
from tests.acceptance.server import command, environment, run
from tests.faults.postgres import kill_server, own_server
from tests.integration.test_migrations import catalog
from tests.laid_out import content, fill, leftovers

Sql = psycopg.Connection[tuple[Any, ...]]

STEPS = ("create", "copy", "index", "catch-up", "drop", "rename")
# Whoever leaves the step that is stopped at waits for the test, just before its commit.
STOP = """
    CREATE TABLE stopped_step (step text);
    CREATE FUNCTION stop_here() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF OLD.step = (SELECT step FROM stopped_step) THEN
            PERFORM pg_advisory_xact_lock(77);
        END IF;
        RETURN coalesce(NEW, OLD);
    END $$;
    CREATE TRIGGER stop_here BEFORE UPDATE OR DELETE ON relayouts
        FOR EACH ROW EXECUTE FUNCTION stop_here()"""
GO_ON = "DROP TRIGGER stop_here ON relayouts; DROP FUNCTION stop_here; DROP TABLE stopped_step"
WRITE = (
    """INSERT INTO events (content) VALUES ('{"text": "written between two tries"}')""",
    "UPDATE events SET metadata = metadata || '{\"patched\": true}' WHERE text = 'needle 4'",
    "DELETE FROM events WHERE id = (SELECT id FROM events WHERE text LIKE 'needle %' "
    "AND text <> 'needle 4' ORDER BY id LIMIT 1)",
)


@contextmanager
def stopped_at(dsn: str, sql: Sql, step: str) -> Iterator[None]:
    sql.execute("DELETE FROM stopped_step")
    sql.execute("INSERT INTO stopped_step VALUES (%s)", [step])
    with psycopg.connect(dsn, autocommit=True) as holder:
        holder.execute("SELECT pg_advisory_lock(77)")
        yield
    sql.execute("DELETE FROM stopped_step")


def wait_until_stopped(sql: Sql, process: subprocess.Popen[str]) -> None:
    query = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    while sql.execute(query).fetchone() != (1,):
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


def start(operation: str, *, variables: dict[str, str], cwd: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command("partitions", operation),
        env=environment(**variables),
        cwd=cwd,
        text=True,
        stderr=subprocess.PIPE,
    )


def kill_at(dsn: str, sql: Sql, step: str, *, operation: str, **options: Any) -> None:
    with stopped_at(dsn, sql, step):
        process = start(operation, **options)
        wait_until_stopped(sql, process)
        process.kill()
        process.communicate()
    wait_until_gone(sql)


def crash_at(postgres: LocalPostgres, step: str, *, operation: str, **options: Any) -> None:
    """Kill the server at the step, which ends the command, and start it again."""
    dsn = postgres.dsn()
    with (
        psycopg.connect(dsn, autocommit=True) as sql,
        suppress(psycopg.OperationalError),  # of what looked on
        stopped_at(dsn, sql, step),
    ):
        process = start(operation, **options)
        wait_until_stopped(sql, process)
        kill_server(postgres.data_dir)
        _, said = process.communicate(timeout=120)
        assert process.returncode != 0
        assert "database_unavailable" in said, said
    postgres.ensure_running()


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("operation", "steps"),
    [("enable", ("attach", *STEPS)), ("disable", STEPS), ("undo-split", STEPS)],
)
async def test_a_change_goes_on_after_a_kill_at_any_step(
    settings: Settings, dsn: str, tmp_path: Path, operation: str, steps: tuple[str, ...]
) -> None:
    async with Memory.open(settings) as memory:
        await fill(memory, 60)
        await Worker(memory).drain()
        plain = catalog(dsn)
    variables = {"DATABASE_URL": dsn, "COLUMNS": "200"}
    with psycopg.connect(dsn, autocommit=True) as sql:
        if operation != "enable":
            done = run("partitions", "enable", cwd=tmp_path, variables=variables, timeout=600)
            assert done.returncode == 0, done.stderr
        sql.execute(STOP.encode())
        for step in steps:
            kill_at(dsn, sql, step, operation=operation, cwd=tmp_path, variables=variables)
            for statement in WRITE:
                sql.execute(statement.encode())
            before = content(dsn)
        done = run("partitions", operation, cwd=tmp_path, variables=variables, timeout=600)
        assert done.returncode == 0, done.stderr
        assert content(dsn) == before
        sql.execute(GO_ON)
        assert leftovers(dsn) == []
        counted = sql.execute("SELECT count(*), count(DISTINCT id) FROM events").fetchone()
        assert counted == (62, 62)  # one came and one went at each step
        if operation == "enable":
            done = run("partitions", "disable", cwd=tmp_path, variables=variables, timeout=600)
            assert done.returncode == 0, done.stderr
            assert content(dsn) == before
        if operation != "undo-split":
            assert catalog(dsn) == plain


@pytest.mark.timeout(600)
@pytest.mark.parametrize("operation", ["enable", "disable"])
async def test_a_change_goes_on_after_a_crash_of_postgresql(tmp_path: Path, operation: str) -> None:
    with own_server() as postgres:
        dsn = postgres.dsn()
        settings = Settings(
            database=DatabaseSettings(url=dsn), embedding=EmbeddingSettings(mode="mock")
        )
        async with Memory.open(settings) as memory:
            await fill(memory, 60)
            await Worker(memory).drain()
        variables = {"DATABASE_URL": dsn, "EMBEDDING_MODE": "mock", "COLUMNS": "200"}
        if operation == "disable":
            done = run("partitions", "enable", cwd=tmp_path, variables=variables, timeout=300)
            assert done.returncode == 0, done.stderr
        before = content(dsn)
        with psycopg.connect(dsn, autocommit=True) as sql:
            sql.execute(STOP.encode())
        for step in ("copy", "drop", "rename"):
            crash_at(postgres, step, operation=operation, cwd=tmp_path, variables=variables)
            assert content(dsn) == before
        with psycopg.connect(dsn, autocommit=True) as sql:
            sql.execute(GO_ON)
        done = run("partitions", operation, cwd=tmp_path, variables=variables, timeout=300)
        assert done.returncode == 0, done.stderr
        assert content(dsn) == before
        assert leftovers(dsn) == []


async def test_a_worker_finishes_what_was_left_behind(
    settings: Settings, dsn: str, tmp_path: Path
) -> None:
    async with Memory.open(settings) as memory:
        await fill(memory, 20)
    variables = {"DATABASE_URL": dsn, "COLUMNS": "200"}
    with psycopg.connect(dsn, autocommit=True) as sql:
        sql.execute(STOP.encode())
        kill_at(dsn, sql, "copy", operation="enable", cwd=tmp_path, variables=variables)
        sql.execute(GO_ON)
        async with Memory.open(settings) as memory:
            async with running_worker(memory):
                while await memory.layout.unfinished():
                    await asyncio.sleep(0.05)
            assert (await memory.stats()).events == 22
    assert leftovers(dsn) == []
