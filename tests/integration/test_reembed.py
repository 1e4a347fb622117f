"""A change of the model: nothing is missed, nothing is mixed, and there is a way back."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import numpy as np
import psycopg
import pytest
from psycopg.types.json import Jsonb

from mnemolite import reembed, succession
from mnemolite.errors import (
    InvalidVectorError,
    ModelMismatchError,
    ModelUnavailableError,
    SpaceChangeError,
)
from mnemolite.memory import Memory
from mnemolite.models import NewEvent, SearchQuery
from mnemolite.settings import EmbeddingSettings, Settings
from mnemolite.worker import Worker, running_worker

Sql = psycopg.Connection[tuple[Any, ...]]

INSERT = "INSERT INTO events (content) VALUES (jsonb_build_object('text', %s::text))"


def silent(_doing: str, _done: int, _total: int) -> None:
    """A change nobody watches."""


def other(settings: Settings, dimension: int = 24) -> Settings:
    """The settings of another model; to a mock, another dimension makes one."""
    embedding = EmbeddingSettings(mode="mock", dimension=dimension)
    return settings.model_copy(update={"embedding": embedding})


@pytest.fixture
def sql(dsn: str) -> Iterator[Sql]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        yield connection


async def add(memory: Memory, *texts: str) -> None:
    await memory.add_many([NewEvent(content={"text": text}) for text in texts])


def texts_of(sql: Sql, space: int) -> list[str]:
    query = (
        f"SELECT e.text FROM embeddings_{space} v JOIN events e ON e.id = v.event_id ORDER BY e.id"
    )
    return [row[0] for row in sql.execute(query.encode())]


@asynccontextmanager
async def building(settings: Settings) -> AsyncIterator[Memory]:
    async with Memory.open(settings, role="build") as opened:
        await reembed.queue_older(opened, silent)
        yield opened


async def start(settings: Settings) -> None:
    """The whole of `mnemolite reembed start`."""
    async with building(settings) as opened, running_worker(opened):
        await reembed.embed_older(opened, silent)
        await reembed.complete(opened, silent)


async def until_searched(memory: Memory, space: int) -> None:
    while memory.space.id != space:
        await asyncio.sleep(0.02)


async def until_shown(memory: Memory, space: int) -> None:
    while [state.id for state in await memory.list_spaces() if state.searched_by] != [space]:
        await asyncio.sleep(0.02)


# --- There and back -----------------------------------------------------------------------------


async def test_there_and_back(memory: Memory, settings: Settings, sql: Sql) -> None:
    await add(memory, "one", "two", " ", "three")
    await Worker(memory).drain()
    await start(other(settings))
    assert texts_of(sql, 2) == ["one", "two", "three"]
    assert (await memory.search("one")).meta.space == 1
    changed = await reembed.switch(memory)
    assert (changed.active.id, changed.changed, changed.lost) == (2, True, [])
    await until_searched(memory, 2)
    found = await memory.search(SearchQuery(q="one", mode="vector"))
    assert (found.meta.space, found.meta.degraded, len(found.data)) == (2, [], 3)
    assert [space.status for space in await memory.list_spaces()] == ["retired", "active"]
    assert not (await reembed.switch(memory)).changed

    async with running_worker(memory):
        await add(memory, "four")
        while len(texts_of(sql, 1)) < 4 or len(texts_of(sql, 2)) < 4:
            await asyncio.sleep(0.02)
    assert (await reembed.rollback(memory)).active.id == 1
    await until_searched(memory, 1)
    assert [space.status for space in await memory.list_spaces()] == ["active", "building"]
    assert not (await reembed.rollback(memory)).changed
    assert (await reembed.switch(memory)).active.id == 2


async def test_the_view_shows_the_active_space(
    memory: Memory, settings: Settings, sql: Sql
) -> None:
    await add(memory, "one")
    await Worker(memory).drain()
    query = "SELECT vector_dims(embedding) FROM embedded_events"
    await start(other(settings))
    assert sql.execute(query).fetchall() == [(16,)]
    await reembed.switch(memory)
    assert sql.execute(query).fetchall() == [(24,)]


async def test_a_search_under_way_ends_in_its_space(memory: Memory, settings: Settings) -> None:
    await add(memory, "one")
    await Worker(memory).drain()
    await start(other(settings))
    with memory.embedders.searching() as served:
        assert served is not None
        await reembed.switch(memory)
        await until_searched(memory, 2)
        await until_shown_all(memory, {1, 2})
        with pytest.raises(SpaceChangeError, match="still search space 1"):
            await reembed.drop(memory, 1, show=silent)
        assert (served.space.id, served.embedder is not None) == (1, True)
    await until_shown(memory, 2)
    await reembed.drop(memory, 1, show=silent)


async def until_shown_all(memory: Memory, spaces: set[int]) -> None:
    while {state.id for state in await memory.list_spaces() if state.searched_by} != spaces:
        await asyncio.sleep(0.02)


# --- Nothing is missed --------------------------------------------------------------------------


async def test_an_event_whose_writer_began_before_is_queued(
    memory: Memory, settings: Settings, sql: Sql, dsn: str
) -> None:
    sql.execute(INSERT, ["long there"])
    with psycopg.connect(dsn) as writer:
        writer.execute(INSERT, ["written before, committed after"])
        starting = asyncio.create_task(start(other(settings)))
        while sql.execute("SELECT count(*) FROM embedding_spaces").fetchone() != (2,):
            await asyncio.sleep(0.01)
        sql.execute(INSERT, ["written after"])
        await asyncio.sleep(0.3)
        filled = "SELECT filled_at IS NULL FROM embedding_spaces WHERE id = 2"
        assert sql.execute(filled).fetchone() == (True,)
        writer.commit()
    await starting
    expected = ["long there", "written after", "written before, committed after"]
    assert sorted(texts_of(sql, 2)) == expected


async def test_no_event_is_missed_while_a_space_begins(
    memory: Memory, settings: Settings, sql: Sql, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(succession, "_FILL_BATCH", 7)

    async def write(number: int) -> None:
        for turn in range(40):
            await memory.add(f"event {number}.{turn}")

    async with running_worker(memory):
        writers = [asyncio.create_task(write(number)) for number in range(4)]
        while sql.execute("SELECT count(*) > 20 FROM events").fetchone() != (True,):
            await asyncio.sleep(0)
        await start(other(settings))
        await asyncio.gather(*writers)
        while sql.execute("SELECT count(*) FROM embedding_queue").fetchone() != (0,):
            await asyncio.sleep(0.05)
    assert len(texts_of(sql, 1)) == len(texts_of(sql, 2)) == 160


async def test_a_fill_goes_on_where_it_was(
    memory: Memory, settings: Settings, sql: Sql, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(succession, "_FILL_BATCH", 10)
    await add(memory, *(f"text {n}" for n in range(25)))
    queued = "SELECT count(*) FROM embedding_queue WHERE space = 2"
    for expected in (10, 20, 25):
        async with Memory.open(other(settings), role="build") as opened:
            assert await opened.succession.fill(opened.space)
        assert sql.execute(queued).fetchone() == (expected,)
    async with Memory.open(other(settings), role="build") as opened:
        assert await opened.succession.fill(opened.space) == 0
        assert (await opened.succession.state(opened.space)).filled_at is None
        (space,) = [space for space in await opened.spaces.all() if space.id == 2]
        assert space.filled_at is not None


async def test_what_slipped_through_is_found_and_swept(
    memory: Memory, settings: Settings, sql: Sql
) -> None:
    await add(memory, "one", "two", "gone")
    await Worker(memory).drain()
    await start(other(settings))
    sql.execute("DELETE FROM embeddings_2 v USING events e WHERE e.id = event_id AND text = 'one'")
    sql.execute("UPDATE embeddings_2 SET event_id = gen_random_uuid() FROM events e "
                "WHERE e.id = event_id AND text = 'gone'")  # fmt: skip
    compared = await reembed.compare(memory)
    assert (compared.missing, compared.orphans, compared.embedded) == (2, 1, 2)
    with pytest.raises(SpaceChangeError, match="2 events are missing"):
        await reembed.switch(memory, wait_seconds=0)
    await start(other(settings))
    compared = await reembed.compare(memory, samples=3)
    assert (compared.missing, compared.orphans, compared.embedded) == (0, 0, 3)
    assert (compared.samples, compared.overlap) == (3, 1.0)


async def test_deleted_events_leave_every_space(
    memory: Memory, settings: Settings, sql: Sql
) -> None:
    await add(memory, "kept", "gone")
    await Worker(memory).drain()
    await start(other(settings))
    sql.execute("DELETE FROM events WHERE text = 'gone'")
    assert texts_of(sql, 1) == texts_of(sql, 2) == ["kept"]


# --- Refusals -----------------------------------------------------------------------------------


async def test_an_incomplete_space_is_not_switched_to(
    memory: Memory, settings: Settings, sql: Sql
) -> None:
    await add(memory, "one", "two")
    await Worker(memory).drain()
    async with building(other(settings)):
        with pytest.raises(SpaceChangeError, match="2 events are still in its queue") as raised:
            await reembed.switch(memory, wait_seconds=0)
        assert "--force" in str(raised.value.remedy)
        sql.execute("UPDATE embedding_queue SET not_before = 'infinity'")
        with pytest.raises(SpaceChangeError, match="2 events could not be embedded"):
            await reembed.switch(memory, wait_seconds=0)
        assert (await memory.spaces.active()) == memory.space
        forced = await reembed.switch(memory, force=True)
        assert forced.lost == ["2 events could not be embedded"]
        assert forced.active.id == 2


async def test_a_rollback_waits_for_what_the_old_space_lacks(
    memory: Memory, settings: Settings, sql: Sql
) -> None:
    await add(memory, "one")
    await Worker(memory).drain()
    await start(other(settings))
    await reembed.switch(memory)
    sql.execute(INSERT, ["known to the new space alone"])
    async with Memory.open(other(settings), role="work") as opened:
        await Worker(opened).drain()
    with pytest.raises(SpaceChangeError, match="1 events are still in its queue"):
        await reembed.rollback(memory, wait_seconds=0)
    returning = asyncio.create_task(reembed.rollback(memory))
    async with Memory.open(settings, role="work") as opened:
        await Worker(opened).drain()
    assert (await returning).active.id == 1


async def test_one_space_is_built_at_a_time(memory: Memory, settings: Settings) -> None:
    with pytest.raises(SpaceChangeError, match="There is no space to switch to"):
        await reembed.switch(memory)
    with pytest.raises(SpaceChangeError, match="no retired space"):
        await reembed.rollback(memory)
    with pytest.raises(SpaceChangeError, match="no space beside"):
        await reembed.compare(memory)
    with pytest.raises(SpaceChangeError, match="has this model, and is active"):
        await start(settings)
    await start(other(settings))
    with pytest.raises(SpaceChangeError, match=r"Space 2 \(mock\) is building") as raised:
        await start(other(settings, 32))
    assert raised.value.remedy
    assert "reembed drop 2" in raised.value.remedy
    await reembed.switch(memory)
    await start(other(settings, 32))
    with pytest.raises(SpaceChangeError, match=r"Space 3 \(mock\) is being built"):
        await reembed.rollback(memory)
    with pytest.raises(SpaceChangeError, match="Space 2 is the active one"):
        await reembed.drop(memory, 2, force=True, show=silent)
    with pytest.raises(SpaceChangeError, match="There is no space 9"):
        await reembed.drop(memory, 9, show=silent)


async def test_nothing_is_built_beside_nothing(settings: Settings) -> None:
    with pytest.raises(SpaceChangeError, match="no embedding space yet"):
        await start(settings)


# --- Drop ---------------------------------------------------------------------------------------


async def test_a_space_is_dropped_while_events_come_and_go(
    memory: Memory, settings: Settings, sql: Sql
) -> None:
    await add(memory, *(f"text {n}" for n in range(30)))
    async with building(other(settings)):
        pass

    async def write() -> None:
        for turn in range(60):
            event = await memory.add(f"event {turn}")
            if turn % 2:
                await memory.delete(event.id)

    writers = [asyncio.create_task(write()) for _ in range(4)]
    await asyncio.sleep(0.05)
    await reembed.drop(memory, 2, show=silent)
    await asyncio.gather(*writers)
    assert [space.id for space in await memory.list_spaces()] == [1]
    assert sql.execute("SELECT DISTINCT space FROM embedding_queue").fetchall() == [(1,)]
    assert sql.execute("SELECT to_regclass('embeddings_2')").fetchone() == (None,)
    assert sql.execute("SELECT count(*) FROM events").fetchone() == (150,)


async def test_a_worker_of_a_dropped_space_ends(memory: Memory, settings: Settings) -> None:
    async with Memory.open(other(settings), role="build") as opened:
        working = asyncio.create_task(Worker(opened).run())
        await reembed.drop(memory, 2, show=silent)
        await working


# --- Which space a process serves ---------------------------------------------------------------


async def test_a_server_fills_both_and_a_worker_its_own(
    memory: Memory, settings: Settings, sql: Sql
) -> None:
    await add(memory, "one")
    async with building(other(settings)) as opened:
        await Worker(opened).drain()
        assert (texts_of(sql, 1), texts_of(sql, 2)) == ([], ["one"])
    async with running_worker(memory):
        sql.execute(INSERT, ["two"])
        while not texts_of(sql, 1) == texts_of(sql, 2) == ["one", "two"]:
            await asyncio.sleep(0.02)


async def test_old_settings_still_search_the_active_space(
    memory: Memory, settings: Settings, sql: Sql
) -> None:
    await add(memory, "one")
    await Worker(memory).drain()
    await start(other(settings))
    async with Memory.open(other(settings)) as opened:
        assert (await opened.search("one")).meta.space == 1
    await reembed.switch(memory)
    for each in (settings, other(settings)):
        async with Memory.open(each) as opened:
            assert (await opened.search("one")).meta.space == 2
    sql.execute("UPDATE embedding_spaces SET recipe = %s WHERE id = 2", [UNLOADABLE])
    with pytest.raises(ModelMismatchError, match=r"cannot be loaded here: .*nowhere"):
        async with Memory.open(settings):
            pytest.fail("it opened")
    await reembed.drop(memory, 1, force=True, show=silent)
    with pytest.raises(ModelMismatchError, match="dimension 24 -> 16"):
        async with Memory.open(settings):
            pytest.fail("it opened")


UNLOADABLE = Jsonb({"mode": "real", "model": "/nowhere", "dimension": None})


async def test_a_process_that_cannot_follow_keeps_the_old_space(
    memory: Memory, settings: Settings, sql: Sql, client: httpx.AsyncClient
) -> None:
    await add(memory, "one")
    await Worker(memory).drain()
    await start(other(settings))
    sql.execute("UPDATE embedding_spaces SET recipe = %s WHERE id = 2", [UNLOADABLE])
    await reembed.switch(memory)
    while memory.embedders.refusal((await memory.spaces.all())[1]) is None:
        await asyncio.sleep(0.02)
    found = await memory.search("one")
    assert (found.meta.space, found.meta.degraded, len(found.data)) == (1, [], 1)
    answer = await client.get("/health/ready")
    assert answer.status_code == 200
    assert "restart with its model" in answer.json()["checks"]["model"]["detail"]
    await until_shown(memory, 1)
    with pytest.raises(SpaceChangeError, match="1 processes still search space 1"):
        await reembed.drop(memory, 1, show=silent)
    await reembed.drop(memory, 1, force=True, show=silent)
    while not (await memory.search("one")).meta.degraded:
        await asyncio.sleep(0.02)
    with pytest.raises(ModelUnavailableError):
        await memory.search(SearchQuery(q="one", mode="vector"))


async def test_a_space_that_is_searched_is_not_taken_over(
    memory: Memory, settings: Settings
) -> None:
    await until_shown(memory, 1)
    with pytest.raises(ModelMismatchError):
        async with Memory.open(other(settings)):
            pytest.fail("it opened")


# --- A client's own vectors ---------------------------------------------------------------------


async def test_a_vector_may_name_its_space(
    memory: Memory, settings: Settings, client: httpx.AsyncClient
) -> None:
    await add(memory, "one")
    await Worker(memory).drain()
    await start(other(settings))
    first, second = (np.ones(dimension).tolist() for dimension in (16, 24))
    for vector, space, searched in ((first, None, 1), (first, 1, 1), (second, 2, 2)):
        found = await memory.search(SearchQuery(vector=vector, space=space))
        assert (found.meta.space, found.meta.vector_source) == (searched, "client")
        assert len(found.data) == 1
    assert (await memory.search("one")).meta.vector_source == "model"
    for vector, space in ((second, None), (second, 1), (first, 2), (first, 9)):
        with pytest.raises(InvalidVectorError):
            await memory.search(SearchQuery(vector=vector, space=space))
    answer = await client.post("/v1/search", json={"q": "one", "space": 1})
    assert answer.status_code == 422
    assert answer.json()["code"] == "invalid_query"


async def test_the_progress_is_shown(
    memory: Memory, settings: Settings, client: httpx.AsyncClient
) -> None:
    await add(memory, "one", "two")
    await Worker(memory).drain()
    async with building(other(settings)):
        first, second = (await client.get("/v1/spaces")).json()["data"]
        assert (first["status"], first["progress"]["phase"]) == ("active", "complete")
        assert (second["status"], second["progress"]["phase"]) == ("building", "embedding")
        assert second["progress"]["pending"] == 2
        assert second["progress"]["share"] == 0
    await start(other(settings))
    _, second = (await client.get("/v1/spaces")).json()["data"]
    assert second["progress"]["phase"] == "complete"
    assert second["progress"]["share"] == 1
