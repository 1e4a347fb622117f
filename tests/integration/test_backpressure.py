"""Back-pressure: past the limit nothing with text is stored, and clients learn when to return."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import psycopg
import pytest

from mnemolite.app import create_app
from mnemolite.errors import QueueFullError
from mnemolite.memory import Memory
from mnemolite.models import NewEvent
from mnemolite.settings import Settings
from mnemolite.settings.pipeline import PipelineSettings
from mnemolite.worker import running_worker

Sql = psycopg.Connection[tuple[Any, ...]]
LIMIT = 10


@pytest.fixture
def sql(dsn: str) -> Iterator[Sql]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        yield connection


@pytest.fixture
async def bounded(settings: Settings) -> AsyncIterator[Memory]:
    limits = PipelineSettings(max_pending=LIMIT)
    async with Memory.open(settings.model_copy(update={"pipeline": limits})) as memory:
        yield memory


def events(count: int, text: str = "text") -> list[NewEvent]:
    return [NewEvent(content={"text": text}) for _ in range(count)]


async def fill(memory: Memory) -> None:
    """Up to the limit, which is known then."""
    await memory.add_many(events(LIMIT))
    while True:
        try:
            await memory.pressure.admit(events(1), memory.space)
        except QueueFullError:
            return
        await asyncio.sleep(0.05)


async def test_past_the_limit_writes_are_refused_and_nothing_is_stored(
    bounded: Memory, sql: Sql
) -> None:
    await fill(bounded)
    transport = httpx.ASGITransport(create_app(bounded))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        for path, body in (
            ("/v1/events", {"content": "one more"}),
            ("/v1/events/batch", [{"content": " "}, {"content": "one more"}]),
        ):
            answer = await client.post(path, json=body)
            assert (answer.status_code, answer.json()["code"]) == (503, "queue_full")
            assert 1 <= int(answer.headers["Retry-After"]) <= 60
            assert "MNEMO_MAX_PENDING" in answer.json()["remedy"]
        assert sql.execute("SELECT count(*) FROM events").fetchone() == (LIMIT,)
        assert (await client.post("/v1/events", json={"content": " "})).status_code == 201
        shown = (await client.get("/metrics")).text
    assert "mnemolite_queue_refused_total" in shown


async def test_a_retry_of_what_is_stored_is_answered_all_the_same(bounded: Memory) -> None:
    first = await bounded.store(events(1), idempotency_key="k")
    await fill(bounded)
    again = await bounded.store(events(1), idempotency_key="k")
    assert again.replayed
    assert [event.id for event in again.events] == [event.id for event in first.events]
    with pytest.raises(QueueFullError):
        await bounded.store(events(1), idempotency_key="another")


async def test_once_there_is_room_writes_are_taken_again(bounded: Memory) -> None:
    await fill(bounded)
    async with running_worker(bounded):
        while True:
            try:
                await bounded.add("one more")
                break
            except QueueFullError:
                await asyncio.sleep(0.1)


async def test_parked_events_take_no_room(bounded: Memory, sql: Sql) -> None:
    await fill(bounded)
    sql.execute("UPDATE embedding_queue SET not_before = 'infinity'")
    while True:
        try:
            await bounded.add("one more")
            break
        except QueueFullError:
            await asyncio.sleep(0.1)  # a count is a second old at most


async def test_an_import_waits_while_a_worker_makes_room(bounded: Memory, sql: Sql) -> None:
    async with running_worker(bounded):
        while not await bounded.workers():
            await asyncio.sleep(0.02)
        for _ in range(5):
            assert await bounded.count_added(events(LIMIT)) == LIMIT
    assert sql.execute("SELECT count(*) FROM events").fetchone() == (5 * LIMIT,)


async def test_an_import_does_not_wait_for_nobody(bounded: Memory) -> None:
    await fill(bounded)
    assert await bounded.count_added(events(LIMIT)) == LIMIT


async def test_without_a_limit_nothing_is_counted(memory: Memory) -> None:
    await memory.add_many(events(1000))
    await memory.add_many(events(1000))
    assert (await memory.queue_state()).pending == 2000
