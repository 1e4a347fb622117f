"""What it costs to drop an expired month, beside a DELETE of the same events, in one run.

    python -m benchmarks.retention [EVENTS]

Two databases are filled alike: three months of events with vectors of 384 dimensions, indexed and
counted. In the one the oldest month is dropped as a partition, in the other its events are
deleted, at once and in batches. Each is timed until the lexicon has been counted, in seconds and in
those that processors worked in PostgreSQL, which other load on the machine disturbs less; the bytes
of WAL are those that it wrote (autovacuum is off). VACUUM, which a DELETE needs afterwards and a
drop does for the lexicon alone, is told apart.
"""

import asyncio
import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

import psycopg
from tests.partitioned import partition

from mnemolite import retention
from mnemolite.local_postgres import open_local_postgres
from mnemolite.memory import Memory
from mnemolite.retention import Options
from mnemolite.settings import DatabaseSettings, EmbeddingSettings, Settings

EVENTS = 40_000
DIMENSION = 384
MARCH, APRIL, JUNE = (datetime(2020, month, 1, tzinfo=UTC) for month in (3, 4, 6))
# A vocabulary like that of people: few words are in most texts, most words in few.
_FILL = """
INSERT INTO events (namespace, session, timestamp, content, metadata)
SELECT 'n' || n %% 20, 's' || n %% 500, %(since)s + n * interval '1 month' / %(events)s,
    jsonb_build_object('speaker', 'Ada', 'text', (
        SELECT string_agg('word' || floor(20000 * power(random(), 4))::integer, ' ')
        FROM generate_series(1, 30 + n %% 20))), jsonb_build_object('n', n)
FROM generate_series(0, %(events)s - 1) AS n"""
_EMBED = """
INSERT INTO embeddings_1 (event_id, timestamp, passage, namespace, char_start, char_end, embedding)
SELECT e.id, e.timestamp, 0, e.namespace, 0, length(e.text), (
    SELECT array_agg(random() - 0.5 + 0 * (d + length(e.text))) FROM generate_series(1, %s) AS d
    )::vector
FROM events e"""


async def fill(dsn: str, events: int) -> None:
    """Three months, the vectors made up: what they say does not matter here."""
    async with Memory.open(settings(dsn)) as memory:
        with psycopg.connect(dsn, autocommit=True) as connection:
            for number in range(3):
                since = (MARCH + timedelta(days=31 * number)).replace(day=1)
                connection.execute(_FILL, {"since": since, "events": events})
            connection.execute(_EMBED, [DIMENSION])
            connection.execute("DELETE FROM embedding_queue")
        await memory.settle()


def settings(dsn: str) -> Settings:
    return Settings(
        database=DatabaseSettings(
            url=dsn, statement_timeout_seconds=3600, pool_timeout_seconds=300
        ),
        embedding=EmbeddingSettings(mode="mock", dimension=DIMENSION),
    )


async def measured(dsn: str, act: Callable[[], Awaitable[object]]) -> str:
    """Seconds, those of processors, and MB of WAL."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("CHECKPOINT")
        row = connection.execute(
            "SELECT pg_current_wal_lsn()::text, current_setting('data_directory')"
        ).fetchone()
        before, folder = row or ("", "")
        server = int(Path(folder, "postmaster.pid").read_text().split()[0])
        started, worked = time.perf_counter(), seconds_worked(server)
        await act()
        seconds, worked = time.perf_counter() - started, seconds_worked(server) - worked
        query = "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), %s::pg_lsn)::float8"
        (written,) = connection.execute(query, [before]).fetchone() or (0,)
    return f"{seconds:7.2f} s {worked:7.2f} s worked {written / 1e6:7.1f} MB"


def seconds_worked(server: int) -> float:
    """What processors have worked for a server: its processes, and those that have ended."""
    ticks = 0
    for pid in Path(f"/proc/{server}/task/{server}/children").read_text().split():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
            ticks += sum(_times(pid)[:2])
    return (ticks + sum(_times(server))) / os.sysconf("SC_CLK_TCK")


def _times(pid: int | str) -> list[int]:
    """Ticks in user mode and in the kernel; then those of children that have ended."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return [int(field) for field in fields[11:15]]


async def run(dsn: str, way: str, *, vectors: Literal["month", "year"] | None) -> None:
    if way == "drop":
        partition(dsn, since=MARCH, until=JUNE, embeddings=vectors)
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("VACUUM (FREEZE, ANALYZE)")  # as rows of that age are in practice
    async with Memory.open(settings(dsn)) as memory:
        hours = (datetime.now(UTC) - APRIL) // timedelta(hours=1)

        async def drop() -> None:
            await retention.run(memory, Options(older_than=f"{hours} hours"))

        async def delete() -> None:
            async with memory.database.own_connection() as connection:
                await connection.execute("DELETE FROM events WHERE timestamp < '2020-04-01'")
            while await memory.lexicon.count():
                pass

        async def vacuum() -> None:
            async with memory.database.own_connection() as connection:
                for table in ("events", "embeddings_1", "lexicon", "lexicon_queue"):
                    await connection.execute(f"VACUUM {table}".encode())

        cost = await measured(dsn, delete if way == "delete" else drop)
        afterwards = await measured(dsn, vacuum)
        async with memory.database.connection() as connection:
            cursor = await connection.execute("SELECT count(*) AS n FROM events")
            left = (await cursor.fetchone() or {})["n"]
    kind = {"drop": f"partition, vectors by {vectors}", "delete": "DELETE at once"}
    print(
        f"{kind.get(way, 'in batches'):27}{cost}; VACUUM {afterwards}; {left} events left",
        flush=True,
    )


def main() -> None:
    events = int(sys.argv[1]) if len(sys.argv) > 1 else EVENTS
    with (
        tempfile.TemporaryDirectory() as folder,
        open_local_postgres(
            Path(folder), database="postgres", extra_settings={"autovacuum": "off"}
        ) as server,
    ):
        ways: list[tuple[str, Literal["month", "year"] | None]] = [
            ("drop", "month"), ("drop", "year"), ("delete", None), ("batches", None),
        ]  # fmt: skip
        with psycopg.connect(server.dsn("postgres"), autocommit=True) as connection:
            connection.execute("CREATE DATABASE filled")
            asyncio.run(fill(server.dsn("filled"), events))
            for number, (way, vectors) in enumerate(ways):
                connection.execute(f"CREATE DATABASE bench{number} TEMPLATE filled".encode())
                asyncio.run(run(server.dsn(f"bench{number}"), way, vectors=vectors))


if __name__ == "__main__":
    main()
