"""The worker: everything pending is embedded once, whatever goes wrong beside it."""

import asyncio
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mnemolite.database import Database
from mnemolite.embeddings import Kind, ModelInfo, Span, Vectors
from mnemolite.embeddings.batching import BatchingEmbedder
from mnemolite.embeddings.mock import MockEmbedder
from mnemolite.errors import EmbeddingError, ModelUnavailableError
from mnemolite.memory import Memory
from mnemolite.models import NewEvent
from mnemolite.notifications import Notifier
from mnemolite.resources import Resources
from mnemolite.settings import Settings, WorkerSettings
from mnemolite.worker import Worker, running_worker
from tests.acceptance.server import run

Sql = psycopg.Connection[tuple[Any, ...]]


class TestEmbedder:
    """An embedder of mock vectors that keeps account, refuses poison and can be made to wait."""

    __test__ = False

    def __init__(self, dimension: int = 16) -> None:
        self._mock = MockEmbedder(dimension)
        self.seen: Counter[str] = Counter()
        self.calls: list[list[str]] = []
        self.entered = threading.Event()
        self.go_on = threading.Event()
        self.go_on.set()
        self.chokes_on = "poison"
        self.is_gone = False

    @property
    def info(self) -> ModelInfo:
        return self._mock.info

    def embed(self, texts: Sequence[str], kind: Kind) -> Vectors:
        self.calls.append(list(texts))
        self.entered.set()
        assert self.go_on.wait(60)
        if self.is_gone:
            raise ModelUnavailableError("The model server fails.")
        if any(self.chokes_on in text for text in texts):
            raise EmbeddingError(f"The model chokes on {self.chokes_on}.")
        self.seen.update(texts)
        return self._mock.embed(texts, kind)

    def passages(self, text: str) -> list[Span]:
        return self._mock.passages(text)

    def close(self) -> None:
        self.go_on.set()


@asynccontextmanager
async def open_memory(settings: Settings, embedder: TestEmbedder) -> AsyncIterator[Memory]:
    """A memory like any other, over this embedder."""
    async with AsyncExitStack() as stack:
        assert settings.database.url
        database = Database(settings.database.url, settings.database)
        await stack.enter_async_context(database)
        notifier = await stack.enter_async_context(Notifier(database))
        front = await stack.enter_async_context(BatchingEmbedder(embedder))
        opened = Memory(settings, Resources(database, notifier, embedder=front))
        await opened._use_space()
        yield opened


@pytest.fixture
def embedder() -> TestEmbedder:
    return TestEmbedder()


@pytest.fixture
async def watched(memory: Memory, embedder: TestEmbedder) -> AsyncIterator[Memory]:
    """A memory over the embedder that keeps account; ``memory`` made its space."""
    async with open_memory(memory.settings, embedder) as opened:
        yield opened


@pytest.fixture
def sql(dsn: str) -> Iterator[Sql]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        yield connection


async def add(memory: Memory, *texts: str) -> None:
    await memory.add_many([NewEvent(content={"text": text}) for text in texts])


def embedded(sql: Sql) -> list[str]:
    query = "SELECT text FROM embedded_events ORDER BY id, passage"
    return [row[0] for row in sql.execute(query)]


def with_worker(settings: Settings, **changes: Any) -> Settings:
    values = settings.worker.model_dump() | changes
    return settings.model_copy(update={"worker": WorkerSettings(**values)})


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what must happen; pytest's own time limit ends a wait in vain."""
    while not condition():
        await asyncio.sleep(0.02)


async def until_nothing_is_due(memory: Memory) -> None:
    while (await memory.queue_state()).due:
        await asyncio.sleep(0.02)


# --- Claim, embed, store ------------------------------------------------------------------------


async def test_a_batch_is_claimed_embedded_and_stored(watched: Memory, sql: Sql) -> None:
    await add(watched, *(f"text {n}" for n in range(100)))
    assert await Worker(watched).embed_batch() == 64
    assert (await watched.queue_state()).pending == 36
    assert await Worker(watched).embed_batch() == 36
    assert await Worker(watched).embed_batch() == 0
    assert embedded(sql) == [f"text {n}" for n in range(100)]


async def test_what_is_embedded_is_the_text_as_somebody_would_recall_it(
    watched: Memory, embedder: TestEmbedder
) -> None:
    new = {
        "content": {"speaker": "Caroline", "text": "I went to the parade."},
        "timestamp": "2023-05-08T13:56:00Z",
    }
    await watched.add(NewEvent.model_validate(new))
    await Worker(watched).drain()
    (text,) = embedder.seen
    for part in ("Caroline", "8 May 2023", "I went to the parade."):
        assert part in text


async def test_workers_share_the_queue_and_embed_each_event_once(
    watched: Memory, memory: Memory, embedder: TestEmbedder, sql: Sql
) -> None:
    texts = [f"text {n}" for n in range(200)]
    await add(memory, *texts)
    small = with_worker(memory.settings, batch_size=7)
    second = TestEmbedder()
    async with open_memory(small, embedder) as one, open_memory(small, second) as two:
        await asyncio.gather(*(Worker(each).drain() for each in (one, two, one, two)))
        assert (await one.queue_state()).pending == 0
    assert embedded(sql) == texts
    assert len(embedder.seen + second.seen) == 200
    assert set((embedder.seen + second.seen).values()) == {1}


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=30)
       .flatmap(lambda text: st.integers(0, 120).map(lambda times: text * times)))  # fmt: skip
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20,
          deadline=None)  # fmt: skip
async def test_any_text_gets_passages_that_cover_it(watched: Memory, sql: Sql, text: str) -> None:
    sql.execute("DELETE FROM events")
    await add(watched, text)
    await Worker(watched).drain()
    state = await watched.queue_state()
    assert (state.pending, state.errors) == (0, [])
    query = "SELECT passage, char_start, char_end FROM embedded_events ORDER BY passage"
    rows = sql.execute(query).fetchall()
    if not text.strip():
        assert rows == []
        return
    assert [row[0] for row in rows] == list(range(len(rows)))
    assert not text[: rows[0][1]].strip()
    assert not text[rows[-1][2] :].strip()
    for (_, _, end), (_, start, _) in pairwise(rows):
        assert not text[end:start].strip()


async def test_a_long_text_is_embedded_to_its_last_sentence(
    watched: Memory, embedder: TestEmbedder, sql: Sql
) -> None:
    text = "The weather was fine. " * 300 + "The password is swordfish."
    await add(watched, text)
    await Worker(watched).drain()
    query = "SELECT substr(text, char_start + 1, char_end - char_start) FROM embedded_events"
    passages = [row[0] for row in sql.execute(query)]
    assert len(passages) > 3
    assert any("swordfish" in passage for passage in passages)
    assert all(passage in text for passage in passages)
    assert any("swordfish" in text for text in embedder.seen)


@pytest.mark.parametrize("text", ["", " ", "\n\t ", "\r\n"])
async def test_a_blank_text_is_never_queued(watched: Memory, sql: Sql, text: str) -> None:
    await add(watched, text)
    assert (await watched.queue_state()).pending == 0
    assert sql.execute("SELECT count(*) FROM events").fetchone() == (1,)


@pytest.mark.parametrize("text", ["\u00a0", "\u3000\u2003", "\x1c\x1f", "\u200b", "\u2028"])
async def test_a_text_of_exotic_blanks_does_not_stay_pending(watched: Memory, text: str) -> None:
    await add(watched, text, "visible")
    await Worker(watched).drain()
    assert (await watched.queue_state()).pending == 0


# --- What goes wrong ----------------------------------------------------------------------------


async def test_a_poisoned_text_is_tried_alone_then_parked(
    watched: Memory, embedder: TestEmbedder, sql: Sql
) -> None:
    await add(watched, "good one", "poison", "good two")
    async with running_worker(watched):
        await until_nothing_is_due(watched)
        await add(watched, "good three")
        await until_nothing_is_due(watched)
    assert embedded(sql) == ["good one", "good two", "good three"]
    state = await watched.queue_state()
    assert (state.pending, state.parked) == (1, 1)
    (error,) = state.errors
    assert error == "embedding_failed: The model chokes on poison."
    assert (await watched.stats()).queue.errors == [error]
    alone = [call for call in embedder.calls if len(call) == 1 and "poison" in call[0]]
    assert len(alone) >= watched.settings.worker.max_attempts
    query = "SELECT attempts, not_before = 'infinity' FROM embedding_queue"
    assert sql.execute(query).fetchall() == [(2, True)]


async def test_a_bad_text_is_found_by_halves_and_embedded_once_a_try(
    watched: Memory, embedder: TestEmbedder, sql: Sql
) -> None:
    await add(watched, *(f"text {n}" for n in range(31)), "poison")
    await Worker(watched).embed_batch()
    assert len(embedded(sql)) == 31
    # The last one is a harmless text: the model is well.
    assert [len(call) for call in embedder.calls] == [32, 16, 16, 8, 8, 4, 4, 2, 2, 1, 1, 1]
    embedder.calls.clear()
    sql.execute("UPDATE embedding_queue SET not_before = now()")
    await Worker(watched).embed_batch()
    assert [len(call) for call in embedder.calls] == [1, 1]


async def test_what_was_parked_is_embedded_after_a_retry(
    watched: Memory, embedder: TestEmbedder, sql: Sql
) -> None:
    await add(watched, "poison", "good")
    async with running_worker(watched):
        await until_nothing_is_due(watched)
        assert (await watched.queue_state()).parked == 1
        assert await watched.retry_parked() == 1
        await until_nothing_is_due(watched)
        assert (await watched.queue_state()).parked == 1
        embedder.chokes_on = "nothing"
        assert await watched.retry_parked() == 1
        await until(lambda: embedded(sql) == ["poison", "good"])
    assert await watched.retry_parked() == 0


async def test_an_outage_of_the_model_parks_nothing(
    watched: Memory, embedder: TestEmbedder, sql: Sql
) -> None:
    embedder.is_gone = True
    await add(watched, "one", "two")
    worker = Worker(watched)
    for _ in range(watched.settings.worker.max_attempts + 2):
        with pytest.raises(ModelUnavailableError):
            await worker.embed_batch()
    query = "SELECT attempts, error, not_before <= now() FROM embedding_queue"
    assert sql.execute(query).fetchall() == [(0, None, True)] * 2
    async with running_worker(watched):
        await until(lambda: len(embedder.calls) > 8)
        embedder.is_gone = False
        await until(lambda: embedded(sql) == ["one", "two"])


async def test_a_model_that_fails_on_everything_parks_nothing(
    watched: Memory, embedder: TestEmbedder, sql: Sql
) -> None:
    embedder.chokes_on = ""
    await add(watched, "one", "two")
    for _ in range(watched.settings.worker.max_attempts + 1):
        with pytest.raises(ModelUnavailableError, match="any text"):
            await Worker(watched).embed_batch()
    query = "SELECT attempts, claimed_by, not_before <= now() FROM embedding_queue"
    assert sql.execute(query).fetchall() == [(0, None, True)] * 2


async def test_a_batch_that_does_not_end_is_given_back_at_the_end(
    settings: Settings, embedder: TestEmbedder, sql: Sql
) -> None:
    server = settings.server.model_copy(update={"shutdown_seconds": 0.05})
    brief = settings.model_copy(update={"server": server})
    async with open_memory(brief, embedder) as memory:
        await add(memory, "slow")
        embedder.go_on.clear()
        async with running_worker(memory):
            await until(embedder.entered.is_set)
        query = "SELECT attempts, claimed_by, not_before <= now() FROM embedding_queue"
        assert sql.execute(query).fetchall() == [(0, None, True)]
        embedder.go_on.set()
        await Worker(memory).drain()
    assert embedded(sql) == ["slow"]


async def test_a_parked_event_is_found_by_words_and_can_be_deleted(
    watched: Memory, sql: Sql
) -> None:
    await add(watched, "a poisoned apple")
    worker = Worker(watched)
    for _ in range(2):
        sql.execute("UPDATE embedding_queue SET not_before = now()")
        await worker.drain()
    assert (await watched.queue_state()).parked == 1
    query = "SELECT id FROM events WHERE lexemes @@ to_tsquery('mnemo_english', 'apple')"
    (row,) = sql.execute(query).fetchall()
    await watched.delete(row[0])
    assert (await watched.queue_state()).pending == 0


async def test_waiting_for_a_poisoned_event_ends(watched: Memory) -> None:
    async with running_worker(watched):
        stored, _ = await watched.add_many(
            [NewEvent(content={"text": "poison"}), NewEvent(content={"text": "good"})],
            wait_seconds=120,
        )
    assert (await watched.get(stored[0].id)).pending is True
    assert (await watched.get(stored[1].id)).pending is False


@pytest.mark.parametrize("plain_sql", [True, False])
async def test_a_delete_during_the_embedding_leaves_no_orphan(
    watched: Memory, embedder: TestEmbedder, sql: Sql, plain_sql: bool
) -> None:
    await add(watched, "short-lived", "kept")
    (event_id,) = sql.execute("SELECT id FROM events WHERE text = 'short-lived'").fetchone() or ()
    embedder.go_on.clear()
    working = asyncio.create_task(Worker(watched).embed_batch())
    await until(embedder.entered.is_set)
    deleting: asyncio.Future[Any]
    if plain_sql:
        statement = "DELETE FROM events WHERE text = 'short-lived'"
        deleting = asyncio.ensure_future(asyncio.to_thread(sql.execute, statement))
    else:
        deleting = asyncio.ensure_future(watched.delete(event_id))
    await deleting  # it need not wait for the model
    embedder.go_on.set()
    assert await working == 2
    query = f"SELECT event_id FROM {watched.space.table} WHERE event_id = %s"
    assert sql.execute(query.encode(), [event_id]).fetchall() == []
    assert sql.execute("SELECT count(*) FROM embedding_queue").fetchone() == (0,)
    assert embedded(sql) == ["kept"]


async def test_a_worker_outlives_its_connections(watched: Memory, sql: Sql) -> None:
    kill = (
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    async with running_worker(watched):
        await add(watched, "before")
        await until_nothing_is_due(watched)
        sql.execute(kill)
        query = """INSERT INTO events (content) VALUES ('{"text": "after"}')"""
        sql.execute(query)
        await until(lambda: embedded(sql) == ["before", "after"])


async def test_a_connection_lost_in_the_middle_of_a_batch_loses_nothing(
    watched: Memory, embedder: TestEmbedder, sql: Sql
) -> None:
    await add(watched, "one", "two")
    embedder.go_on.clear()
    async with running_worker(watched):
        await until(embedder.entered.is_set)
        sql.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        embedder.go_on.set()
        await until(lambda: embedded(sql) == ["one", "two"])
    assert (await watched.queue_state()).pending == 0
    assert set(embedder.seen.values()) == {1}, "the vectors outlive the connection"


# --- Waking, stopping, indexing -----------------------------------------------------------------


async def test_a_notification_of_another_process_wakes_it(
    settings: Settings, embedder: TestEmbedder, sql: Sql, tmp_path: Path
) -> None:
    lazy = with_worker(settings, poll_seconds=60)
    variables = {"DATABASE_URL": str(settings.database.url), "EMBEDDING_MODE": "mock"}
    async with open_memory(lazy, embedder) as memory, running_worker(memory):
        await add(memory, "of this process")
        await until(lambda: len(embedded(sql)) == 1)
        arguments = ("add", "of another process", "--no-embed")
        added = await asyncio.to_thread(run, *arguments, cwd=tmp_path, variables=variables)
        assert added.returncode == 0, added.stderr
        async with asyncio.timeout(50):  # polling would come later
            await until(lambda: len(embedded(sql)) == 2)


async def test_a_worker_that_is_stopped_finishes_its_batch(
    settings: Settings, embedder: TestEmbedder, sql: Sql
) -> None:
    async with open_memory(with_worker(settings, batch_size=1), embedder) as memory:
        await add(memory, "at hand", "for the next one")
        embedder.go_on.clear()
        worker = Worker(memory)
        running = asyncio.create_task(worker.run())
        await until(embedder.entered.is_set)
        worker.stop()
        embedder.go_on.set()
        await running
        assert embedded(sql) == ["at hand"]
        assert (await memory.queue_state()).pending == 1


async def test_an_index_is_built_once_the_table_is_large(
    settings: Settings, embedder: TestEmbedder, sql: Sql
) -> None:
    async with open_memory(with_worker(settings, hnsw_min_rows=50), embedder) as memory:
        index = memory.space.hnsw_index

        def is_built() -> bool:
            query = "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(%s)"
            return sql.execute(query, [index]).fetchone() == (True,)

        await add(memory, *(f"text {n}" for n in range(40)))
        async with running_worker(memory):
            await until_nothing_is_due(memory)
            sql.execute(f"ANALYZE {memory.space.table}".encode())
            await add(memory, *(f"more {n}" for n in range(40)))
            await until_nothing_is_due(memory)
            assert not is_built()
            sql.execute(f"ANALYZE {memory.space.table}".encode())
            await until(is_built)
        assert not await memory.spaces.lacks_index(memory.space, 50)
