"""`mnemolite partitions drain`, killed before its last step: nothing has changed."""

import json
import signal
import subprocess
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg

from mnemolite.memory import Memory
from mnemolite.models import NewEvent
from mnemolite.partitions import following, start_of
from tests.acceptance.server import command, environment
from tests.partitioned import partition

MONTH = start_of(datetime.now(UTC), "month")
LAST_MONTH = following(MONTH, "month", steps=-1)
_WITHIN_SECONDS = 120
_DRAINER = "SELECT pid FROM pg_stat_activity WHERE application_name = 'mnemolite layout'"


def wait_for(connection: "psycopg.Connection[Any]", query: str, *, found: bool) -> None:
    deadline = time.monotonic() + _WITHIN_SECONDS
    while (connection.execute(query.encode()).fetchone() is not None) != found:
        assert time.monotonic() < deadline, query
        time.sleep(0.02)


async def test_a_killed_drain_changes_nothing(memory: Memory, dsn: str, tmp_path: Path) -> None:
    moments = [LAST_MONTH + timedelta(hours=hour) for hour in range(5)]
    events = [NewEvent(timestamp=at, content={"text": f"event of {at}"}) for at in moments]
    await memory.add_many(events)
    partition(dsn, since=MONTH, until=following(MONTH, "month"))
    variables = environment(DATABASE_URL=dsn, EMBEDDING_MODE="mock", EMBEDDING_DIMENSION="16")
    drain = command("partitions", "drain", "--json")
    with (
        psycopg.connect(dsn) as holder,
        psycopg.connect(dsn, autocommit=True) as watcher,
    ):
        before = watcher.execute("SELECT * FROM events ORDER BY id").fetchall()
        tables = watcher.execute("SELECT relname FROM pg_class ORDER BY 1").fetchall()
        holder.execute("SELECT FROM events LIMIT 0")
        with subprocess.Popen(drain, env=variables, cwd=tmp_path) as process:
            waits = f"{_DRAINER} AND wait_event_type = 'Lock'"
            wait_for(watcher, waits, found=True)
            process.send_signal(signal.SIGKILL)
        holder.rollback()
        wait_for(watcher, _DRAINER, found=False)
        assert watcher.execute("SELECT * FROM events ORDER BY id").fetchall() == before
        assert watcher.execute("SELECT relname FROM pg_class ORDER BY 1").fetchall() == tables
        done = subprocess.run(
            drain, env=variables, cwd=tmp_path, capture_output=True, check=True, timeout=120
        )
        assert [each["rows"] for each in json.loads(done.stdout)["created"]] == [5]
        assert watcher.execute("SELECT * FROM events ORDER BY id").fetchall() == before
        assert watcher.execute("SELECT count(*) FROM events_default").fetchone() == (0,)
