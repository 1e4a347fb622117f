"""What every manager of partitions promises: native, pg_partman 4.7 and pg_partman 5."""

import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from typing import Any, get_args

import psycopg
import pytest

from mnemolite.database import Connection
from mnemolite.errors import LayoutRefusedError
from mnemolite.memory import Memory
from mnemolite.models import LayoutWish, ManagerName, NewEvent, SearchQuery
from mnemolite.partitions import Interval, Range, following, is_partitioned, leaves, start_of
from mnemolite.partitions.ahead import gaps, wanted
from mnemolite.partitions.management import Manager, choose, manager_of
from mnemolite.partitions.plan import read_plan
from mnemolite.worker import Worker
from tests.partitioned import partition
from tests.pg_partman import offered

NOW = datetime.now(UTC)
THIS_MONTH = start_of(NOW, "month")
INTERVALS: tuple[Interval, ...] = get_args(Interval)

Sql = psycopg.Connection[tuple[Any, ...]]


@pytest.fixture(params=["native", "pg_partman 4", "pg_partman 5"])
def manager_name(request: pytest.FixtureRequest, dsn: str) -> Iterator[ManagerName]:
    """The manager under test, installed in the test's database."""
    with ExitStack() as stack:
        if request.param == "native":
            yield "native"
            return
        major = int(request.param.split()[1])
        version = stack.enter_context(offered(dsn, major))
        assert version.startswith(f"{major}.")
        yield "pg_partman"


@pytest.fixture
async def connection(memory: Memory) -> AsyncIterator[Connection]:
    async with memory.database.own_connection() as opened:
        await opened.execute("SET timezone TO 'UTC'")
        yield opened


@pytest.fixture
def sql(dsn: str) -> Iterator[Sql]:
    with psycopg.connect(dsn, autocommit=True, options="-ctimezone=UTC") as opened:
        yield opened


async def adopt(connection: Connection, dsn: str, *, manager: ManagerName, by: Interval) -> Manager:
    """Lay the events out in the interval of now alone, and let the manager take over."""
    start = start_of(NOW, by)
    partition(dsn, since=start, until=following(start, by), events=by, embeddings="year")
    await connection.execute("UPDATE partitioning SET manager = %s", [manager])
    plan = await read_plan(connection)
    assert plan is not None
    adopted = await manager_of(connection, manager)
    async with connection.transaction():
        await adopted.adopt(connection, plan, table="events")
    return adopted


async def ranges_of(connection: Connection, table: str = "events") -> list[Range]:
    return [leaf.range for leaf in await leaves(connection, table) if leaf.range is not None]


def assert_covered(held: list[Range], *, by: Interval, premake: int) -> None:
    for span in wanted(NOW, by=by, premake=premake):
        assert list(gaps(span, held)) == []


@pytest.mark.parametrize("by", INTERVALS)
async def test_what_is_missing_ahead_is_made_once(
    memory: Memory, connection: Connection, dsn: str, *, manager_name: ManagerName, by: Interval
) -> None:
    await adopt(connection, dsn, manager=manager_name, by=by)
    before = await ranges_of(connection)
    done = await memory.partitions.maintain()
    held = await ranges_of(connection)
    assert (done.manager, done.skipped, done.held_back) == (manager_name, None, [])
    assert_covered(held, by=by, premake=4)
    made = [each for each in done.created if each.table == "events"]
    assert len(made) == len(held) - len(before) in (4, 5)
    for span in held:
        assert span.since is not None
        assert span == Range(start_of(span.since, by), following(span.since, by))
    again = await memory.partitions.maintain()
    assert again.created == []
    assert (await memory.partitions.watch()).missing == 0


async def test_the_embeddings_get_theirs_as_well(
    memory: Memory, connection: Connection, dsn: str, *, manager_name: ManagerName
) -> None:
    await adopt(connection, dsn, manager=manager_name, by="month")
    await memory.partitions.maintain()
    assert_covered(await ranges_of(connection, memory.space.table), by="year", premake=4)


async def test_new_partitions_are_like_the_old_ones(
    memory: Memory, connection: Connection, sql: Sql, *, dsn: str, manager_name: ManagerName
) -> None:
    await adopt(connection, dsn, manager=manager_name, by="month")
    await memory.partitions.maintain()
    old, *_, new = [leaf.name for leaf in await leaves(connection, "events") if leaf.range]

    def shape(table: str) -> list[list[str]]:
        """Indexes, constraints, triggers and columns, without the table's name."""
        queries = (
            "SELECT pg_get_indexdef(indexrelid) FROM pg_index WHERE indrelid = %s::regclass",
            "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = %s::regclass",
            "SELECT tgname FROM pg_trigger WHERE tgrelid = %s::regclass",
            "SELECT concat_ws(' ', attname, attnotnull, attstorage, attgenerated) FROM "
            "pg_attribute WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped",
        )
        return [
            sorted(str(row[0]).split(f"{table} USING")[-1] for row in sql.execute(query, [table]))
            for query in queries
        ]

    assert shape(new) == shape(old)


async def test_events_of_the_new_partitions_are_full_members(
    memory: Memory, connection: Connection, dsn: str, *, manager_name: ManagerName
) -> None:
    await adopt(connection, dsn, manager=manager_name, by="month")
    await memory.partitions.maintain()
    later = following(THIS_MONTH, "month", steps=2)
    stored = await memory.add(NewEvent(timestamp=later, content={"text": "a later needle"}))
    await Worker(memory).drain()
    found = await memory.search(SearchQuery(q="needle"))
    assert [hit.id for hit in found.data] == [stored.id]
    assert found.data[0].similarity is not None
    assert (await memory.partitions.watch()).default_rows == 0
    await memory.delete(stored.id)
    assert (await memory.stats()).embeddings == 0


async def test_rows_in_the_way_come_along(
    memory: Memory, connection: Connection, sql: Sql, *, dsn: str, manager_name: ManagerName
) -> None:
    await adopt(connection, dsn, manager=manager_name, by="month")
    moments = [following(THIS_MONTH, "month", steps=step) for step in (1, 3, 5)]
    events = [
        await memory.add(NewEvent(timestamp=at, content={"text": f"early bird {at}"}))
        for at in moments
    ]
    before = sql.execute("SELECT * FROM events ORDER BY id").fetchall()
    queued = sql.execute("SELECT * FROM embedding_queue ORDER BY event_id").fetchall()
    changes = sql.execute("SELECT count(*) FROM event_changes").fetchone()
    assert sql.execute("SELECT count(*) FROM events_default").fetchone() == (3,)
    done = await memory.partitions.maintain()
    assert sum(each.rows for each in done.created) >= 2
    assert sql.execute("SELECT * FROM events ORDER BY id").fetchall() == before
    assert sql.execute("SELECT * FROM embedding_queue ORDER BY event_id").fetchall() == queued
    assert sql.execute("SELECT count(*) FROM event_changes").fetchone() == changes
    assert sql.execute("SELECT count(*) FROM events_default").fetchone() in [(0,), (1,)]
    assert_covered(await ranges_of(connection), by="month", premake=4)
    assert [(await memory.get(event.id)).id for event in events] == [each.id for each in events]


async def test_too_many_rows_in_the_way_are_held_back(
    memory: Memory, connection: Connection, dsn: str, *, manager_name: ManagerName
) -> None:
    await adopt(connection, dsn, manager=manager_name, by="month")
    following_month = following(THIS_MONTH, "month")
    for seconds in range(3):
        at = following_month + timedelta(seconds=seconds)
        await memory.add(NewEvent(timestamp=at, content={"text": "one of three"}))
    done = await memory.partitions.maintain(max_rows=2)
    (held,) = done.held_back
    assert (held.table, held.since, held.rows) == ("events", following_month, 3)
    assert "split" in held.reason
    watched = await memory.partitions.watch()
    assert (watched.missing, watched.default_rows) == (1, 3)
    assert {concern.about for concern in watched.concerns} == {"default", "ahead"}
    assert (await memory.partitions.maintain()).held_back == []
    assert (await memory.partitions.watch()).concerns == []


async def test_a_dry_run_says_it_and_does_nothing(
    memory: Memory, connection: Connection, dsn: str, *, manager_name: ManagerName
) -> None:
    await adopt(connection, dsn, manager=manager_name, by="month")
    before = await leaves(connection, "events")
    said = await memory.partitions.maintain(dry_run=True)
    assert said.dry_run
    assert len([each for each in said.created if each.table == "events"]) == 4
    assert await leaves(connection, "events") == before
    done = await memory.partitions.maintain()
    assert {each.name for each in said.created} <= {each.name for each in done.created}


async def test_an_old_part_without_a_beginning_is_no_hindrance(
    memory: Memory, connection: Connection, sql: Sql, *, dsn: str, manager_name: ManagerName
) -> None:
    """As the events stand while what came before is not split yet."""
    await adopt(connection, dsn, manager=manager_name, by="month")
    for statement in (
        "CREATE TABLE events_legacy (LIKE events INCLUDING ALL)",
        f"ALTER TABLE events ATTACH PARTITION events_legacy FOR VALUES FROM (MINVALUE) TO "
        f"('{THIS_MONTH:%Y-%m-%d}')",
    ):
        sql.execute(statement.encode())
    done = await memory.partitions.maintain()
    assert done.held_back == []
    assert_covered(await ranges_of(connection), by="month", premake=4)
    assert (await memory.partitions.maintain()).created == []


async def test_the_managers_books_say_how_many(
    memory: Memory, connection: Connection, sql: Sql, *, dsn: str, manager_name: ManagerName
) -> None:
    await adopt(connection, dsn, manager=manager_name, by="month")
    books = "partitioning" if manager_name == "native" else "partman.part_config"
    sql.execute(f"UPDATE {books} SET premake = 7".encode())
    await memory.partitions.maintain()
    assert_covered(await ranges_of(connection), by="month", premake=7)
    assert (await memory.partitions.report()).premake == 7


async def test_letting_go_keeps_everything(
    memory: Memory, connection: Connection, sql: Sql, *, dsn: str, manager_name: ManagerName
) -> None:
    manager = await adopt(connection, dsn, manager=manager_name, by="month")
    await memory.partitions.maintain()
    event = await memory.add("kept")
    before = await leaves(connection, "events")
    async with connection.transaction():
        await manager.release(connection, "events")
    assert [leaf.name for leaf in await leaves(connection, "events")] == [
        leaf.name for leaf in before
    ]
    assert (await memory.get(event.id)).id == event.id
    if manager_name == "pg_partman":
        assert sql.execute("SELECT count(*) FROM partman.part_config").fetchone() == (0,)


async def test_adopting_is_undone_with_its_transaction(
    memory: Memory, connection: Connection, dsn: str, *, manager_name: ManagerName
) -> None:
    manager = await adopt(connection, dsn, manager=manager_name, by="month")
    async with connection.transaction():
        await manager.release(connection, "events")
    plan = await read_plan(connection)
    assert plan is not None
    async with connection.transaction(force_rollback=True):
        await manager.adopt(connection, plan, table="events")
    if manager_name == "pg_partman":
        with pytest.raises(LayoutRefusedError, match="no row for the events"):
            await manager.settle(connection, plan)
        watched = await memory.partitions.watch()
        assert [c.about for c in watched.concerns if c.urgent] == ["manager", "ahead"]
    else:
        assert await manager.settle(connection, plan) == plan
    assert await is_partitioned(connection, "events")


# --- Which manager it is ------------------------------------------------------------------------


async def test_auto_takes_what_the_database_has(
    connection: Connection, manager_name: ManagerName
) -> None:
    assert await choose(connection, "auto") == manager_name
    assert await choose(connection, "native") == "native"


async def test_pg_partman_is_refused_where_it_is_not(connection: Connection) -> None:
    with pytest.raises(LayoutRefusedError, match="no pg_partman") as raised:
        await choose(connection, "pg_partman")
    assert raised.value.field == "--manager"
    assert "CREATE EXTENSION" in (raised.value.remedy or "")


# --- pg_partman's own books ---------------------------------------------------------------------


@pytest.mark.parametrize("major", [4, 5])
async def test_books_that_would_do_harm_are_told_of(
    memory: Memory, connection: Connection, sql: Sql, *, dsn: str, major: int
) -> None:
    with offered(dsn, major):
        await adopt(connection, dsn, manager="pg_partman", by="month")
        await memory.partitions.maintain()
        assert (await memory.partitions.watch()).concerns == []
        assert (await memory.partitions.report()).manager_version is not None
        sql.execute("UPDATE partman.part_config SET retention = '24 months'")
        (concern,) = (await memory.partitions.watch()).concerns
        assert (concern.about, concern.urgent) == ("manager", False)
        assert "24 months" in concern.detail
        sql.execute("UPDATE partman.part_config SET retention = NULL, undo_in_progress = true")
        (concern,) = (await memory.partitions.watch()).concerns
        assert "undone" in concern.detail
        sql.execute(
            "UPDATE partman.part_config SET undo_in_progress = false, "
            "partition_interval = '10 days'"
        )
        (concern,) = (await memory.partitions.watch()).concerns
        assert concern.urgent
        assert "interval of 10 days" in concern.detail
        with pytest.raises(LayoutRefusedError, match="10 days") as raised:
            await memory.partitions.maintain()
        assert "1 mon" in (raised.value.remedy or "")


@pytest.mark.parametrize("major", [4, 5])
async def test_an_extension_that_is_gone_is_told_of(
    memory: Memory, connection: Connection, sql: Sql, *, dsn: str, major: int
) -> None:
    with offered(dsn, major):
        await adopt(connection, dsn, manager="pg_partman", by="month")
        sql.execute("DROP EXTENSION pg_partman CASCADE")
    watched = await memory.partitions.watch()
    assert [each.about for each in watched.concerns] == ["manager", "ahead"]
    assert (await memory.partitions.report()).manager == "pg_partman"
    with pytest.raises(LayoutRefusedError, match="no pg_partman"):
        await memory.partitions.maintain()
    sql.execute("UPDATE partitioning SET manager = 'native'")
    await memory.partitions.maintain()
    assert (await memory.partitions.watch()).concerns == []


@pytest.mark.parametrize("major", [4, 5])
async def test_a_role_without_rights_does_not_get_it(
    connection: Connection, sql: Sql, *, dsn: str, major: int
) -> None:
    role = f"nobody_{secrets.token_hex(4)}"
    with offered(dsn, major):
        sql.execute(f"CREATE ROLE {role}".encode())
        sql.execute(f"GRANT {role} TO CURRENT_USER".encode())
        try:
            await connection.execute(f"SET ROLE {role}")
            assert await choose(connection, "auto") == "native"
            with pytest.raises(LayoutRefusedError, match="may not use partman"):
                await choose(connection, "pg_partman")
        finally:
            await connection.execute("RESET ROLE")
            sql.execute(f"DROP ROLE {role}".encode())


# --- From the first partition to the last -------------------------------------------------------


async def registered(sql: Sql) -> list[Any]:
    if sql.execute("SELECT to_regclass('partman.part_config')").fetchone() == (None,):
        return []
    return [row[0] for row in sql.execute("SELECT parent_table FROM partman.part_config")]


async def test_enable_split_and_disable(
    memory: Memory, sql: Sql, *, manager_name: ManagerName
) -> None:
    books = ["public.events"] if manager_name == "pg_partman" else []
    months = [following(THIS_MONTH, "month", steps=-step) for step in range(3)]
    await memory.add_many([NewEvent(timestamp=at, content={"text": "old"}) for at in months])
    before = sql.execute("SELECT * FROM events ORDER BY id").fetchall()
    await memory.layout.enable(LayoutWish(manager="auto", premake=2), split=False)
    report = await memory.partitions.report()
    assert (report.manager, report.premake, report.watch.concerns) == (manager_name, 2, [])
    assert await registered(sql) == books
    assert len((await memory.partitions.maintain()).created) <= bool(books)  # it may make one more
    await memory.layout.split()
    assert await registered(sql) == books
    assert (await memory.partitions.report()).watch.concerns == []
    sql.execute("UPDATE partitioning SET premake = 6")
    if books:
        sql.execute("UPDATE partman.part_config SET premake = 6")
    assert (await memory.partitions.maintain()).created != []
    assert (await memory.partitions.watch()).concerns == []
    await memory.layout.disable()
    assert await registered(sql) == []
    assert (await memory.partitions.report()).mode == "unpartitioned"
    assert sql.execute("SELECT * FROM events ORDER BY id").fetchall() == before


async def test_another_manager_takes_over(
    memory: Memory, sql: Sql, *, manager_name: ManagerName
) -> None:
    await memory.layout.enable(LayoutWish(manager="native"))
    assert await registered(sql) == []
    await memory.layout.enable(LayoutWish(manager="auto"))
    assert (await memory.partitions.report()).manager == manager_name
    assert await registered(sql) == (["public.events"] if manager_name == "pg_partman" else [])
    await memory.layout.enable(LayoutWish())
    assert (await memory.partitions.report()).manager == manager_name
    await memory.layout.enable(LayoutWish(manager="native"))
    assert await registered(sql) == []
    assert (await memory.partitions.maintain()).manager == "native"


async def test_a_manager_that_is_not_there_is_refused(memory: Memory) -> None:
    with pytest.raises(LayoutRefusedError, match="no pg_partman"):
        await memory.layout.enable(LayoutWish(manager="pg_partman"))
    assert (await memory.partitions.report()).mode == "unpartitioned"
