"""EXPLAIN guards: the hot paths use their indexes, as the server itself reports while they run.

The real calls are made; PostgreSQL's auto_explain sends the plan of each statement back to the
connection that ran it, those inside triggers included.
"""

import json
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from psycopg.errors import Diagnostic

from mnemolite.arms import Arms, SearchJob
from mnemolite.database import Connection
from mnemolite.memory import Memory
from mnemolite.models import (
    DeliveryQuery,
    EventQuery,
    FeedQuery,
    JsonObject,
    NewEvent,
    NewWebhook,
    SearchQuery,
)
from mnemolite.queue import Lease
from mnemolite.settings import DatabaseSettings, EmbeddingSettings, Settings, WorkerSettings
from mnemolite.worker import Worker
from tests.conftest import _fresh_database

EVENTS = 20_000
NAMESPACES = 20
START = datetime(2024, 1, 1, tzinfo=UTC)
# Each namespace gets a thousand events of fifty sessions, a minute apart.
FILL = """
    INSERT INTO events (namespace, session, timestamp, content, metadata)
    SELECT 'n' || n % 20, 's' || n / 20 % 50, '2024-01-01Z'::timestamptz + n * interval '1 minute',
        jsonb_build_object('text', format('turn %s speaks of topic%s and of needle%s', n, n % 97,
            n / 10)), jsonb_build_object('n', n)
    FROM generate_series(0, 19999) AS n"""


@pytest.fixture(scope="module")
def filled_dsn(server_dsn: str, template: str) -> Iterator[str]:
    yield from _fresh_database(server_dsn, template)


@pytest.fixture(scope="module")
def settings(filled_dsn: str) -> Settings:
    watched = make_conninfo(
        filled_dsn,
        options="-csession_preload_libraries=auto_explain -cauto_explain.log_min_duration=0 "
        "-cauto_explain.log_nested_statements=on -cauto_explain.log_format=json "
        "-cclient_min_messages=log",
    )
    return Settings(
        worker=WorkerSettings(batch_size=64),
        database=DatabaseSettings(url=watched, pool_size=4),
        embedding=EmbeddingSettings(mode="mock", dimension=16),
    )


@pytest.fixture(scope="module")
async def filled(settings: Settings, filled_dsn: str) -> AsyncIterator[Memory]:
    """Twenty thousand events: three quarters embedded, the rest in the queue."""
    try:
        with psycopg.connect(str(settings.database.url)):
            pass
    except psycopg.Error as error:
        pytest.skip(f"the server has no auto_explain for us: {error}")
    async with Memory.open(settings) as memory:
        with psycopg.connect(filled_dsn, autocommit=True) as connection:
            connection.execute(FILL)
            connection.execute("DELETE FROM embedding_queue")
            await Worker(memory).drain()  # counts words
            connection.execute(
                f"INSERT INTO {memory.space.table} SELECT id, timestamp, 0, namespace, 0, 1, "
                "array_fill(random()::float4, ARRAY[16])::vector FROM events "
                "WHERE (metadata -> 'n')::integer % 4 > 0".encode()
            )
            connection.execute(
                "INSERT INTO embedding_queue (space, event_id, timestamp, namespace) "
                "SELECT %s, id, timestamp, namespace FROM events "
                "WHERE (metadata -> 'n')::integer %% 4 = 0",
                [memory.space.id],
            )
            connection.execute(
                "INSERT INTO idempotency_keys "
                "(namespace, key, digest, event_ids, pending, created, expires_at) "
                "SELECT namespace, 'key ' || (metadata ->> 'n'), '', ARRAY[id], ARRAY[true], 1, "
                "now() + interval '1 day' FROM events"
            )
            connection.execute("VACUUM ANALYZE")
        yield memory


class Plans:
    """What the server did, scan by scan."""

    def __init__(self) -> None:
        self.scans: list[tuple[str, str, str]] = []  # kind, table, index
        self.readers: list[set[str]] = []  # of each statement, triggers' included: what it read

    def read(self, notice: Diagnostic) -> None:
        _, found, plan = (notice.message_primary or "").partition("plan:\n")
        if found:
            seen = len(self.scans)
            self._walk(json.loads(plan)["Plan"])
            self.readers.append({table for _, table, _ in self.scans[seen:]})

    def _walk(self, node: Mapping[str, Any]) -> None:
        if "Scan" in node["Node Type"]:
            table, index = node.get("Relation Name", ""), node.get("Index Name", "")
            self.scans.append((node["Node Type"], table, index))
        for inner in node.get("Plans", ()):
            self._walk(inner)

    def reads(self, table: str) -> bool:
        return any(table == read for _, read, _ in self.scans)

    def statements_on(self, table: str) -> int:
        """How many statements read the table; what runs beside the test reads others."""
        return sum(table in read for read in self.readers)

    def used(self, index: str) -> bool:
        return any(index == used for _, _, used in self.scans)

    def whole_tables(self) -> set[str]:
        return {table for kind, table, _ in self.scans if kind == "Seq Scan"}


@asynccontextmanager
async def all_connections(memory: Memory) -> AsyncIterator[list[Connection]]:
    """Every connection that the memory can use."""
    async with AsyncExitStack() as stack:
        yield [
            await stack.enter_async_context(memory.database.connection())
            for _ in range(memory.settings.database.pool_size)
        ]


@pytest.fixture
async def plans(filled: Memory) -> AsyncIterator[Plans]:
    """The plans of everything that the test makes the memory do."""
    heard = Plans()
    async with all_connections(filled) as taken:
        for connection in taken:
            connection.add_notice_handler(heard.read)
    yield heard
    for connection in taken:
        connection.remove_notice_handler(heard.read)


LARGE = {"events", "embedding_queue", "idempotency_keys"}


async def some_event(memory: Memory) -> Any:
    page = await memory.list_events(EventQuery(namespace="n3", limit=1))
    return page.data[0]


async def test_the_guard_itself_sees_a_whole_table_being_read(filled: Memory, plans: Plans) -> None:
    async with filled.database.connection() as connection:
        await connection.execute("SELECT count(*) FROM events WHERE text LIKE '%x'")
    assert "events" in plans.whole_tables()  # with what a connection does of its own beside it


async def test_an_event_is_found_by_its_id(filled: Memory, plans: Plans) -> None:
    event = await some_event(filled)
    plans.scans.clear()
    await filled.get(event.id)
    assert plans.used("events_pkey")
    assert not plans.whole_tables() & LARGE


@pytest.mark.parametrize(
    ("query", "index"),
    [
        ({}, "events_time_idx"),
        ({"order": "oldest"}, "events_time_idx"),
        ({"since": START + timedelta(days=5), "until": START + timedelta(days=6)},
         "events_time_idx"),
        ({"session": "s7"}, "events_session_idx"),
        ({"session": "s7", "order": "oldest"}, "events_session_idx"),
        ({"where": {"n": {"$gt": 10}}}, "events_time_idx"),
    ],
)  # fmt: skip
async def test_a_page_of_events(
    filled: Memory, plans: Plans, query: dict[str, Any], index: str
) -> None:
    page = await filled.list_events(EventQuery(namespace="n3", limit=10, **query))
    assert page.data
    assert plans.used(index)
    assert not plans.whole_tables() & LARGE
    if page.meta.next_cursor:
        plans.scans.clear()
        query = query | {"cursor": page.meta.next_cursor}
        assert (await filled.list_events(EventQuery(namespace="n3", limit=10, **query))).data
        assert plans.used(index)


async def test_a_batch_is_claimed_finished_and_given_back(filled: Memory, plans: Plans) -> None:
    lease = Lease(uuid4(), seconds=60, max_attempts=5)
    async with filled.queue.claim(filled.space, lease, limit=64) as claim:
        assert len(claim.events) == 64
        assert plans.used("embedding_queue_due_idx")
        assert plans.used("events_pkey") or plans.used("events_time_idx")
        assert not plans.whole_tables() & LARGE
        plans.scans.clear()
        await claim.store(claim.events[:32], [])
        assert plans.used("embedding_queue_pkey")
        plans.scans.clear()
    assert plans.used("embedding_queue_pkey"), "when the rest is given back"
    assert not plans.whole_tables() & LARGE


async def test_readiness_and_back_pressure_look_at_the_head_of_the_queue(
    filled: Memory, plans: Plans
) -> None:
    assert (await filled.health()).checks["lag"].ok
    assert plans.used("embedding_queue_due_idx")
    plans.scans.clear()
    assert await filled.queue.pending(filled.space, at_most=100) == 100
    assert plans.used("embedding_queue_due_idx")
    assert not plans.whole_tables() & LARGE


async def test_embedding_a_batch(filled: Memory, plans: Plans) -> None:
    batch = filled.settings.worker.batch_size
    assert await Worker(filled).embed_batch() == batch
    assert plans.used("embedding_queue_pkey")
    assert not plans.whole_tables() & LARGE


async def test_storing_events(filled: Memory, plans: Plans) -> None:
    await filled.add_many([NewEvent(content={"text": f"new {n}"}) for n in range(100)])
    assert plans.reads("embedding_spaces"), "the trigger's own statements are seen"
    assert not plans.whole_tables() & LARGE


async def test_storing_events_under_a_key_and_again(filled: Memory, plans: Plans) -> None:
    for _ in range(2):
        plans.scans.clear()
        await filled.add_many([NewEvent(content={"text": "keyed"})], idempotency_key="key 15000")
        assert plans.used("idempotency_keys_pkey")
        assert not plans.whole_tables() & LARGE


async def test_keys_are_purged_by_their_end(filled: Memory, plans: Plans) -> None:
    async with filled.database.connection() as connection:
        await connection.execute(
            "UPDATE idempotency_keys SET expires_at = now() - interval '1 minute' "
            "WHERE key LIKE 'key 1__'"
        )
        plans.scans.clear()
    assert await filled.keys.purge() == 100
    assert plans.used("idempotency_keys_expires_idx")
    assert not plans.whole_tables() & LARGE


async def test_pending_events_are_counted_for_one_namespace(filled: Memory, plans: Plans) -> None:
    result = await filled.search(SearchQuery(q="needle1500", namespace="n4", mode="text"))
    assert result.meta.pending > 0
    assert plans.reads("embedding_queue")
    assert "embedding_queue" not in plans.whole_tables()


async def test_waiting_for_an_embedding(filled: Memory, plans: Plans) -> None:
    event = await some_event(filled)
    plans.scans.clear()
    await filled.queue.pending_of_ids(filled.space, [event.id])
    assert plans.used("embedding_queue_pkey")


async def test_words_are_looked_up_in_their_index(filled: Memory, plans: Plans) -> None:
    query = SearchQuery(q="needle1500", namespace="n4", mode="text")
    result = await filled.search(query)
    assert "needle1500" in result.data[0].text
    assert plans.used("events_lexemes_idx")
    assert not plans.whole_tables() & LARGE


async def test_a_hybrid_search_never_reads_all_events(filled: Memory, plans: Plans) -> None:
    query = SearchQuery(q="needle1500", namespace="n4", session="s0", where={"n": {"$lt": 5000}})
    await filled.search(query)
    assert not plans.whole_tables() & LARGE


async def test_a_delete_and_its_trigger(filled: Memory, plans: Plans) -> None:
    event = await some_event(filled)
    plans.scans.clear()
    await filled.delete(event.id)
    assert plans.used("events_pkey")
    assert plans.used("idempotency_keys_events_idx")
    assert plans.used("embedding_queue_pkey") or plans.used("embedding_queue_namespace_idx")
    vectors = filled.space.table
    assert plans.used(f"{vectors}_pkey") or plans.used(f"{vectors}_time_idx")
    assert not plans.whole_tables() & (LARGE | {vectors})


async def test_metadata_is_merged(filled: Memory, plans: Plans) -> None:
    event = await some_event(filled)
    plans.scans.clear()
    await filled.merge_metadata(event.id, {"k": 1})
    assert plans.used("events_pkey")
    assert not plans.whole_tables() & LARGE


async def test_neighbours_are_read_in_two_statements_by_their_index(
    filled: Memory, plans: Plans
) -> None:
    query = SearchQuery(q="needle1500 turn", namespace="n4", mode="text", limit=50)
    assert len((await filled.search(query)).data) == 50
    without = plans.statements_on("events")
    plans.readers, plans.scans = [], []
    result = await filled.search(query.model_copy(update={"neighbours": 5}))
    assert len(result.data[0].neighbours) > 5
    assert plans.statements_on("events") == without + 2
    assert plans.used("events_session_idx")
    assert not plans.whole_tables() & LARGE


async def test_passages_beside_the_best_are_found_by_their_event(
    filled: Memory, plans: Plans
) -> None:
    query = SearchQuery(q="needle1500", namespace="n3", neighbours=5)
    assert (await filled.search(query)).data[0].neighbours
    assert plans.used(f"{filled.space.table}_pkey")
    assert not plans.whole_tables() & LARGE


@pytest.mark.parametrize("where", [None, {"n": {"$lt": 10_000}}])
async def test_the_nearest_vectors_are_found_by_the_index(
    filled: Memory, plans: Plans, where: JsonObject | None
) -> None:
    space = filled.space
    await filled.spaces.build_index(space)
    try:
        question = await filled.lexicon.question("n3", "needle1500", space=space.id)
        query = SearchQuery(q="needle1500", namespace="n3", mode="vector", where=where)
        job = SearchJob(query, question, space, filled.embedder, forced="hnsw")
        plans.scans.clear()
        assert (await Arms(filled.database).vector(job)).keys
        assert plans.used(space.hnsw_index)
    finally:
        await filled.spaces.drop_index(space)


async def test_the_history_is_purged_by_its_key(filled: Memory, plans: Plans) -> None:
    async with filled.database.connection() as connection:
        await connection.execute(
            "INSERT INTO search_history (id, namespace, query, outcome, hit_ids, hit_scores) "
            "SELECT event_id(now()), 'n', '{}', '{}', '{}', '{}' FROM generate_series(1, 15000)"
        )
        await connection.execute("ANALYZE search_history")
        plans.scans.clear()
    assert await filled.history.purge() == 500
    assert plans.used("search_history_pkey")
    assert "search_history" not in plans.whole_tables()


async def test_the_feed_is_read_by_its_keys(filled: Memory, plans: Plans) -> None:
    """A page of changes costs a page, however many there are and however few of them match."""
    where = {"n": {"$gte": 19_000}}
    query = FeedQuery(after="start", namespace="n3", session="s0", where=where)
    heard = [change async for change in filled.follow(query, wait=False)]
    # Deletions, which other tests make, are told whatever the session was.
    assert {change.event.session for change in heard if change.event} == {"s0"}
    assert plans.used("event_changes_pkey")
    assert plans.used("events_pkey")
    assert not plans.whole_tables() & {"event_changes", *LARGE}


async def test_the_feed_finds_a_time_by_its_keys(filled: Memory, plans: Plans) -> None:
    query = FeedQuery(after=datetime.now(UTC) + timedelta(hours=1))
    assert [change async for change in filled.follow(query, wait=False)] == []
    assert plans.used("event_changes_pkey")
    assert "event_changes" not in plans.whole_tables()


async def test_the_feed_is_purged_by_its_key(filled: Memory, plans: Plans) -> None:
    async with filled.database.connection() as connection:
        await connection.execute(
            "INSERT INTO event_changes (xid, kind, event_id, timestamp, namespace, at) "
            "SELECT '1', 'added', gen_random_uuid(), now(), 'n', now() - interval '1 year' "
            "FROM generate_series(1, 15000)"
        )
        await connection.execute("ANALYZE event_changes")
        plans.scans.clear()
    assert await filled.feed.changes.purge() == 5000
    assert plans.used("event_changes_pkey")
    assert "event_changes" not in plans.whole_tables()


async def test_deliveries_are_found_by_their_indexes(filled: Memory, plans: Plans) -> None:
    """A turn costs what it sends, however much is pending, waits for its next try, or has ended."""
    hook = await filled.webhooks.add(NewWebhook(url="https://1.1.1.1/"))
    async with filled.database.connection() as connection:
        await connection.execute(
            "INSERT INTO webhook_deliveries (id, webhook, cursor, kind, changed_at, event_id, "
            "timestamp, namespace, status, not_before, ended_at) "
            "SELECT gen_random_uuid(), %s, '', 'added', now(), id, timestamp, namespace, "
            "CASE WHEN n %% 4 = 0 THEN 'pending' WHEN n %% 400 = 1 THEN 'dead' "
            "ELSE 'delivered' END, "
            "now() + CASE WHEN n %% 8 = 0 THEN interval '1 hour' ELSE interval '-1 hour' END, "
            "CASE WHEN n %% 4 > 0 THEN now() END "
            "FROM events CROSS JOIN LATERAL (SELECT (metadata ->> 'n')::integer) AS m (n)",
            [hook.id],
        )
        await connection.execute("VACUUM ANALYZE webhook_deliveries")
        plans.scans.clear()
    turn = await filled.webhooks.deliveries.claim(uuid4())
    assert turn is not None
    due = await turn.due(8)
    assert due is not None
    assert len(due[0]) == 8
    await filled.webhooks.log(hook.id, DeliveryQuery(status="dead"))
    await filled.webhooks.log(hook.id, DeliveryQuery())
    await filled.webhooks.retry(hook.id, uuid4())
    await filled.webhooks.deliveries.purge()
    await turn.release(0)
    await filled.webhooks.state()
    for index in ("due", "pending", "event", "dead", "order", "ended"):
        assert plans.used(f"webhook_deliveries_{index}_idx"), index
    assert not plans.whole_tables() & {"webhook_deliveries", "event_changes", *LARGE}
    await filled.webhooks.remove(hook.id)
