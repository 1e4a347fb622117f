"""The change feed: every change once, in order, whatever commits late, leaves or falls behind."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, closing
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from mnemolite.errors import CursorGoneError, InvalidFilterError, TooManyStreamsError
from mnemolite.feed import Reader
from mnemolite.memory import Memory
from mnemolite.models import EventChange, FeedQuery, NewEvent
from mnemolite.settings import Settings

pytestmark = pytest.mark.timeout(60)

INSERT = "INSERT INTO events (content) VALUES (jsonb_build_object('text', %s::text))"

Connection = psycopg.AsyncConnection[tuple[Any, ...]]


@pytest.fixture
async def writer(dsn: str) -> AsyncIterator[Connection]:
    """Somebody who writes plain SQL."""
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        yield connection


async def follow(memory: Memory, count: int, **query: Any) -> list[EventChange]:
    """The next changes, so many of them."""
    changes: list[EventChange] = []
    async with aclosing(memory.follow(FeedQuery(**query))) as following:
        async for change in following:
            changes.append(change)
            if len(changes) == count:
                break
    return changes


async def kept(memory: Memory, **query: Any) -> list[EventChange]:
    """All that the feed holds at this moment."""
    query = {"after": "start", "all_namespaces": True} | query
    changes: list[EventChange] = []
    with closing(await memory.feed.read(FeedQuery(**query))) as reader:
        while True:
            changes += [told.change for told in await reader.next(0.01)]
            look = await memory.feed.changes.look(reader.position, epoch=reader.epoch)
            if not (look.ready or look.held):
                return changes


def said(changes: Sequence[EventChange]) -> list[tuple[str, str | None]]:
    return [(change.kind, change.event.text if change.event else None) for change in changes]


async def test_what_becomes_of_an_event_is_told_in_order(memory: Memory) -> None:
    following = asyncio.create_task(follow(memory, 3))
    while not memory.feed.readers:
        await asyncio.sleep(0.01)
    event = await memory.add(NewEvent(content="The ferry leaves at seven.", metadata={"n": 1}))
    await asyncio.sleep(0.05)
    changed = await memory.merge_metadata(event.id, {"n": 2})
    await asyncio.sleep(0.05)
    await memory.delete(event.id)
    changes = await following
    assert [change.kind for change in changes] == ["added", "changed", "deleted"]
    assert {(change.id, change.timestamp) for change in changes} == {(event.id, event.timestamp)}
    added, updated, deleted = changes
    assert added.event is not None
    assert added.event.text == event.text
    assert updated.event == changed
    assert deleted.event is None


async def test_what_is_deleted_is_in_no_replay(memory: Memory, dsn: str) -> None:
    event = await memory.add("My secret is 4711.")
    await memory.merge_metadata(event.id, {"secret": 4711})
    await memory.delete(event.id)
    assert said(await kept(memory)) == [("deleted", None)]
    with psycopg.connect(dsn) as connection:
        rows = connection.execute("SELECT c::text FROM event_changes c").fetchall()
    assert len(rows) == 3
    assert not any("secret" in str(row).lower() or "4711" in str(row) for row in rows)


async def test_plain_sql_is_told_of_like_all_else(memory: Memory, writer: Connection) -> None:
    await writer.execute(
        "INSERT INTO events (namespace, content) SELECT 'n', to_jsonb(g) FROM "
        "(SELECT 'turn ' || g AS text FROM generate_series(1, 3) g) AS g"
    )
    async with writer.cursor().copy("COPY events (namespace, content) FROM STDIN") as copy:
        await copy.write_row(("n", '{"text": "copied"}'))
    await writer.execute("UPDATE events SET metadata = '{\"a\": 1}' WHERE namespace = 'n'")
    await writer.execute("DELETE FROM events WHERE content ->> 'text' <> 'copied'")
    changes = await kept(memory)
    assert [change.kind for change in changes].count("deleted") == 3
    assert said(changes)[:2] == [("added", "copied"), ("changed", "copied")]
    assert len(changes) == 5


async def test_a_transaction_that_commits_late_is_not_skipped(
    memory: Memory, dsn: str, writer: Connection
) -> None:
    following = asyncio.create_task(follow(memory, 3))
    while not memory.feed.readers:
        await asyncio.sleep(0.01)
    await memory.events.add_namespaces(["default"])  # else one waits for the other to make it
    async with await psycopg.AsyncConnection.connect(dsn) as slow:
        await slow.execute(INSERT, ["slow"])
        await memory.add("fast")
        with closing(await memory.feed.read(FeedQuery(after="start"))) as reader:
            while not reader.is_live:
                assert list(await reader.next()) == []  # the fast one waits for the slow one
        await asyncio.sleep(0.1)
        await slow.commit()
    await memory.add("last")
    assert [text for _, text in said(await following)] == ["slow", "fast", "last"]


async def test_a_transaction_that_is_rolled_back_tells_nothing(memory: Memory, dsn: str) -> None:
    await memory.events.add_namespaces(["default"])
    async with await psycopg.AsyncConnection.connect(dsn) as slow:
        await slow.execute(INSERT, ["never"])
        await memory.add("stays")
        await slow.rollback()
    assert said(await kept(memory)) == [("added", "stays")]


async def test_a_transaction_of_another_database_holds_nothing_up(
    memory: Memory, empty_dsn: str
) -> None:
    async with await psycopg.AsyncConnection.connect(empty_dsn) as elsewhere:
        await elsewhere.execute("CREATE TABLE others (n integer)")
        await elsewhere.execute("INSERT INTO others VALUES (1)")
        await memory.add("here")
        assert said(await kept(memory)) == [("added", "here")]


async def test_a_reader_that_leaves_again_and_again_sees_each_change_once(
    settings: Settings, dsn: str
) -> None:
    """Twenty leaps over two processes' worth of memories, with slow transactions in between."""
    events, seen = 600, list[str]()
    async with Memory.open(settings) as one, Memory.open(settings) as other:

        async def write(part: int) -> None:
            for number in range(part, events, 3):
                if number % 50 == 0:
                    async with await psycopg.AsyncConnection.connect(dsn) as slow:
                        await slow.execute(INSERT, [str(number)])
                        await asyncio.sleep(0.05)
                        await slow.commit()
                else:
                    await one.add(str(number))

        writing = [asyncio.create_task(write(part)) for part in range(3)]
        cursor, leap = "start", 0
        while len(seen) < events:
            leap += 1
            async with aclosing((one, other)[leap % 2].follow(FeedQuery(after=cursor))) as changes:
                async for change in changes:
                    assert change.event is not None
                    seen.append(change.event.text)
                    cursor = change.cursor
                    if len(seen) % (events // 20) == 0:
                        break
        await asyncio.gather(*writing)
    assert leap == 20
    assert sorted(map(int, seen)) == list(range(events))


async def test_a_reader_that_falls_behind_its_buffer_loses_nothing(settings: Settings) -> None:
    small = settings.model_copy(update={"feed": settings.feed.model_copy(update={"buffer": 5})})
    async with Memory.open(small) as memory:
        with closing(await memory.feed.read(FeedQuery())) as slow:
            while not slow.is_live:
                await slow.next()
            for number in range(30):
                await memory.add(str(number))
            await overrun(slow)
            assert await texts(slow, 30) == list(map(str, range(30)))
            await memory.add("and on")
            assert await texts(slow, 1) == ["and on"]


async def overrun(reader: Reader) -> None:
    while reader.is_live:
        await asyncio.sleep(0.01)


async def texts(reader: Reader, count: int) -> list[str]:
    heard: list[str] = []
    while len(heard) < count:
        heard += [told.change.event.text for told in await reader.next() if told.change.event]
    return heard


async def test_large_events_come_in_smaller_pages(memory: Memory) -> None:
    large = Random(5).randbytes(200_000).hex()  # which does not compress
    for number in range(24):
        await memory.add(NewEvent(content={"text": f"{number}", "filler": large}))
    heard, pages = list[str](), 0
    with closing(await memory.feed.read(FeedQuery(after="start"))) as reader:
        while len(heard) < 24:
            page = await reader.next()
            heard += [str(told.change.event and told.change.event.content["text"]) for told in page]
            pages += 1
    assert heard == [str(number) for number in range(24)]
    assert pages > 1


async def test_filters_choose_alike_live_and_in_a_replay(memory: Memory) -> None:
    new = [
        NewEvent(content="a", session="s", metadata={"n": 1}),
        NewEvent(content="b", session="s", metadata={"n": 2}),
        NewEvent(content="c", session="t", metadata={"n": 2}),
        NewEvent(content="d", namespace="other", session="s", metadata={"n": 2}),
        NewEvent(content="e", session="s", metadata={"n": 2.5, "deep": {"x": [1, None]}}),
    ]
    wanted: list[tuple[dict[str, Any], list[str]]] = [
        ({}, ["a", "b", "c", "e"]),
        ({"session": "s"}, ["a", "b", "e"]),
        ({"where": {"n": {"$gte": 2}}}, ["b", "c", "e"]),
        ({"where": {"n": {"$gte": 2}}, "all_namespaces": True}, ["b", "c", "d", "e"]),
        ({"where": {"deep.x": {"$contains": None}}}, ["e"]),
        ({"namespace": "other"}, ["d"]),
        ({"kinds": "changed,added", "where": {"n": {"$lt": 2}}}, ["a"]),
    ]
    live = [asyncio.create_task(follow(memory, len(found), **query)) for query, found in wanted]
    while memory.feed.readers < len(live):
        await asyncio.sleep(0.01)
    await memory.add_many(new)
    for (query, found), task in zip(wanted, live, strict=True):
        assert [text for _, text in said(await task)] == found, query
        replayed = await kept(memory, **{"all_namespaces": False} | query)
        assert [text for _, text in said(replayed)] == found, query
    assert await kept(memory, kinds=["deleted"]) == []


async def test_numbers_are_compared_exactly_live_too(memory: Memory, writer: Connection) -> None:
    """A float cannot hold them; a reader must not be told what a search would not find."""
    query = {"where": {"n": {"$gt": 2**53}}, "after": "now"}
    following = asyncio.create_task(follow(memory, 1, **query))
    while not memory.feed.readers:
        await asyncio.sleep(0.01)
    for number in ("9007199254740992.0", "9007199254740992.1"):
        await writer.execute(
            'INSERT INTO events (content, metadata) VALUES (\'{"text": "t"}\', %s::jsonb)',
            [f'{{"n": {number}, "spelled": "{number}"}}'],
        )
    (change,) = await following
    assert change.event is not None
    assert change.event.metadata["spelled"] == "9007199254740992.1"


async def test_a_deletion_is_told_whatever_the_event_held(memory: Memory) -> None:
    event = await memory.add(NewEvent(content="a", session="s", metadata={"n": 1}))
    elsewhere = await memory.add(NewEvent(content="a", namespace="other"))
    await memory.delete(event.id)
    await memory.delete(elsewhere.id)
    query = {"where": {"n": 7}, "session": "t", "all_namespaces": False}
    assert [change.id for change in await kept(memory, **query)] == [event.id]


async def test_the_feed_begins_where_it_is_told_to(memory: Memory, writer: Connection) -> None:
    for text in ("one", "two", "three", "four"):
        await memory.add(text)
    await writer.execute(
        "UPDATE event_changes c SET at = now() - (5 - r.n) * interval '1 hour' FROM "
        "(SELECT xid, row_number() OVER (ORDER BY xid) AS n FROM event_changes) r "
        "WHERE r.xid = c.xid"
    )
    everything = await kept(memory)
    for number, change in enumerate(everything):
        rest = said(everything)[number + 1 :]
        assert said(await kept(memory, after=change.cursor)) == rest
        a_moment_later = change.at + timedelta(minutes=1)
        assert said(await kept(memory, after=a_moment_later)) == rest
    assert said(await kept(memory, after="2001-01-01T00:00:00Z")) == said(everything)
    assert await kept(memory, after=datetime.now(UTC)) == []
    assert await kept(memory, after="now") == []


async def test_an_empty_feed_has_a_beginning(memory: Memory) -> None:
    for after in ("now", "start", datetime.now(UTC)):
        assert await kept(memory, after=after) == []


async def test_what_is_too_old_is_purged_and_its_cursors_are_gone(
    memory: Memory, writer: Connection
) -> None:
    for number in range(3):
        await memory.add(str(number))
    first, second, third = await kept(memory)
    await writer.execute(
        "UPDATE event_changes SET at = now() - interval '73 hours' WHERE (xid, n) <= "
        "(SELECT xid, n FROM event_changes ORDER BY xid, n OFFSET 1 LIMIT 1)"
    )
    assert await memory.purge() == 2
    assert await memory.purge() == 0
    assert await kept(memory, after="start") == [third]
    assert await kept(memory, after=second.cursor) == [third]
    for lost in (first.cursor, third.cursor[:8] + "-0-0"):
        with pytest.raises(CursorGoneError) as caught:
            await memory.feed.read(FeedQuery(after=lost))
        assert caught.value.field == "after"
    with closing(await memory.feed.read(FeedQuery(after=third.cursor))) as reader:
        while not reader.is_live:
            await reader.next()
        # A reader that sleeps for longer than changes are kept is told so.
        await writer.execute("UPDATE feed SET purged_xid = '9223372036854775807'")
        await memory.add("wakes the follower")
        with pytest.raises(CursorGoneError):
            await texts(reader, 1)


async def test_a_restored_database_begins_a_new_epoch(
    settings: Settings, writer: Connection
) -> None:
    async with Memory.open(settings) as memory:
        await memory.add("before")
        (before,) = await kept(memory)
    async with Memory.open(settings) as memory:
        assert await kept(memory) == [before]  # a restart is none
    await writer.execute("UPDATE feed SET home = 'of another server'")
    async with Memory.open(settings) as memory, Memory.open(settings) as other:
        assert await kept(memory) == []
        with pytest.raises(CursorGoneError):
            await memory.feed.read(FeedQuery(after=before.cursor))
        await memory.add("after")
        assert said(await kept(other)) == [("added", "after")]
    # Rows of transactions that this server has yet to see come from another one too.
    await writer.execute("UPDATE event_changes SET xid = '9999999999999'")
    async with Memory.open(settings) as memory:
        assert await kept(memory) == []


async def test_a_cursor_of_the_future_is_gone(memory: Memory) -> None:
    """As after a fail-over to a server that had not got the last transactions."""
    await memory.add("a")
    (change,) = await kept(memory)
    with pytest.raises(CursorGoneError):
        await memory.feed.read(FeedQuery(after=f"{change.cursor[:8]}-99999999999-1"))


async def test_a_read_only_database_can_be_followed(settings: Settings, dsn: str) -> None:
    async with Memory.open(settings) as memory:
        await memory.add("written")
    address = make_conninfo(dsn, options="-cdefault_transaction_read_only=on")
    database = settings.database.model_copy(update={"url": address})
    async with Memory.open(settings.model_copy(update={"database": database})) as memory:
        assert said(await kept(memory)) == [("added", "written")]


async def test_the_follower_outlives_its_connections(memory: Memory, writer: Connection) -> None:
    following = asyncio.create_task(follow(memory, 20))
    while not memory.feed.readers:
        await asyncio.sleep(0.01)
    for number in range(20):
        await writer.execute(INSERT, [str(number)])
        if number % 7 == 0:
            await writer.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            await asyncio.sleep(0.05)
    assert [text for _, text in said(await following)] == [str(number) for number in range(20)]


async def test_the_last_reader_leaves_nothing_behind(memory: Memory) -> None:
    for _ in range(3):
        readers = [await memory.feed.read(FeedQuery()) for _ in range(4)]
        for reader in readers:
            while not reader.is_live:
                await reader.next()
        assert [task.get_name() for task in asyncio.all_tasks()].count("feed") == 1
        for reader in readers:
            reader.close()
        while any(task.get_name() == "feed" for task in asyncio.all_tasks()):
            await asyncio.sleep(0.01)
        assert memory.feed.readers == 0


async def test_a_closing_memory_ends_those_who_follow(settings: Settings) -> None:
    async with Memory.open(settings) as memory:
        live = asyncio.create_task(follow(memory, 1))
        while not memory.feed.readers:
            await asyncio.sleep(0.01)
    assert await live == []


async def test_there_are_only_so_many_readers(settings: Settings) -> None:
    few = settings.model_copy(update={"feed": settings.feed.model_copy(update={"streams": 2})})
    async with Memory.open(few) as memory:
        first = await memory.feed.read(FeedQuery())
        await memory.feed.read(FeedQuery())
        with pytest.raises(TooManyStreamsError):
            await memory.feed.read(FeedQuery())
        first.close()
        await memory.feed.read(FeedQuery())


async def test_a_bad_filter_is_refused_at_once(memory: Memory) -> None:
    with pytest.raises(InvalidFilterError):
        await memory.feed.read(FeedQuery(where={"a": {"$gtt": 1}}))
    assert memory.feed.readers == 0
