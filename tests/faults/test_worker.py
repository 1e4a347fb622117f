"""Workers on two machines: one is stopped for long, one is killed; each event is embedded once."""

import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg

from mnemolite.migrations import upgrade
from tests.acceptance.server import command, environment, run

Sql = psycopg.Connection[tuple[Any, ...]]

EVENTS = 4000
# A batch is small, so that there are many moments in which one is at hand.
VARIABLES = {"EMBEDDING_MODE": "mock", "MNEMO_WORKER_LEASE_SECONDS": "2",
             "MNEMO_WORKER_BATCH_SIZE": "50"}  # fmt: skip


@contextmanager
def worker(log: Path, variables: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as output:
        process = subprocess.Popen(
            command("worker"), env=environment(**variables), stderr=output, cwd=log.parent
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGCONT)
            process.terminate()
            process.wait(60)


def add(sql: Sql, count: int) -> None:
    sql.execute(
        "INSERT INTO events (content) SELECT jsonb_build_object('text', 'event ' || n) "
        "FROM generate_series(1, %s) AS n",
        [count],
    )


def one(sql: Sql, query: str, *values: object) -> Any:
    return (sql.execute(query.encode(), values).fetchone() or (None,))[0]


def until(sql: Sql, query: str, *values: object) -> None:
    for _ in range(1200):
        if one(sql, query, *values):
            return
        time.sleep(0.05)
    raise AssertionError(f"in vain: {query}")


def halt_with_claims(sql: Sql, process: subprocess.Popen[bytes]) -> None:
    """Stop a worker's process in the middle of a batch."""
    held = ("SELECT EXISTS (SELECT FROM embedding_queue q JOIN workers w ON w.id = q.claimed_by "
            "WHERE w.pid = %s)")  # fmt: skip
    for _ in range(2000):
        process.send_signal(signal.SIGSTOP)
        time.sleep(0.02)  # what it has sent arrives
        if one(sql, held, process.pid):
            return
        process.send_signal(signal.SIGCONT)
        time.sleep(0.01)
    raise AssertionError("the worker was never seen at work")


def test_each_event_is_embedded_once_whoever_stops_or_dies(tmp_path: Path, dsn: str) -> None:
    variables = VARIABLES | {"DATABASE_URL": dsn}
    upgrade(dsn)
    assert run("add", "first", cwd=tmp_path, variables=variables).returncode == 0
    nothing_due = "SELECT NOT EXISTS (SELECT FROM embedding_queue)"
    with psycopg.connect(dsn, autocommit=True) as sql, \
            worker(tmp_path / "a.log", variables) as first, \
            worker(tmp_path / "b.log", variables) as second:  # fmt: skip
        for process in (first, second):
            until(sql, "SELECT EXISTS (SELECT FROM workers WHERE pid = %s)", process.pid)

        add(sql, EVENTS)
        halt_with_claims(sql, first)
        until(sql, nothing_due)
        written = "SELECT array_agg((event_id, xmin::text)::text ORDER BY event_id) FROM {}"
        written = written.format(one(sql, "SELECT 'embeddings_' || id FROM embedding_spaces"))
        before = one(sql, written)
        first.send_signal(signal.SIGCONT)
        seen = "SELECT seen_at > now() - interval '1 second' FROM workers WHERE pid = %s"
        until(sql, seen, first.pid)
        time.sleep(1)
        assert one(sql, written) == before, "what woke up late has written nothing"

        add(sql, EVENTS)
        halt_with_claims(sql, second)
        second.kill()
        second.wait()
        until(sql, nothing_due)
        assert one(sql, "SELECT count(*) FROM embedded_events") == 2 * EVENTS + 1
        assert one(sql, "SELECT count(DISTINCT id) FROM embedded_events") == 2 * EVENTS + 1
    assert first.returncode == 0
