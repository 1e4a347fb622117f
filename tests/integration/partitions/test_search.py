"""Searches over partitions find what they find without, and each partition has its own index."""

import asyncio
from datetime import UTC, datetime, timedelta

import psycopg

from mnemolite.arms import Arms, SearchJob
from mnemolite.memory import Memory
from mnemolite.models import EventQuery, NewEvent, SearchQuery, SearchResult
from mnemolite.partitions import leaves
from mnemolite.worker import Worker, running_worker
from tests.partitioned import partition

MARCH, MAY = datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 5, 1, tzinfo=UTC)
# From long before the first partition to long after the last, sessions crossing every border.
SPAN, EVENTS = timedelta(days=120), 60


async def fill(memory: Memory) -> None:
    """Events of two sessions, turn and turn about, two days apart."""
    first = MARCH - timedelta(days=29, hours=1)
    await memory.add_many(
        [
            NewEvent(
                session=f"s{number % 2}",
                timestamp=first + number * SPAN / EVENTS,
                content={"text": f"turn {number} of the talk about boat{number // 4}"},
            )
            for number in range(EVENTS)
        ]
    )
    await Worker(memory).drain()


def told(result: SearchResult) -> list[tuple[object, ...]]:
    """The hits without what differs between two runs in the last digits."""
    return [
        (hit.id, round(hit.score, 9), [(near.place, near.id) for near in hit.neighbours])
        for hit in result.data
    ]


async def test_hits_and_neighbours_are_those_of_one_table(memory: Memory, dsn: str) -> None:
    await fill(memory)
    queries = [
        SearchQuery(q="the talk about boat7", limit=20, neighbours=3),
        SearchQuery(q="boat3", limit=20, since=MARCH, until=MARCH + timedelta(days=7)),
        SearchQuery(q="boat8 turn", limit=20, until=MAY, session="s1", neighbours=1),
    ]
    before = [await memory.search(query) for query in queries]
    partition(dsn, since=MARCH, until=MAY, events="month", embeddings="month")
    await asyncio.sleep(0)
    for query, one in zip(queries, before, strict=True):
        assert one.data
        assert told(await memory.search(query)) == told(one)


async def test_pages_go_through_all_partitions(memory: Memory, dsn: str) -> None:
    await fill(memory)
    partition(dsn, since=MARCH, until=MAY)
    for order in ("newest", "oldest"):
        texts: list[str] = []
        cursor = None
        while not texts or cursor:
            query = EventQuery(namespace="default", limit=7, cursor=cursor, order=order)
            page = await memory.list_events(query)
            texts += [event.text for event in page.data]
            cursor = page.meta.next_cursor
        numbers = [int(text.split()[1]) for text in texts]
        assert numbers == sorted(range(EVENTS), reverse=order == "newest")


async def test_an_index_stands_where_a_partition_has_rows_enough(memory: Memory, dsn: str) -> None:
    await fill(memory)
    partition(dsn, since=MARCH, until=MAY, embeddings="month")
    spaces, space = memory.spaces, memory.space
    with psycopg.connect(dsn, autocommit=True) as connection:  # April has as few as any partition
        connection.execute(
            "DELETE FROM events WHERE timestamp >= '2026-04-05Z' AND timestamp < %s", [MAY]
        )
        connection.execute("ANALYZE")
    assert await spaces.lacks_index(space, 10)
    assert not await spaces.lacks_index(space, 100)
    assert await spaces.build_index(space, min_rows=10)
    assert not await spaces.lacks_index(space, 10)
    async with memory.database.connection() as connection:
        found = {leaf.name: leaf.indexed for leaf in await leaves(connection, space.table)}
    assert found == {
        "embeddings_1_p20260301": True,
        "embeddings_1_p20260401": False,
        "embeddings_1_default": True,
    }
    await spaces.drop_index(space)
    assert await spaces.lacks_index(space, 10)


async def test_the_nearest_of_all_partitions_whatever_indexes_they_have(
    memory: Memory, dsn: str
) -> None:
    await fill(memory)
    partition(dsn, since=MARCH, until=MAY, embeddings="month")
    question = await memory.lexicon.question("default", "boat7", space=memory.space.id)
    query = SearchQuery(q="the talk about boat7", mode="vector", limit=100)
    job = SearchJob(query, question, memory.space, memory.embedder, forced="exact")
    exact = await Arms(memory.database).vector(job)
    assert len(exact.keys) == EVENTS
    assert await memory.spaces.build_index(memory.space)
    plans = []
    for index in (None, "p20260401", "default", "p20260301"):
        async with memory.database.connection() as connection:
            if index:
                await connection.execute(f"DROP INDEX embeddings_1_{index}_hnsw_idx".encode())
        job = SearchJob(query, question, memory.space, memory.embedder, forced="hnsw")
        found = await Arms(memory.database).vector(job)
        assert found.plan is not None
        plans.append(found.plan.vector)
        assert set(found.keys) == set(exact.keys)
        assert found.scores == exact.scores
    assert plans == ["hnsw", "mixed", "mixed", "exact"]


async def test_a_worker_builds_the_index_of_a_partition_that_has_grown(
    memory: Memory, dsn: str
) -> None:
    partition(dsn, since=MARCH, until=MAY, embeddings="month")
    memory.settings = memory.settings.model_copy(
        update={"worker": memory.settings.worker.model_copy(update={"hnsw_min_rows": 10})}
    )
    await fill(memory)
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("ANALYZE")
        async with running_worker(memory), asyncio.timeout(60):
            while await memory.spaces.lacks_index(memory.space, 10):
                await asyncio.sleep(0.05)
