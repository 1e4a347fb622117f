"""Keeping partitions: draining the default one while others read and write, turns, the worker."""

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from mnemolite.errors import DatabaseTimeoutError, LayoutBusyError, LayoutRefusedError
from mnemolite.memory import Memory
from mnemolite.models import EventQuery, NewEvent, SearchQuery
from mnemolite.partitions import following, leaves, start_of
from mnemolite.partitions.maintenance import MAX_ROWS
from mnemolite.snapshot import Snapshot
from mnemolite.worker import Worker, running_worker
from tests.partitioned import partition

NOW = datetime.now(UTC)
MONTH = start_of(NOW, "month")
LAST_MONTH, NEXT_MONTH = (following(MONTH, "month", steps=step) for step in (-1, 1))

Sql = psycopg.Connection[tuple[Any, ...]]


@pytest.fixture
def sql(dsn: str) -> Iterator[Sql]:
    with psycopg.connect(dsn, autocommit=True, options="-ctimezone=UTC") as opened:
        yield opened


@pytest.fixture
async def partitioned(memory: Memory, dsn: str) -> Memory:
    """A memory with one partition, that of this month."""
    partition(dsn, since=MONTH, until=NEXT_MONTH)
    return memory


async def add(memory: Memory, *moments: datetime) -> None:
    await memory.add_many(
        [NewEvent(timestamp=at, content={"text": f"needle of {at}"}) for at in moments]
    )


def whole(sql: Sql) -> list[list[tuple[Any, ...]]]:
    """All that a move must not change."""
    tables = ("events", "embeddings_1", "embedding_queue", "lexicon_queue", "event_changes")
    return [sql.execute(f"SELECT * FROM {name} ORDER BY 1, 2".encode()).fetchall()
            for name in tables]  # fmt: skip


# --- Draining -----------------------------------------------------------------------------------


async def test_old_rows_get_partitions_of_their_own(partitioned: Memory, sql: Sql) -> None:
    old = following(MONTH, "month", steps=-14)
    await add(partitioned, old, LAST_MONTH, LAST_MONTH + timedelta(days=3), NOW)
    await Worker(partitioned).drain()
    before = whole(sql)
    done = await partitioned.partitions.drain()
    moved = [(each.name, each.rows) for each in done.created if each.table == "events"]
    assert moved == [(f"events_p{old:%Y%m%d}", 1), (f"events_p{LAST_MONTH:%Y%m%d}", 2)]
    assert done.held_back == []
    assert whole(sql) == before
    assert sql.execute("SELECT count(*) FROM events_default").fetchone() == (0,)
    found = await partitioned.search(SearchQuery(q="needle"))
    assert len(found.data) == 4
    page = await partitioned.list_events(EventQuery(namespace="default", until=MONTH))
    assert len(page.data) == 3
    assert (await partitioned.partitions.drain()).created == []


async def test_ancient_and_far_future_rows_stay(partitioned: Memory, sql: Sql) -> None:
    ancient, far = datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, tzinfo=UTC)
    await add(partitioned, ancient, far)
    done = await partitioned.partitions.drain()
    assert done.created == []
    assert [(held.rows, held.since) for held in done.held_back] == [(1, ancient), (1, far)]
    assert all("too far from now" in held.reason for held in done.held_back)
    assert sql.execute("SELECT count(*) FROM events_default").fetchone() == (2,)


async def test_more_rows_than_allowed_stay(partitioned: Memory) -> None:
    await add(partitioned, *(LAST_MONTH + timedelta(hours=hour) for hour in range(3)))
    (held,) = (await partitioned.partitions.drain(max_rows=2)).held_back
    assert held.rows == 3
    assert "--max-rows" in held.reason
    assert len((await partitioned.partitions.drain(max_rows=3)).created) == 1


async def test_a_table_in_the_way_is_named(partitioned: Memory, sql: Sql) -> None:
    await add(partitioned, LAST_MONTH)
    name = f"events_p{LAST_MONTH:%Y%m%d}"
    sql.execute(f"CREATE TABLE {name} ()".encode())
    (held,) = (await partitioned.partitions.drain()).held_back
    assert held.reason == f"a table named {name} is in the way"


async def test_a_dry_run_moves_nothing(partitioned: Memory, sql: Sql) -> None:
    await add(partitioned, LAST_MONTH)
    done = await partitioned.partitions.drain(dry_run=True)
    assert [each.rows for each in done.created] == [1]
    assert sql.execute("SELECT count(*) FROM events_default").fetchone() == (1,)


async def test_an_unpartitioned_memory_has_nothing_to_drain(memory: Memory) -> None:
    with pytest.raises(LayoutRefusedError, match="not partitioned") as raised:
        await memory.partitions.drain()
    assert raised.value.remedy
    assert (await memory.partitions.maintain()).mode == "unpartitioned"


async def test_readers_and_writers_see_each_event_once_meanwhile(
    partitioned: Memory, sql: Sql
) -> None:
    """Events come and go and change while the default partition is emptied month by month."""
    months = [following(MONTH, "month", steps=-step) for step in range(1, 7)]
    kept = [at + timedelta(minutes=minute) for at in months for minute in range(40)]
    await add(partitioned, *kept)
    over = asyncio.Event()
    wrong: list[object] = []
    written: list[NewEvent] = []

    async def read() -> None:
        query = {"since": months[-1], "until": MONTH}
        statement = (
            b"SELECT count(*) AS n, count(DISTINCT id) AS ids FROM events "
            b"WHERE timestamp >= %(since)s AND timestamp < %(until)s "
            b"AND text LIKE 'needle%%'"
        )
        while not over.is_set():
            async with partitioned.database.connection() as connection:
                row = await (await connection.execute(statement, query)).fetchone()
            if row != {"n": len(kept), "ids": len(kept)}:
                wrong.append(row)

    async def write() -> None:
        while not over.is_set():
            at = months[len(written) % len(months)] + timedelta(days=2, seconds=len(written))
            event = NewEvent(timestamp=at, content={"text": f"come {len(written)}"})
            stored = await partitioned.add(event)
            await partitioned.merge_metadata(stored.id, {"n": len(written)})
            written.append(event)
            if len(written) % 3 == 0:
                await partitioned.delete(stored.id)

    others = [asyncio.create_task(read()), asyncio.create_task(read()),
              asyncio.create_task(write())]  # fmt: skip
    while len(written) < 5:
        await asyncio.sleep(0.01)
    done = await partitioned.partitions.drain()
    over.set()
    await asyncio.gather(*others)
    assert wrong == []
    moved = sum(each.rows for each in done.created if each.table == "events")
    assert moved >= len(kept)
    left = len(written) - len(written) // 3
    assert sql.execute("SELECT count(*) FROM events").fetchone() == (len(kept) + left,)
    changed = "SELECT count(*) FROM events WHERE text LIKE 'come%%' AND metadata ? 'n'"
    assert sql.execute(changed.encode()).fetchone() == (left,)


async def test_what_changes_under_the_copy_is_made_up_for(
    partitioned: Memory, sql: Sql, dsn: str
) -> None:
    """A lock holds the last step up, and in the meantime a row comes, one goes, one changes."""
    await add(partitioned, *(LAST_MONTH + timedelta(hours=hour) for hour in range(4)))
    ids = [row[0] for row in sql.execute("SELECT id FROM events ORDER BY timestamp").fetchall()]
    with psycopg.connect(dsn) as holder:
        holder.execute("LOCK TABLE events IN ACCESS SHARE MODE")
        draining = asyncio.create_task(partitioned.partitions.drain())
        waits = b"SELECT count(*) FROM pg_locks WHERE NOT granted AND mode = 'AccessExclusiveLock'"
        while sql.execute(waits).fetchone() == (0,):
            await asyncio.sleep(0.01)
        # Through the partition itself, whose lock nobody waits for.
        holder.execute("UPDATE events_default SET metadata = '{\"x\": 1}' WHERE id = %s", [ids[0]])
        holder.execute("DELETE FROM events_default WHERE id = %s", [ids[1]])
        holder.execute(
            "INSERT INTO events_default (timestamp, content) VALUES (%s, %s)",
            [LAST_MONTH + timedelta(days=1), '{"text": "late"}'],
        )
        holder.commit()
    done = await draining
    assert [each.rows for each in done.created] == [4]
    rows = sql.execute("SELECT text, metadata FROM events ORDER BY timestamp").fetchall()
    assert len(rows) == 4
    assert rows[0][1] == {"x": 1}
    assert rows[-1][0] == "late"
    assert ids[1] not in [row[0] for row in sql.execute("SELECT id FROM events").fetchall()]


async def test_who_holds_the_events_for_long_is_waited_for_in_vain(
    partitioned: Memory, sql: Sql, dsn: str
) -> None:
    await add(partitioned, LAST_MONTH)
    with psycopg.connect(dsn) as holder:
        holder.execute("SELECT FROM events LIMIT 0")
        with pytest.raises(DatabaseTimeoutError, match="held by others") as raised:
            await partitioned.partitions.drain()
    assert "Nothing was changed" in (raised.value.remedy or "")
    assert sql.execute("SELECT count(*) FROM events_default").fetchone() == (1,)
    assert len((await partitioned.partitions.drain()).created) == 1


# --- Turns --------------------------------------------------------------------------------------


async def test_one_process_at_a_time(partitioned: Memory, dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as other:
        other.execute("SELECT pg_advisory_lock(%s)", [0x6D6E656D72])
        done = await partitioned.partitions.maintain()
        assert "is changing the layout" in (done.skipped or "")
        assert done.created == []
        with pytest.raises(LayoutBusyError):
            await partitioned.partitions.drain()
    assert (await partitioned.partitions.maintain()).skipped is None


async def test_an_unfinished_change_is_not_disturbed(partitioned: Memory, sql: Sql) -> None:
    sql.execute(
        "INSERT INTO relayouts (source, operation, step, rows_copied, rows_total) "
        "VALUES ('events', 'split', 'copy', 10, 40)"
    )
    assert "not finished" in ((await partitioned.partitions.maintain()).skipped or "")
    with pytest.raises(LayoutBusyError, match="split of events"):
        await partitioned.partitions.drain()
    watched = await partitioned.partitions.watch()
    assert watched.change == "split of events (step copy, 10 of about 40 rows copied)"
    assert "change" in {concern.about for concern in watched.concerns}


# --- The worker ---------------------------------------------------------------------------------


async def test_a_worker_makes_what_is_missing(partitioned: Memory) -> None:
    await add(partitioned, NEXT_MONTH)
    async with running_worker(partitioned):
        while (await partitioned.partitions.watch()).missing:
            await asyncio.sleep(0.05)
    watched = await partitioned.partitions.watch()
    assert (watched.default_rows, watched.concerns) == (0, [])
    async with partitioned.database.connection() as connection:
        assert len(await leaves(connection, "events")) == 6


def test_the_limit_of_rows_is_one_for_all() -> None:
    from mnemolite.cli.partition_state import MAX_ROWS as OF_THE_COMMAND

    assert OF_THE_COMMAND == MAX_ROWS


async def test_a_snapshot_holds_the_events_before_it_is_taken(
    partitioned: Memory, sql: Sql
) -> None:
    """Else rows could be moved out of its sight between its snapshot and its first look."""
    held = (
        b"SELECT count(*) FROM pg_locks WHERE relation = 'events'::regclass "
        b"AND mode = 'AccessShareLock' AND granted"
    )
    assert sql.execute(held).fetchone() == (0,)
    async with Snapshot.of(partitioned.database):
        assert sql.execute(held).fetchone() == (1,)


async def test_a_drain_gives_way_to_a_snapshot_that_is_kept(
    partitioned: Memory, sql: Sql, dsn: str
) -> None:
    """A transaction that has not read the events yet holds no lock on them, but its snapshot."""
    await add(partitioned, LAST_MONTH)
    query = b"SELECT count(*) FROM events WHERE timestamp >= %s AND timestamp < %s"
    with psycopg.connect(dsn) as reader:
        reader.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        reader.execute("SELECT 1")
        await asyncio.sleep(1.1)  # younger ones are taken for those between two statements
        with pytest.raises(DatabaseTimeoutError):
            await partitioned.partitions.drain()
        assert reader.execute(query, [LAST_MONTH, MONTH]).fetchone() == (1,)
    assert len((await partitioned.partitions.drain()).created) == 1
    assert sql.execute("SELECT count(*) FROM events_default").fetchone() == (0,)
