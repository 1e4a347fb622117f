"""Changes of the layout: nothing is lost or doubled, and nothing stays behind."""

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from functools import partial
from typing import Any
from uuid import UUID

import psycopg
import pytest

from mnemolite.errors import (
    DatabaseConflictError,
    DatabaseFullError,
    InvalidInputError,
    LayoutBusyError,
    LayoutRefusedError,
)
from mnemolite.memory import Memory
from mnemolite.models import EventQuery, FeedQuery, LayoutWish, NewEvent, SearchQuery
from mnemolite.partitions import leaves, room, taking_turn
from mnemolite.settings import Settings
from mnemolite.worker import Worker
from tests.integration.test_migrations import catalog
from tests.laid_out import ANCIENT, FAR, content, fill, leftovers

MONTHS = LayoutWish()


async def names(memory: Memory, table: str) -> list[str]:
    async with memory.database.connection() as connection:
        return [leaf.name for leaf in await leaves(connection, table)]


async def test_every_way_keeps_every_row(memory: Memory, dsn: str) -> None:
    await fill(memory, 40)
    await Worker(memory).drain()
    await memory.add("one that is pending")
    plain, before = catalog(dsn), content(dsn)
    table = memory.space.table

    change = await memory.layout.enable(MONTHS, split=False)
    assert (change.tables, change.rows) == (["events", table], 0)
    assert (await names(memory, "events"))[0] == "events_legacy"
    assert content(dsn) == before
    change = await memory.layout.split()
    assert change.rows == len(before["events"]) + len(before[f"vectors of {memory.space.id}"])
    split = await names(memory, "events")
    assert {"events_p19070501", "events_p20250101", "events_p20261001"} <= set(split)
    assert split[-1] == "events_default"
    assert content(dsn) == before
    assert (await memory.layout.split()).tables == []
    await memory.layout.undo_split()
    assert (await names(memory, table))[0] == f"{table}_legacy"
    assert content(dsn) == before
    await memory.layout.disable()
    assert content(dsn) == before
    assert leftovers(dsn) == []
    for kind, things in catalog(dsn).items():
        assert things == plain[kind]
    assert await memory.layout.plan() is None
    assert (await memory.layout.disable()).tables == []


async def test_what_no_partition_is_made_for_is_in_the_default_one(
    memory: Memory, dsn: str
) -> None:
    await fill(memory, 4)
    await memory.layout.enable(LayoutWish(interval="day", embeddings_interval="none"))
    with psycopg.connect(dsn) as connection:
        rows = connection.execute("SELECT timestamp FROM events_default").fetchall()
    assert rows == [(FAR,)]
    assert await names(memory, memory.space.table) == [memory.space.table]
    page = await memory.list_events(EventQuery(namespace="100% 0", until=ANCIENT))
    assert page.data == []


async def test_attaching_builds_no_index_anew(memory: Memory, dsn: str) -> None:
    await fill(memory, 30)
    await Worker(memory).drain()
    await memory.spaces.build_index(memory.space)
    query = "SELECT relfilenode FROM pg_class WHERE relkind = 'i' AND oid IN (SELECT indexrelid " \
        "FROM pg_index WHERE indrelid = %s::regclass) ORDER BY 1"  # fmt: skip
    with psycopg.connect(dsn, autocommit=True) as connection:
        tables = ("events", memory.space.table)
        before = [connection.execute(query, [table]).fetchall() for table in tables]
        await memory.layout.enable(MONTHS, split=False)
        legacies = ("events_legacy", f"{memory.space.table}_legacy")
        assert [connection.execute(query, [table]).fetchall() for table in legacies] == before
        (row,) = connection.execute(
            "SELECT indexrelid::regclass::text FROM pg_index JOIN pg_class c ON c.oid = indexrelid "
            "WHERE indrelid = %s::regclass AND relname LIKE '%%hnsw%%'", [legacies[1]]
        ).fetchall()  # fmt: skip
        assert row == (f"{legacies[1]}_hnsw_idx",)


async def test_large_partitions_get_the_index_of_vectors_that_the_table_had(
    settings: Settings, dsn: str
) -> None:
    worker = settings.worker.model_copy(update={"hnsw_min_rows": 10})
    async with Memory.open(settings.model_copy(update={"worker": worker})) as memory:
        await fill(memory, 60)
        await Worker(memory).drain()
        await memory.spaces.build_index(memory.space)
        await memory.layout.enable(MONTHS)
        table = memory.space.table
        indexed = [n for kind in catalog(dsn)["indexes"] for n in [kind.split()[2]] if "hnsw" in n]
        assert indexed == [f"{table}_p20250101_hnsw_idx", f"{table}_p20260101_hnsw_idx"]
        await memory.layout.disable()
        (index,) = [i for i in catalog(dsn)["indexes"] if "hnsw" in i]
        assert index.split()[2] == f"{table}_hnsw_idx"


async def test_a_new_space_is_laid_out_like_the_others(memory: Memory, settings: Settings) -> None:
    await fill(memory, 20)
    await Worker(memory).drain()
    await memory.layout.enable(MONTHS)
    other = settings.embedding.model_copy(update={"dimension": 24})
    async with Memory.open(
        settings.model_copy(update={"embedding": other}), role="build"
    ) as building:
        first, second = memory.space.table, building.space.table
        assert [n.removeprefix(second) for n in await names(building, second)] == [
            n.removeprefix(first) for n in await names(building, first)
        ]
        await building.layout.disable()
        assert await names(building, second) == [second]


async def test_the_first_space_is_laid_out_like_the_events(settings: Settings, dsn: str) -> None:
    async with Memory.open(settings, with_model=False) as memory:
        for year in (2021, 2023):
            time = datetime(year, 3, 5, tzinfo=UTC)
            await memory.add(NewEvent(timestamp=time, content={"text": f"told in {year}"}))
        await memory.layout.enable(MONTHS)
    async with Memory.open(settings) as memory:
        await Worker(memory).drain()
        table = memory.space.table
        assert {f"{table}_p20210101", f"{table}_p20230101"} <= set(await names(memory, table))
    with psycopg.connect(dsn) as connection:
        assert connection.execute(f"SELECT FROM {table}_default".encode()).fetchall() == []


async def test_the_first_space_beside_an_old_table_has_one_too(settings: Settings) -> None:
    async with Memory.open(settings, with_model=False) as memory:
        await memory.add(
            NewEvent(timestamp=datetime(2021, 3, 5, tzinfo=UTC), content={"text": "an old one"})
        )
        await memory.layout.enable(MONTHS, split=False)
    async with Memory.open(settings) as memory:
        await Worker(memory).drain()
        assert (await names(memory, memory.space.table))[0] == f"{memory.space.table}_legacy"
        await memory.layout.split()
        assert f"{memory.space.table}_p20210101" in await names(memory, memory.space.table)


# --- While it is in use -------------------------------------------------------------------------


class Traffic:
    """Writers, deletions, changes of metadata and readers that go on meanwhile."""

    def __init__(self, memory: Memory, anchors: set[UUID]) -> None:
        self._memory = memory
        self._anchors = anchors
        self.kept: set[UUID] = set()
        self.deleted: set[UUID] = set()
        self.patched: dict[UUID, int] = {}
        self.reads = 0

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        stop = asyncio.Event()
        parts = (self._write, self._delete, self._patch, self._read)
        tasks = [asyncio.create_task(self._repeat(part, stop)) for part in parts]
        try:
            yield
        finally:
            stop.set()
            await asyncio.gather(*tasks)

    async def _repeat(self, part: Any, stop: asyncio.Event) -> None:
        number = 0
        while not stop.is_set():
            await part(number)
            number += 1
            await asyncio.sleep(0.005)

    async def _write(self, number: int) -> None:
        time = datetime(2025, 1 + number % 12, 5, tzinfo=UTC)
        event = await self._memory.add(
            NewEvent(timestamp=time, content={"text": f"written meanwhile {number}"})
        )
        self.kept.add(event.id)

    async def _delete(self, number: int) -> None:
        if number % 3 == 0 and len(self.kept) > 20:
            chosen = self.kept.pop()
            await self._memory.delete(chosen)
            self.deleted.add(chosen)

    async def _patch(self, number: int) -> None:
        chosen = sorted(self._anchors)[number % len(self._anchors)]
        await self._memory.merge_metadata(chosen, {"patched": number})
        self.patched[chosen] = number

    async def _read(self, number: int) -> None:
        async with self._memory.database.connection() as connection:
            cursor = await connection.execute(
                "SELECT count(*) AS rows, count(DISTINCT id) AS ids FROM events "
                "WHERE id = ANY (%s)", [sorted(self._anchors)]
            )  # fmt: skip
            row = await cursor.fetchone()
        assert row == {"rows": len(self._anchors), "ids": len(self._anchors)}
        self.reads += 1


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "interval", ["month", "none"], ids=["vectors partitioned", "vectors in one table"]
)
async def test_nothing_is_lost_or_doubled_while_it_is_in_use(
    worked_memory: Memory, dsn: str, interval: Any
) -> None:
    memory = worked_memory
    await fill(memory, 200)
    plain = catalog(dsn)
    anchors = {
        event.id
        for n in range(3)
        for event in (await memory.list_events(EventQuery(namespace=f"100% {n}"))).data
    }
    traffic = Traffic(memory, anchors)
    async with traffic.running():
        await memory.layout.enable(LayoutWish(embeddings_interval=interval))
        await memory.layout.undo_split()
        await memory.layout.disable()
    while (await memory.queue_state()).due:
        await asyncio.sleep(0.05)
    found = content(dsn)
    events = {row[0] for row in found["events"]}
    assert traffic.reads > 0
    assert len(events) == len(found["events"]) == 202 + len(traffic.kept)
    assert traffic.kept <= events
    assert not traffic.deleted & events
    metadata = {row[0]: row[6] for row in found["events"]}
    assert {id: metadata[id]["patched"] for id in traffic.patched} == traffic.patched
    assert {row[0] for row in found[f"vectors of {memory.space.id}"]} == events
    added = [id for kind, id in found["changes"] if kind == "added"]
    assert len(added) == len(set(added)) == len(events) + len(traffic.deleted)
    told = [
        change.id
        async for change in memory.follow(FeedQuery(after="start", all_namespaces=True), wait=False)
    ]
    assert set(told) >= events
    for kind, things in catalog(dsn).items():
        assert things == plain[kind]
    assert leftovers(dsn) == []


async def test_a_search_finds_the_same_in_each_layout(memory: Memory) -> None:
    await fill(memory, 60)
    await Worker(memory).drain()
    query = SearchQuery(q="needle 17", namespace="100% 1", limit=5)
    before = [(hit.id, round(hit.score, 6)) for hit in (await memory.search(query)).data]
    for change in (partial(memory.layout.enable, MONTHS), memory.layout.disable):
        await change()
        found = [(hit.id, round(hit.score, 6)) for hit in (await memory.search(query)).data]
        assert found == before


async def test_a_transaction_that_does_not_end_is_waited_for(memory: Memory, dsn: str) -> None:
    await fill(memory, 10)
    with psycopg.connect(dsn) as other:
        other.execute("SELECT count(*) FROM events")
        change = asyncio.create_task(memory.layout.enable(MONTHS, split=False))
        for _ in range(3):  # between its tries, others get through
            await memory.add("written meanwhile")
        assert not change.done()
        other.rollback()
    await change
    assert (await names(memory, "events"))[0] == "events_legacy"


async def test_a_snapshot_from_before_is_waited_for(memory: Memory, dsn: str) -> None:
    await fill(memory, 10)
    await memory.layout.enable(MONTHS, split=False)
    with psycopg.connect(dsn) as other:
        other.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        # Of the events it knows nothing yet, and it is no short transaction.
        other.execute("SELECT count(*) FROM namespaces")
        other.execute("SELECT pg_sleep(1.1)")
        change = asyncio.create_task(memory.layout.split())
        while [row["step"] for row in await memory.layout.unfinished()] != ["catch-up", "create"]:
            await asyncio.sleep(0.02)
        await memory.add("written after the snapshot")
        assert other.execute("SELECT count(*) FROM events").fetchone() == (12,)
        other.rollback()
    await change
    assert (await memory.stats()).events == 13


async def test_what_lies_beyond_the_bound_can_be_sent_again(memory: Memory, dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(
            "ALTER TABLE events ADD CONSTRAINT events_relayout_check "
            "CHECK (timestamp < '2100-01-01') NOT VALID"
        )
    with pytest.raises(DatabaseConflictError) as raised:
        await memory.add(NewEvent(timestamp=FAR, content={"text": "too early"}))
    assert raised.value.retry_after
    await memory.layout.enable(MONTHS)
    await memory.add(NewEvent(timestamp=FAR, content={"text": "again"}))


# --- Who may, and what is refused ---------------------------------------------------------------


async def test_one_process_at_a_time(memory: Memory) -> None:
    await fill(memory, 2)
    async with taking_turn(memory.database):
        changes = (partial(memory.layout.enable, MONTHS), memory.layout.disable)
        for change in changes:
            with pytest.raises(LayoutBusyError, match=r"process \d+ is changing the layout"):
                await change()


async def test_others_wait_until_what_is_unfinished_is_done(memory: Memory, dsn: str) -> None:
    await fill(memory, 2)
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO relayouts (source, operation, step) VALUES ('events', 'enable', 'attach')"
        )
    with pytest.raises(LayoutBusyError, match="enable of events is not finished"):
        async with taking_turn(memory.database):
            pytest.fail("it was its turn")
    assert await memory.layout.resume()
    assert not await memory.layout.resume()
    async with taking_turn(memory.database):
        pass


OBSTACLES = {
    "materialized view": "CREATE MATERIALIZED VIEW counted AS SELECT count(*) FROM events",
    "foreign_key": "CREATE TABLE notes (id uuid, timestamp timestamptz, namespace text, "
    "CONSTRAINT foreign_key FOREIGN KEY (id, timestamp, namespace) REFERENCES events)",
    "rule quiet": "CREATE RULE quiet AS ON DELETE TO events WHERE old.text = 'kept' "
    "DO INSTEAD NOTHING",
    "function latest": "CREATE FUNCTION latest() RETURNS SETOF events LANGUAGE sql "
    "AS 'SELECT * FROM events'",
    "policy own": "CREATE POLICY own ON events USING (true)",
    "row security": "ALTER TABLE events ENABLE ROW LEVEL SECURITY",
    "replica identity": "ALTER TABLE events REPLICA IDENTITY FULL",
    "statistics": "CREATE STATISTICS joint ON namespace, session FROM events",
    "index events_ids": "CREATE UNIQUE INDEX events_ids ON events (id)",
    "table heirs": "CREATE TABLE heirs () INHERITS (events)",
    "publication everything": "CREATE PUBLICATION everything FOR ALL TABLES",
    "table events in publication few": "CREATE PUBLICATION few FOR TABLE events",
    "sequence": "ALTER TABLE events ADD COLUMN number bigserial",
    "trigger watch": "CREATE TRIGGER watch AFTER INSERT ON events REFERENCING NEW TABLE AS new "
    "FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()",
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", OBSTACLES)
async def test_what_would_not_survive_is_named(memory: Memory, dsn: str, name: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(OBSTACLES[name].encode())
    before = catalog(dsn)
    with pytest.raises(LayoutRefusedError, match=name) as raised:
        await memory.layout.enable(MONTHS)
    assert raised.value.remedy
    assert catalog(dsn) == before
    assert await memory.layout.plan() is None
    assert await memory.layout.unfinished() == []


FOREIGN = """
    CREATE ROLE {role};
    GRANT SELECT, INSERT ON events TO {role} WITH GRANT OPTION;
    GRANT UPDATE (metadata) ON events TO {role};
    GRANT SELECT ON embedded_events TO {role};
    COMMENT ON TABLE events IS 'ours';
    CREATE VIEW recent WITH (security_barrier = true) AS
        SELECT id, text FROM events WHERE timestamp > '2026-01-01';
    CREATE VIEW more_recent AS SELECT id FROM recent;
    GRANT SELECT ON recent TO {role};
    CREATE INDEX events_text_idx ON events (length(text));
    CREATE TABLE audit (id uuid);
    CREATE FUNCTION audited() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN INSERT INTO audit VALUES (NEW.id); RETURN NULL; END $$;
    CREATE TRIGGER audit_row AFTER INSERT ON events FOR EACH ROW EXECUTE FUNCTION audited();
    CREATE TRIGGER audit_off AFTER INSERT ON events FOR EACH ROW EXECUTE FUNCTION audited();
    ALTER TABLE events DISABLE TRIGGER audit_off;
    ALTER TABLE events ENABLE ALWAYS TRIGGER audit_row;
    COMMENT ON TRIGGER audit_row ON events IS 'who';
    ALTER TABLE events SET (fillfactor = 90);
    ALTER TABLE events ALTER COLUMN text SET STATISTICS 500;
    CREATE PUBLICATION few FOR TABLE events WITH (publish_via_partition_root = true);
"""
STANDING = {
    "grants": "SELECT relname, relacl::text FROM pg_class "
    "WHERE relname IN ('events', 'recent', 'embedded_events') ORDER BY 1",
    "column grants": "SELECT attname, attacl::text, attstattarget FROM pg_attribute "
    "WHERE attrelid = 'events'::regclass AND attnum > 0 ORDER BY 1",
    "comments": "SELECT objsubid, description FROM pg_description "
    "WHERE objoid = 'events'::regclass UNION SELECT -1, description FROM pg_description "
    "WHERE classoid = 'pg_trigger'::regclass ORDER BY 1",
    "publication": "SELECT pubname, tablename FROM pg_publication_tables",
    "views": "SELECT viewname, definition FROM pg_views WHERE schemaname = 'public' ORDER BY 1",
    "triggers": "SELECT tgname, tgenabled FROM pg_trigger WHERE tgrelid = 'events'::regclass "
    "AND NOT tgisinternal ORDER BY 1",
}


@pytest.mark.filterwarnings("ignore")
async def test_what_others_made_follows(memory: Memory, dsn: str) -> None:
    role = f"reader_{dsn.rpartition('_')[2].split()[0]}"
    with psycopg.connect(dsn, autocommit=True) as connection:

        def standing() -> dict[str, Any]:
            return {
                name: connection.execute(query.encode()).fetchall()
                for name, query in STANDING.items()
            }

        connection.execute(FOREIGN.format(role=role).encode())
        await fill(memory, 20)
        plain, before, wrote = catalog(dsn), standing(), 22
        try:
            for change in (
                partial(memory.layout.enable, MONTHS, split=False),
                memory.layout.split,
                memory.layout.disable,
            ):
                await change()
                assert standing() == before
                await memory.add("seen by the trigger")
                wrote += 1
                assert connection.execute("SELECT count(*) FROM audit").fetchone() == (wrote,)
            for kind, things in catalog(dsn).items():
                assert things == plain[kind]
        finally:
            connection.execute(f"DROP OWNED BY {role}; DROP ROLE {role}".encode())


async def test_the_dry_run_changes_nothing_and_its_sql_does(memory: Memory, dsn: str) -> None:
    await fill(memory, 10)
    before, plain = content(dsn), catalog(dsn)
    statements = await memory.layout.enable_sql(MONTHS)
    assert catalog(dsn) == plain
    with psycopg.connect(dsn, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())
    assert (await names(memory, "events"))[0] == "events_legacy"
    assert content(dsn) == before
    assert leftovers(dsn) == []


async def test_another_interval_is_refused(memory: Memory) -> None:
    await memory.layout.enable(MONTHS)
    with pytest.raises(LayoutRefusedError, match="month") as raised:
        await memory.layout.enable(LayoutWish(interval="week"))
    assert raised.value.field == "interval"
    await memory.layout.enable(LayoutWish(premake=7, retention="2 years"))
    plan = await memory.layout.plan()
    assert plan is not None
    assert (plan.events_interval, plan.premake, plan.retention) == ("month", 7, "2 years")


@pytest.mark.parametrize("retention", ["soon", "-1 month", "0 days", "\0"])
async def test_a_retention_that_is_none_is_refused(memory: Memory, retention: str) -> None:
    with pytest.raises(InvalidInputError):
        await memory.layout.enable(LayoutWish(retention=retention))
    assert await memory.layout.plan() is None


async def test_a_plain_database_cannot_be_split(memory: Memory) -> None:
    for change in (memory.layout.split, memory.layout.undo_split):
        with pytest.raises(LayoutRefusedError, match="not partitioned"):
            await change()


async def test_the_last_year_of_all(memory: Memory, dsn: str) -> None:
    end = datetime(9999, 12, 31, 23, 59, tzinfo=UTC)
    await memory.add(NewEvent(timestamp=end, content={"text": "the end"}))
    await Worker(memory).drain()
    before = content(dsn)
    await memory.layout.enable(MONTHS, split=False)
    assert content(dsn) == before
    await memory.layout.split()
    assert content(dsn) == before
    await memory.layout.disable()
    assert content(dsn) == before


async def test_a_change_that_is_unfinished_can_be_taken_back(memory: Memory, dsn: str) -> None:
    await fill(memory, 10)
    before, plain = content(dsn), catalog(dsn)
    await memory.layout.enable(MONTHS, split=False)
    attached = catalog(dsn)
    with psycopg.connect(dsn) as other:
        other.execute("SELECT count(*) FROM namespaces")
        other.execute("LOCK TABLE events IN ACCESS SHARE MODE")
        split = asyncio.create_task(memory.layout.split())
        while [row["step"] for row in await memory.layout.unfinished()][:1] != ["catch-up"]:
            await asyncio.sleep(0.02)
        split.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await split
    await memory.layout.undo_split()
    assert catalog(dsn) == attached
    assert content(dsn) == before
    await memory.layout.disable()
    assert catalog(dsn) == plain


async def test_a_disk_that_is_too_small_is_told_of(
    memory: Memory, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(memory, 10)
    await memory.layout.enable(MONTHS, split=False)
    before = catalog(dsn)
    monkeypatch.setattr(room, "_MARGIN", 1e9)  # as if the table were a billion times as large
    if str(psycopg.conninfo.conninfo_to_dict(dsn).get("host", "")).startswith("/"):
        with pytest.raises(DatabaseFullError, match="MiB are free"):
            await memory.layout.split()
        assert catalog(dsn) == before


def test_of_two_processes_one_does_it(dsn: str) -> None:
    program = (
        "import asyncio\n"
        "from mnemolite.memory import Memory\n"
        "from mnemolite.models import LayoutWish\n"
        "from mnemolite.settings import *\n"
        f"settings = Settings(database=DatabaseSettings(url={dsn!r}))\n"
        "async def main():\n"
        "    async with Memory.open(settings, with_model=False) as memory:\n"
        "        await memory.layout.enable(LayoutWish())\n"
        "asyncio.run(main())\n"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [process.communicate(timeout=120)[1] for process in processes]
    codes = [process.returncode for process in processes]
    assert 0 in codes
    assert all(
        code == 0 or "LayoutBusyError" in text for code, text in zip(codes, said, strict=True)
    )
    with psycopg.connect(dsn) as connection:
        assert connection.execute("SELECT count(*) FROM partitioning").fetchone() == (1,)
    assert leftovers(dsn) == []
