"""Embedding spaces: one at a time, made once, never mixed."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

import psycopg
import pytest

from mnemolite.database import Database
from mnemolite.embeddings import ModelInfo
from mnemolite.errors import ModelMismatchError, ModelUnavailableError
from mnemolite.memory import Memory
from mnemolite.models import NewEvent
from mnemolite.queue import EmbeddingQueue
from mnemolite.settings import Settings
from mnemolite.spaces import SpaceStore
from mnemolite.worker import Worker

Sql = psycopg.Connection[tuple[Any, ...]]

INFO = ModelInfo(
    provider="test",
    model="first-model",
    revision="1",
    dimension=8,
    pooling="mean",
    template="dated-1",
    max_tokens=256,
)
OTHER = replace(INFO, model="second-model", dimension=12)


@pytest.fixture
async def database(dsn: str, settings: Settings) -> AsyncIterator[Database]:
    async with Database(dsn, settings.database) as opened:
        yield opened


@pytest.fixture
def spaces(database: Database) -> SpaceStore:
    return SpaceStore(database)


@pytest.fixture
def queue(database: Database) -> EmbeddingQueue:
    return EmbeddingQueue(database)


@pytest.fixture
def sql(dsn: str) -> Iterator[Sql]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        yield connection


def insert(sql: Sql, *texts: str) -> None:
    for text in texts:
        sql.execute(
            "INSERT INTO events (content) VALUES (jsonb_build_object('text', %s::text))", [text]
        )


def vector_column(sql: Sql, table: str) -> tuple[Any, ...] | None:
    return sql.execute(
        "SELECT format_type(atttypid, atttypmod), attstorage FROM pg_attribute "
        "WHERE attrelid = %s::regclass AND attname = 'embedding'",
        [table],
    ).fetchone()


async def test_the_first_use_makes_the_space(spaces: SpaceStore, sql: Sql) -> None:
    assert await spaces.active() is None
    space = await spaces.ensure_active(INFO)
    assert space.status == "active"
    assert space.activated_at is not None
    assert {name: getattr(space, name) for name in vars(INFO)} == vars(INFO)
    assert space.digest == INFO.digest
    assert vector_column(sql, space.table) == ("vector(8)", "p")
    assert sql.execute("SELECT count(*) FROM embedded_events").fetchone() == (0,)


async def test_the_second_use_finds_it(spaces: SpaceStore, queue: EmbeddingQueue, sql: Sql) -> None:
    first = await spaces.ensure_active(INFO)
    insert(sql, "kept")
    assert await spaces.ensure_active(INFO) == first
    assert await spaces.all() == [first]
    assert (await queue.state(first)).pending == 1


@pytest.mark.parametrize(
    ("dimension", "storage"), [(1, "p"), (1900, "p"), (1901, "e"), (3000, "e"), (4000, "e")]
)
async def test_a_wide_vector_is_stored_beside_its_row(
    spaces: SpaceStore, sql: Sql, dimension: int, storage: str
) -> None:
    space = await spaces.ensure_active(replace(INFO, dimension=dimension))
    assert vector_column(sql, space.table) == (f"vector({dimension})", storage)
    sql.execute(
        f"INSERT INTO {space.table} SELECT gen_random_uuid(), now(), 0, 'n', 0, 1, "
        "array_fill(0.1::float4, ARRAY[%s::integer])::vector".encode(),
        [dimension],
    )
    assert await spaces.embeddings(space) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"model": "second-model"},
        {"provider": "another"},
        {"revision": "2"},
        {"dimension": 9},
        {"query_prefix": "query: "},
        {"document_prefix": "passage: "},
        {"pooling": "cls"},
        {"normalisation": "none"},
        {"template": "bare"},
        {"max_tokens": 512},
    ],
)
async def test_another_model_is_refused_once_there_are_events(
    spaces: SpaceStore, queue: EmbeddingQueue, sql: Sql, change: dict[str, Any]
) -> None:
    first = await spaces.ensure_active(INFO)
    insert(sql, "embedded by the first")
    other = replace(INFO, **change)
    with pytest.raises(ModelMismatchError) as raised:
        await spaces.ensure_active(other)
    for said in (repr(INFO.model), repr(other.model), *change):
        assert said in str(raised.value)
    assert raised.value.remedy
    assert raised.value.field in ("EMBEDDING_MODEL", "EMBEDDING_MODE")
    assert await spaces.all() == [first]
    assert (await queue.state(first)).pending == 1


async def test_a_memory_of_another_model_does_not_open(
    spaces: SpaceStore, settings: Settings, sql: Sql
) -> None:
    await spaces.ensure_active(INFO)
    insert(sql, "embedded by the first")
    with pytest.raises(ModelMismatchError, match="first-model"):
        async with Memory.open(settings):
            pytest.fail("it opened")


async def test_another_model_takes_over_while_nothing_has_text(
    spaces: SpaceStore, queue: EmbeddingQueue, sql: Sql
) -> None:
    first = await spaces.ensure_active(INFO)
    insert(sql, "  ")
    second = await spaces.ensure_active(OTHER)
    assert await spaces.all() == [second]
    assert vector_column(sql, "embedded_events") == ("vector(12)", "e")
    gone = sql.execute("SELECT to_regclass(%s)", [first.table]).fetchone()
    assert gone == (None,)
    insert(sql, "queued for the second")
    assert (await queue.state(second)).pending == 1


async def test_many_processes_at_once_make_one_space(dsn: str, settings: Settings) -> None:
    async with AsyncExitStack() as stack:
        pools = [await stack.enter_async_context(Database(dsn, settings.database))
                 for _ in range(6)]  # fmt: skip
        made = await asyncio.gather(*(SpaceStore(pool).ensure_active(INFO) for pool in pools))
        assert len({space.id for space in made}) == 1
        assert len(await SpaceStore(pools[0]).all()) == 1


async def test_of_two_models_at_once_one_wins_or_both_in_turn(
    dsn: str, settings: Settings, sql: Sql
) -> None:
    insert(sql, "stored before")
    async with AsyncExitStack() as stack:
        pools = [await stack.enter_async_context(Database(dsn, settings.database))
                 for _ in range(4)]  # fmt: skip
        tries = [SpaceStore(pool).ensure_active(INFO if i % 2 else OTHER)
                 for i, pool in enumerate(pools)]  # fmt: skip
        answers = await asyncio.gather(*tries, return_exceptions=True)
        (space,) = await SpaceStore(pools[0]).all()
    refused = [answer for answer in answers if isinstance(answer, ModelMismatchError)]
    assert len(refused) == 2
    assert [answer for answer in answers if answer not in refused] == [space, space]


async def test_what_was_stored_before_any_space_is_queued(
    spaces: SpaceStore, settings: Settings, sql: Sql
) -> None:
    async with Memory.open(settings, with_model=False) as memory:
        stored, _ = await memory.add_many(
            [NewEvent(content={"text": text}) for text in ("one", "two", " ", "")]
        )
        assert [event.pending for event in stored] == [False] * 4
        with pytest.raises(ModelUnavailableError):
            _ = memory.space
    async with Memory.open(settings) as memory:
        assert (await memory.queue_state()).pending == 2
        await Worker(memory).drain()
        assert await memory.spaces.embeddings(memory.space) == 2
        assert sql.execute("SELECT count(*) FROM embedding_queue").fetchone() == (0,)


async def test_no_event_slips_past_the_making_of_the_space(
    dsn: str, spaces: SpaceStore, queue: EmbeddingQueue, settings: Settings, sql: Sql
) -> None:
    async with Memory.open(settings, with_model=False) as memory:

        async def write(number: int) -> None:
            for turn in range(20):
                await memory.add(f"event {number}.{turn}")

        writers = [asyncio.create_task(write(number)) for number in range(4)]
        while sql.execute("SELECT count(*) > 10 FROM events").fetchone() != (True,):
            await asyncio.sleep(0)
        space = await spaces.ensure_active(INFO)
        await asyncio.gather(*writers)
    assert (await queue.state(space)).pending == 80


async def test_the_index_is_built_once_and_a_broken_one_replaced(
    spaces: SpaceStore, sql: Sql
) -> None:
    space = await spaces.ensure_active(INFO)
    sql.execute(
        f"INSERT INTO {space.table} SELECT gen_random_uuid(), now(), 0, 'n', 0, 1, "
        "array_fill(random()::float4, ARRAY[8])::vector FROM generate_series(1, 100)".encode()
    )
    sql.execute(f"ANALYZE {space.table}".encode())
    assert await spaces.lacks_index(space, 100)
    assert not await spaces.lacks_index(space, 101)
    assert await spaces.build_index(space)
    assert not await spaces.lacks_index(space, 100)
    sql.execute(
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = %s::regclass",
        [space.hnsw_index],
    )
    assert await spaces.lacks_index(space, 100)
    assert await spaces.build_index(space)
    assert not await spaces.lacks_index(space, 100)
