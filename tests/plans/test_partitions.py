"""EXPLAIN guards on partitions: what the hot paths read of them, as the server reports it.

The real calls are made; only what was executed counts, for a plan may hold partitions that it
leaves out while it runs.
"""

import json
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from psycopg.errors import Diagnostic

from mnemolite.arms import Arms, SearchJob
from mnemolite.memory import Memory
from mnemolite.models import EventQuery, SearchQuery
from mnemolite.queue import Lease
from mnemolite.settings import DatabaseSettings, EmbeddingSettings, Settings, WorkerSettings
from mnemolite.worker import Worker
from tests.conftest import _fresh_database
from tests.partitioned import partition

START, END = datetime(2024, 1, 1, tzinfo=UTC), datetime(2025, 1, 1, tzinfo=UTC)
WEEK = START + timedelta(days=129)  # in May, and in the second quarter
# A thousand events a month, of forty sessions that last for the year.
FILL = """
    INSERT INTO events (namespace, session, timestamp, content, metadata)
    SELECT 'n', 's' || n % 40, '2024-01-01Z'::timestamptz + n * interval '43 minutes',
        jsonb_build_object('text', format('turn %s speaks of topic%s and of needle%s', n, n % 97,
            n / 10)), jsonb_build_object('n', n)
    FROM generate_series(0, 11999) AS n"""


class Read:
    """What the server has read, scan by scan: the kind, the table and the index."""

    def __init__(self) -> None:
        self.scans: list[tuple[str, str, str]] = []

    def hear(self, notice: Diagnostic) -> None:
        _, found, plan = (notice.message_primary or "").partition("plan:\n")
        if found:
            self._walk(json.loads(plan)["Plan"])

    def _walk(self, node: Mapping[str, Any]) -> None:
        if not node["Actual Loops"]:
            return
        if "Scan" in node["Node Type"]:
            table, index = node.get("Relation Name", ""), node.get("Index Name", "")
            self.scans.append((node["Node Type"], table, index))
        for inner in node.get("Plans", ()):
            self._walk(inner)

    def partitions(self, parent: str) -> set[str]:
        return {table for _, table, _ in self.scans if table.startswith(f"{parent}_")}

    def indexes(self) -> set[str]:
        return {index for _, _, index in self.scans if index}

    def whole(self) -> set[str]:
        """Tables with rows that were read from end to end."""
        return {
            table
            for kind, table, _ in self.scans
            if kind == "Seq Scan" and table.startswith(("events_p", "embeddings_1_p"))
        }


@pytest.fixture(scope="module")
def filled_dsn(server_dsn: str, template: str) -> Iterator[str]:
    yield from _fresh_database(server_dsn, template)


@pytest.fixture(scope="module")
async def filled(filled_dsn: str) -> AsyncIterator[Memory]:
    """A year in monthly partitions, its vectors in quarters, each with an index."""
    watched = make_conninfo(
        filled_dsn,
        options="-csession_preload_libraries=auto_explain -cauto_explain.log_min_duration=0 "
        "-cauto_explain.log_analyze=on -cauto_explain.log_timing=off "
        "-cauto_explain.log_format=json -cclient_min_messages=log",
    )
    try:
        with psycopg.connect(watched):
            pass
    except psycopg.Error as error:
        pytest.skip(f"the server has no auto_explain for us: {error}")
    settings = Settings(
        worker=WorkerSettings(batch_size=64, hnsw_min_rows=1000),
        database=DatabaseSettings(url=watched, pool_size=3),
        embedding=EmbeddingSettings(mode="mock", dimension=16),
    )
    async with Memory.open(settings) as memory:
        with psycopg.connect(filled_dsn, autocommit=True) as connection:
            connection.execute(FILL)
            connection.execute("DELETE FROM embedding_queue")
            await Worker(memory).drain()  # counts words
            connection.execute(
                "INSERT INTO embeddings_1 SELECT id, timestamp, 0, namespace, 0, 1, ARRAY(SELECT "
                "random() FROM generate_series(1, 16 + 0 * words))::real[]::vector FROM events"
            )
            partition(filled_dsn, since=START, until=END, events="month", embeddings="quarter")
            await memory.spaces.build_index(memory.space, min_rows=1000)
            connection.execute("VACUUM ANALYZE")
        yield memory


@pytest.fixture
async def read(filled: Memory) -> AsyncIterator[Read]:
    """What everything that the test makes the memory do reads."""
    heard = Read()
    async with AsyncExitStack() as stack:
        taken = [
            await stack.enter_async_context(filled.database.connection())
            for _ in range(filled.settings.database.pool_size)
        ]
        for connection in taken:
            connection.add_notice_handler(heard.hear)
    yield heard
    for connection in taken:
        connection.remove_notice_handler(heard.hear)


async def job(memory: Memory, **fields: Any) -> SearchJob:
    query = SearchQuery(q="needle500 topic7", namespace="n", **fields)
    question = await memory.lexicon.question("n", query.q, space=memory.space.id)
    return SearchJob(query, question, memory.space, memory.embedder, forced="hnsw")


async def test_the_guard_itself_sees_partitions_being_read(filled: Memory, read: Read) -> None:
    async with filled.database.connection() as connection:
        await connection.execute("SELECT count(*) FROM events WHERE text LIKE '%x'")
    assert len(read.partitions("events")) == 13
    assert len(read.whole()) == 12


async def test_a_search_of_seven_days_touches_the_partitions_of_these_days(
    filled: Memory, read: Read
) -> None:
    query = SearchQuery(
        q="needle430 needle431 turn", namespace="n", since=WEEK, until=WEEK + timedelta(days=7)
    )
    assert (await filled.search(query)).data
    assert "events_p20240501" in read.partitions("events")
    assert len(read.partitions("events")) <= 2
    assert read.partitions("embeddings_1") == {"embeddings_1_p20240401"}


async def test_the_nearest_of_seven_days_are_found_in_one_partition(
    filled: Memory, read: Read
) -> None:
    bounded = await job(filled, since=WEEK, until=WEEK + timedelta(days=7))
    found = await Arms(filled.database).vector(bounded)
    assert found.plan is not None
    assert found.plan.vector == "hnsw"
    assert read.partitions("embeddings_1") == {"embeddings_1_p20240401"}


@pytest.mark.parametrize("where", [None, {"n": {"$lt": 9000}}])
async def test_the_nearest_of_all_time_are_found_by_each_index(
    filled: Memory, read: Read, where: dict[str, Any] | None
) -> None:
    found = await Arms(filled.database).vector(await job(filled, where=where))
    assert found.plan is not None
    assert found.plan.vector == "hnsw"
    indexes = {name for name in read.indexes() if name.endswith("_hnsw_idx")}
    quarters = ("0101", "0401", "0701", "1001")
    assert indexes == {f"embeddings_1_p2024{start}_hnsw_idx" for start in quarters}
    assert not {table for table in read.whole() if table.startswith("embeddings")}


async def test_only_partitions_without_an_index_are_scanned_exactly(
    filled: Memory, read: Read
) -> None:
    async with filled.database.connection() as connection:
        await connection.execute("DROP INDEX embeddings_1_p20241001_hnsw_idx")
        await connection.execute("DROP INDEX embeddings_1_p20240401_hnsw_idx")
    read.scans.clear()
    found = await Arms(filled.database).vector(await job(filled))
    assert await filled.spaces.build_index(filled.space, min_rows=1000)
    assert found.plan is not None
    assert found.plan.vector == "mixed"
    indexes = {name for name in read.indexes() if name.endswith("_hnsw_idx")}
    assert indexes == {f"embeddings_1_p2024{start}_hnsw_idx" for start in ("0101", "0701")}
    assert not read.whole() & {"embeddings_1_p20240101", "embeddings_1_p20240701"}


async def test_a_hybrid_search_of_all_time_reads_no_partition_of_events_whole(
    filled: Memory, read: Read
) -> None:
    assert (await filled.search(SearchQuery(q="needle500", namespace="n", neighbours=2))).data
    assert not {table for table in read.whole() if table.startswith("events")}


async def test_an_id_is_looked_up_in_the_partition_of_its_time(filled: Memory, read: Read) -> None:
    query = EventQuery(namespace="n", limit=1, until=WEEK)
    (event,) = (await filled.list_events(query)).data
    read.scans.clear()
    assert (await filled.get(event.id)).id == event.id
    assert read.partitions("events") == {"events_p20240501"}
    read.scans.clear()
    await filled.merge_metadata(event.id, {"seen": True})
    assert read.partitions("events") == {"events_p20240501"}


async def test_pages_are_read_from_their_own_end(filled: Memory, read: Read) -> None:
    first = await filled.list_events(EventQuery(namespace="n", limit=10, until=WEEK))
    assert not read.whole()
    read.scans.clear()
    cursor = first.meta.next_cursor
    query = EventQuery(namespace="n", limit=10, since=WEEK - timedelta(days=7), cursor=cursor)
    assert len((await filled.list_events(query)).data) == 10
    assert read.partitions("events") <= {"events_p20240501"}


async def test_a_batch_is_claimed_and_embedded_by_keys(filled: Memory, read: Read) -> None:
    async with filled.database.connection() as connection:
        await connection.execute(
            "INSERT INTO embedding_queue (space, event_id, timestamp, namespace) "
            "SELECT 1, id, timestamp, namespace FROM events WHERE timestamp >= %s AND "
            "timestamp < %s",
            [WEEK, WEEK + timedelta(days=2)],
        )
        await connection.execute("ANALYZE embedding_queue")
    read.scans.clear()
    async with filled.queue.claim(
        filled.space, Lease(uuid4(), seconds=60, max_attempts=5), limit=64
    ) as claim:
        assert len(claim.events) == 64
        assert not read.whole()
        assert read.partitions("events") == {"events_p20240501"}
    read.scans.clear()
    assert await Worker(filled).embed_batch() == 64
    assert not read.whole()
    assert read.partitions("embeddings_1") == {"embeddings_1_p20240401"}


async def test_words_are_counted_by_keys(filled: Memory, read: Read) -> None:
    async with filled.database.connection() as connection:
        await connection.execute(
            "INSERT INTO lexicon_queue (event_id, timestamp, namespace) SELECT id, timestamp, "
            "namespace FROM events WHERE timestamp >= %s AND timestamp < %s",
            [WEEK, WEEK + timedelta(days=2)],
        )
    read.scans.clear()
    assert await filled.lexicon.count() > 0
    assert not read.whole()
    assert read.partitions("events") == {"events_p20240501"}
