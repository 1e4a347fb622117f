"""The catalog of partitions, on a memory whose events and vectors are laid out in time."""

from datetime import UTC, datetime

from mnemolite.memory import Memory
from mnemolite.models import EventQuery, NewEvent, SearchQuery
from mnemolite.partitions import Range, is_partitioned, leaves
from mnemolite.worker import Worker
from tests.partitioned import partition

MARCH, APRIL = datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 4, 1, tzinfo=UTC)


async def test_a_plain_table_is_its_own_leaf(memory: Memory) -> None:
    async with memory.database.connection() as connection:
        (leaf,) = await leaves(connection, "events")
        assert not await is_partitioned(connection, "events")
    assert (leaf.name, leaf.range, leaf.is_partition) == ("events", Range(None, None), False)


async def test_an_unknown_table_has_no_leaves(memory: Memory) -> None:
    async with memory.database.connection() as connection:
        assert await leaves(connection, "nobody") == []
        assert not await is_partitioned(connection, "nobody")


async def test_partitions_and_their_ranges(memory: Memory, dsn: str) -> None:
    partition(dsn, since=MARCH, until=datetime(2026, 5, 1, tzinfo=UTC))
    async with memory.database.connection() as connection:
        assert await is_partitioned(connection, "events")
        march, april, default = await leaves(connection, "events")
        vectors = await leaves(connection, memory.space.table)
    assert (march.name, march.range) == ("events_p20260301", Range(MARCH, APRIL))
    assert april.name == "events_p20260401"
    assert (default.name, default.range, default.is_partition) == ("events_default", None, True)
    assert [leaf.name for leaf in vectors] == ["embeddings_1_p20260101", "embeddings_1_default"]


async def test_a_partitioned_memory_works_as_before(memory: Memory, dsn: str) -> None:
    old = await memory.add(NewEvent(timestamp=MARCH, content={"text": "an old needle"}))
    await Worker(memory).drain()
    partition(dsn, since=MARCH, until=datetime(2026, 5, 1, tzinfo=UTC))
    late = await memory.add(NewEvent(timestamp=APRIL, content={"text": "a late needle"}))
    far = await memory.add(
        NewEvent(timestamp=datetime(2031, 1, 1, tzinfo=UTC), content={"text": "a far needle"})
    )
    await Worker(memory).drain()
    found = await memory.search(SearchQuery(q="needle", limit=10))
    assert {hit.id for hit in found.data} == {old.id, late.id, far.id}
    assert all(hit.similarity is not None for hit in found.data)
    page = await memory.list_events(EventQuery(namespace="default"))
    assert [event.id for event in page.data] == [far.id, late.id, old.id]
    await memory.merge_metadata(old.id, {"seen": True})
    await memory.delete(late.id)
    assert (await memory.stats()).events == 2
