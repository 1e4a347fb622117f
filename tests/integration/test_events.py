"""The event store: clients at the same time, and people who write plain SQL."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg.types.json import Jsonb

from mnemolite.errors import (
    DatabaseConflictError,
    EventConflictError,
    EventNotFoundError,
    InvalidInputError,
)
from mnemolite.events import EventStore, merge_patch
from mnemolite.ids import time_of
from mnemolite.memory import Memory
from mnemolite.models import EventQuery, NewEvent
from mnemolite.settings import Settings
from mnemolite.worker import Worker

Sql = psycopg.Connection[tuple[Any, ...]]


@pytest.fixture
def sql(memory: Memory) -> Iterator[Sql]:
    """Somebody with psql, in the memory's database."""
    with psycopg.connect(memory.database.dsn, autocommit=True) as connection:
        yield connection


@pytest.fixture
async def other(memory: Memory, settings: Settings) -> AsyncIterator[Memory]:
    """A second process's memory: other connections, other state, the same database."""
    async with Memory.open(settings) as opened:
        yield opened


def event(text: str = "x", **fields: Any) -> NewEvent:
    return NewEvent(content={"text": text}, **fields)


def count(sql: Sql, table: str) -> int:
    row = sql.execute(f"SELECT count(*) FROM {table}".encode()).fetchone()
    return int(row[0]) if row else 0


# --- Clients at the same time -------------------------------------------------------------------


async def test_one_id_from_many_clients_at_once_is_one_event(memory: Memory, other: Memory) -> None:
    new = event(id=uuid4(), metadata={"k": 1})
    stores = [memory.events, other.events]
    answers = await asyncio.gather(*(stores[i % 2].add([new]) for i in range(20)))
    assert sum(answer.created for answer in answers) == 1
    assert len({answer.events[0].model_dump_json() for answer in answers}) == 1
    assert (await memory.events.counts())["events"] == 1


async def test_one_id_for_two_contents_at_once_is_a_conflict(memory: Memory) -> None:
    event_id = uuid4()
    tries = [memory.events.add([event(f"text {n % 2}", id=event_id)]) for n in range(10)]
    answers = await asyncio.gather(*tries, return_exceptions=True)
    conflicts = [answer for answer in answers if isinstance(answer, EventConflictError)]
    assert len(conflicts) == 5
    assert (await memory.events.counts())["events"] == 1


async def test_one_id_at_two_times_at_once_is_a_conflict(memory: Memory, other: Memory) -> None:
    """No key of the table forbids it: in partitions by time, the two rows would not even meet."""
    event_id, stores = uuid4(), [memory.events, other.events]
    times = [datetime(2024, 1 + n % 2, 1, tzinfo=UTC) for n in range(10)]
    new = [event(id=event_id, timestamp=time) for time in times]
    tries = [stores[n // 2 % 2].add([one]) for n, one in enumerate(new)]
    answers = await asyncio.gather(*tries, return_exceptions=True)
    assert [isinstance(answer, EventConflictError) for answer in answers].count(True) == 5
    assert (await memory.events.counts())["events"] == 1


@pytest.mark.parametrize(
    "change",
    [
        {"content": {"text": "else"}},
        {"namespace": "m"},
        {"session": "s"},
        {"timestamp": datetime(2024, 2, 1, tzinfo=UTC)},
    ],
)
async def test_one_id_for_two_events_of_a_batch_is_a_conflict(
    memory: Memory, change: dict[str, Any]
) -> None:
    first = event(id=uuid4(), timestamp=datetime(2024, 1, 1, tzinfo=UTC))
    with pytest.raises(EventConflictError, match=r"events\[1\].id"):
        await memory.add_many([first, first.model_copy(update=change)])
    assert (await memory.events.counts())["events"] == 0


async def test_one_event_twice_in_a_batch_is_one(memory: Memory) -> None:
    first = NewEvent(content={"text": "x", "n": 1}, id=uuid4())
    again = NewEvent(content={"n": 1, "text": "x"}, id=first.id)
    stored, created = await memory.add_many([first, again])
    assert created == 1
    assert stored[0] == stored[1]


async def test_batches_with_the_same_ids_in_other_orders_do_not_deadlock(
    memory: Memory, other: Memory
) -> None:
    batch = [event(f"text {n}", id=uuid4(), namespace=f"n{n}") for n in range(50)]
    stores = [memory.events, other.events]
    orders = [batch, batch[::-1], batch[25:] + batch[:25], batch[::2] + batch[1::2]]
    tries = [stores[i % 2].add(order) for i, order in enumerate(orders * 2)]
    answers = await asyncio.gather(*tries)
    assert sum(answer.created for answer in answers) == 50
    for order, answer in zip(orders * 2, answers, strict=True):
        assert [stored.id for stored in answer.events] == [new.id for new in order]


async def test_namespaces_are_made_by_many_at_once(memory: Memory, other: Memory) -> None:
    names = [f"n{number}" for number in range(12)]
    stores = [memory.events, other.events]
    batches = [[event(namespace=name) for name in names[i % 5 :] + names[: i % 5]]
               for i in range(16)]  # fmt: skip
    await asyncio.gather(*(stores[i % 2].add(batch) for i, batch in enumerate(batches)))
    found = await memory.namespaces()
    assert [(one.name, one.events) for one in found] == [(name, 16) for name in sorted(names)]


async def test_what_a_rolled_back_transaction_made_is_not_taken_for_known(memory: Memory) -> None:
    taken = event(id=uuid4())
    await memory.add(taken)
    with pytest.raises(EventConflictError):
        await memory.add_many([event(namespace="new"), event("else", id=taken.id)])
    assert "new" not in [one.name for one in await memory.namespaces()]
    stored = await memory.add(event(namespace="new"))
    assert (await memory.list_events(EventQuery(namespace="new"))).data == [stored]


async def test_a_namespace_that_somebody_dropped_comes_back(memory: Memory, sql: Sql) -> None:
    stored = await memory.add(event(namespace="gone"))
    await memory.delete(stored.id)
    sql.execute("DELETE FROM namespaces")
    with pytest.raises(DatabaseConflictError):  # it finds out, and says: try again
        await memory.add(event(namespace="gone"))
    await memory.add(event(namespace="gone"))
    assert (await memory.events.counts())["events"] == 1


async def test_an_unknown_language_is_refused_and_nothing_stored(memory: Memory, sql: Sql) -> None:
    store = EventStore(memory.database, memory.keys, default_language="klingon")
    with pytest.raises(InvalidInputError, match="klingon"):
        await store.add([event()])
    assert count(sql, "events") == count(sql, "namespaces") == 0


async def test_deletes_and_changes_at_once(memory: Memory, other: Memory) -> None:
    stored = await memory.add(event())
    patches = [memory.merge_metadata(stored.id, {f"k{n}": n}) for n in range(10)]
    await asyncio.gather(*patches)
    merged = (await memory.get(stored.id)).metadata
    assert merged == {f"k{n}": n for n in range(10)}, "a change was lost"
    answers = await asyncio.gather(
        *(one.delete(stored.id) for one in (memory, other, memory, other)), return_exceptions=True
    )
    assert sum(answer is None for answer in answers) == 1
    assert sum(isinstance(answer, EventNotFoundError) for answer in answers) == 3


# --- Plain SQL ----------------------------------------------------------------------------------


async def test_a_plain_insert_is_filled_in(memory: Memory, sql: Sql) -> None:
    sql.execute(
        "INSERT INTO events (namespace, timestamp, content) VALUES "
        "('psql', '2024-05-08 12:00:00.5+00', '{\"message\": \"Café olé\"}')"
    )
    (found,) = (await memory.list_events(EventQuery(namespace="psql"))).data
    assert (found.text, found.metadata, found.pending) == ("Café olé", {}, True)
    assert found.id.version == 7
    assert time_of(found.id) == datetime(2024, 5, 8, 12, 0, 0, 500_000, UTC)
    assert await memory.get(found.id) == found
    (namespace,) = await memory.namespaces()
    assert (namespace.name, namespace.language) == ("psql", "english")
    await Worker(memory).drain()
    assert (await memory.get(found.id)).pending is False


async def test_a_plain_insert_takes_the_language_of_its_namespace(memory: Memory, sql: Sql) -> None:
    await memory.events.add_namespaces(["fr"], "french")
    sql.execute("""INSERT INTO events (namespace, content) VALUES ('fr', '{"text": "mangées"}')""")
    row = sql.execute("SELECT language::text, lexemes::text FROM events").fetchone()
    assert row is not None
    assert row[0] == "mnemo_french"
    assert "'mang" in row[1]


@pytest.mark.parametrize(
    ("columns", "values"),
    [
        ("content", "'[]'"),
        ("content", "'\"text\"'"),
        ("content, metadata", "'{}', '[]'"),
        ("content, timestamp", "'{}', 'infinity'"),
        ("content, timestamp", "'{}', '-infinity'"),
        ("content, namespace", "'{}', ''"),
        ("content, session", "'{}', ''"),
        ("content, session", "'{}', repeat('s', 201)"),
        ("namespace", "'n'"),
    ],
)
async def test_plain_inserts_are_held_to_the_same_rules(
    memory: Memory, sql: Sql, columns: str, values: str
) -> None:
    statement = f"INSERT INTO events ({columns}) VALUES ({values})"
    with pytest.raises(psycopg.DatabaseError):
        sql.execute(statement.encode())
    assert count(sql, "events") == 0


async def test_a_plain_copy_is_queued_as_well(memory: Memory, sql: Sql) -> None:
    with sql.cursor().copy("COPY events (namespace, session, content) FROM STDIN") as copy:
        for number in range(100):
            copy.write_row(("copied", "s", Jsonb({"text": f"turn {number}"})))
        copy.write_row(("copied", "s", Jsonb({"text": "  "})))
    assert count(sql, "events") == 101
    assert (await memory.queue_state()).pending == 100
    await Worker(memory).drain()
    assert count(sql, "embedded_events") == 100


@pytest.mark.parametrize(
    "change",
    [
        'content = \'{"text": "other"}\'',
        "text = 'other'",
        "timestamp = now()",
        "created_at = now()",
        "namespace = 'other'",
        "session = 'other'",
        "id = gen_random_uuid()",
        "content = content",
    ],
)
async def test_what_was_told_cannot_be_changed(memory: Memory, sql: Sql, change: str) -> None:
    stored = await memory.add(event())
    with pytest.raises(psycopg.errors.IntegrityError, match="kept exactly"):
        sql.execute(f"UPDATE events SET {change}".encode())
    assert await memory.get(stored.id) == stored


async def test_metadata_and_language_can_be_changed(memory: Memory, sql: Sql) -> None:
    stored = await memory.add(event("Das sind Häuser"))
    sql.execute("UPDATE events SET metadata = '{\"k\": 1}', language = 'mnemo_german'")
    assert await memory.get(stored.id) == stored.model_copy(update={"metadata": {"k": 1}})
    row = sql.execute("SELECT lexemes @@ to_tsquery('mnemo_german', 'Haus') FROM events").fetchone()
    assert row == (True,)


async def test_a_plain_delete_leaves_nothing_behind(memory: Memory, sql: Sql) -> None:
    await memory.add_many([event(f"embedded {n}", namespace="gone") for n in range(5)])
    kept = await memory.add(event("kept", namespace="stays"))
    await Worker(memory).drain()
    await memory.add_many([event(f"waiting {n}", namespace="gone") for n in range(5)])
    sql.execute("DELETE FROM events WHERE namespace = 'gone'")
    assert count(sql, memory.space.table) == 1
    assert count(sql, "embedding_queue") == 0
    assert await memory.get(kept.id) == kept.model_copy(update={"pending": False})


# --- Merge patches ------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text("ab", max_size=2),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text("ab", max_size=2), inner),
    max_leaves=8,
)


@given(st.dictionaries(st.text("ab"), JSON), st.dictionaries(st.text("ab"), JSON))
def test_a_merge_patch_is_one(target: dict[str, Any], patch: dict[str, Any]) -> None:
    merged = merge_patch(target, patch)
    assert merge_patch(merged, patch) == merged
    for key, value in patch.items():
        if value is None:
            assert key not in merged
        elif not isinstance(value, dict):
            assert merged[key] == value
    untouched = {key: value for key, value in target.items() if key not in patch}
    assert {key: merged[key] for key in untouched} == untouched
    assert merge_patch(target, {}) == target


@pytest.mark.parametrize(
    ("target", "patch", "merged"),
    [  # the examples of RFC 7396, appendix A, whose target is an object
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_the_examples_of_the_rfc(target: Any, patch: Any, merged: Any) -> None:
    assert merge_patch(target, patch) == merged


async def test_an_id_far_from_its_time_is_found(memory: Memory) -> None:
    ids = [UUID("017f22e2-79b0-7cc3-98c4-dc0c0c07398f"), uuid4(), UUID(int=1)]
    moment = datetime(1999, 12, 31, tzinfo=UTC)
    for event_id in ids:
        stored = await memory.add(event(id=event_id, timestamp=moment))
        assert await memory.get(event_id) == stored
        await memory.merge_metadata(event_id, {"k": 1})
        await memory.delete(event_id)
        with pytest.raises(EventNotFoundError):
            await memory.get(event_id)
