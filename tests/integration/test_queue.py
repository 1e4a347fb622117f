"""Leases: who claims an event, for how long, and what becomes of what a worker leaves behind."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any
from uuid import uuid4

import numpy as np
import psycopg
import pytest

from mnemolite.errors import DatabaseTimeoutError
from mnemolite.memory import Memory
from mnemolite.queue import Claim, EmbeddedPassage, Lease
from mnemolite.settings import Settings
from mnemolite.worker import Worker, running_worker
from tests.integration.test_worker import (
    TestEmbedder,
    add,
    embedded,
    open_memory,
    until,
    until_nothing_is_due,
    with_worker,
)

Sql = psycopg.Connection[tuple[Any, ...]]

TRIES = 3


@pytest.fixture
def sql(dsn: str) -> Iterator[Sql]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        yield connection


@pytest.fixture
def embedder() -> TestEmbedder:
    return TestEmbedder()


@pytest.fixture
async def watched(memory: Memory, embedder: TestEmbedder) -> AsyncIterator[Memory]:
    async with open_memory(memory.settings, embedder) as opened:
        yield opened


def lease() -> Lease:
    return Lease(uuid4(), seconds=60, max_attempts=TRIES)


def end_leases(sql: Sql) -> None:
    """As if their time were over."""
    sql.execute(
        "UPDATE embedding_queue SET not_before = now() - interval '1 second' "
        "WHERE claimed_by IS NOT NULL"
    )


def passages(claim: Claim, number: float) -> list[EmbeddedPassage]:
    """A vector of that first number for each event."""
    vector = np.zeros(16, np.float32)
    vector[0] = number
    return [EmbeddedPassage(event, 0, (0, 1), vector) for event in claim.events]


def vectors(sql: Sql) -> dict[str, float]:
    query = "SELECT text, (embedding::real[])[1] FROM embedded_events ORDER BY id"
    return {row[0]: row[1] for row in sql.execute(query)}


def texts(claim: Claim) -> list[str | None]:
    return [event.text for event in claim.events]


async def test_a_claim_holds_events_without_a_transaction(memory: Memory, sql: Sql) -> None:
    await add(memory, "one", "two", "three")
    queue, space = memory.queue, memory.space
    async with (
        queue.claim(space, lease(), limit=2) as one,
        queue.claim(space, lease(), limit=2) as other,
    ):
        assert texts(one) == ["one", "two"]
        assert texts(other) == ["three"]
        query = (
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
            "AND pid <> pg_backend_pid() AND xact_start IS NOT NULL"
        )
        assert sql.execute(query).fetchone() == (0,)
        state = await memory.queue_state()
        assert (state.pending, state.parked) == (3, 0)


async def test_what_is_given_back_keeps_its_turn_and_its_tries(memory: Memory, sql: Sql) -> None:
    await add(memory, "one", "two")
    before = sql.execute("SELECT event_id, not_before FROM embedding_queue").fetchall()
    async with memory.queue.claim(memory.space, lease(), limit=5) as claim:
        assert claim.open == 2
    query = "SELECT event_id, not_before FROM embedding_queue WHERE claimed_by IS NULL"
    assert sorted(sql.execute(query)) == sorted(before)
    async with memory.queue.claim(memory.space, lease(), limit=5) as claim:
        assert texts(claim) == ["one", "two"]
        assert {event.attempts for event in claim.events} == {0}
        assert claim.taken_over == 0


async def test_after_the_lease_another_worker_takes_over_and_the_late_one_writes_nothing(
    memory: Memory, sql: Sql
) -> None:
    await add(memory, "one", "two", "three")
    async with memory.queue.claim(memory.space, lease(), limit=3) as late:
        end_leases(sql)
        async with memory.queue.claim(memory.space, lease(), limit=3) as heir:
            assert texts(heir) == ["one"], "what may have killed its worker comes alone"
            assert (heir.taken_over, heir.events[0].attempts) == (1, 1)
            assert await late.store(late.events, passages(late, 1.0)) == 2
            assert vectors(sql) == {"two": 1.0, "three": 1.0}
            assert await heir.store(heir.events, passages(heir, 2.0)) == 1
        assert await late.store(late.events, passages(late, 1.0)) == 0
        assert await late.fail(late.events[0], "late", retry_seconds=1) is False
    assert vectors(sql) == {"one": 2.0, "two": 1.0, "three": 1.0}
    assert sql.execute("SELECT count(*) FROM embedding_queue").fetchone() == (0,)


async def stop_while_storing(memory: Memory, stopped: Claim) -> None:
    """Keep the transaction open until another worker has embedded the event."""
    async with memory.database.transaction() as connection:
        await stopped.finish(connection, stopped.events)
        embedded_by_other = 0
        while not embedded_by_other:
            async with memory.queue.claim(memory.space, lease(), limit=1) as heir:
                embedded_by_other = await heir.store(heir.events, passages(heir, 2.0))
            await asyncio.sleep(0.05)
        await connection.execute("SELECT 1")


async def test_a_worker_that_stops_while_it_stores_holds_nothing_for_longer_than_a_lease(
    memory: Memory, sql: Sql
) -> None:
    await add(memory, "one")
    brief = Lease(uuid4(), seconds=1, max_attempts=TRIES)
    async with memory.queue.claim(memory.space, brief, limit=1) as stopped:
        with pytest.raises(DatabaseTimeoutError):
            await stop_while_storing(memory, stopped)
        assert await stopped.store(stopped.events, passages(stopped, 1.0)) == 0
    assert vectors(sql) == {"one": 2.0}


async def test_a_text_that_kills_its_workers_is_parked_and_its_neighbours_are_embedded(
    memory: Memory, sql: Sql
) -> None:
    await add(memory, "good one", "deadly", "good two")
    deaths = 0
    while (await memory.queue_state()).due:
        claim = Claim(memory.database, memory.space, lease=lease())
        await claim.take(10)
        if "deadly" in texts(claim):
            deaths += 1
            end_leases(sql)
        else:
            await claim.store(claim.events, passages(claim, 1.0))
    assert deaths == TRIES
    assert set(vectors(sql)) == {"good one", "good two"}
    state = await memory.queue_state()
    assert (state.pending, state.parked) == (1, 1)
    assert state.errors == [
        "embedding_abandoned: The worker that was embedding the text ended before it was done."
    ]
    assert await memory.retry_parked() == 1
    assert (await memory.queue_state()).due == 1


async def test_a_fault_of_the_program_is_taken_for_the_death_of_the_worker(
    watched: Memory, embedder: TestEmbedder, sql: Sql, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = embedder.passages

    def cut(text: str) -> Any:
        if text == "deadly":
            raise RuntimeError("a bug")
        return whole(text)

    monkeypatch.setattr(embedder, "passages", cut)
    await add(watched, "good one", "deadly", "good two")
    async with running_worker(watched):
        while (await watched.queue_state()).due:
            await asyncio.to_thread(end_leases, sql)  # it may wait for the worker
            await asyncio.sleep(0.02)
    assert embedded(sql) == ["good one", "good two"]
    assert (await watched.queue_state()).parked == 1


async def test_heart_beats_keep_the_lease_of_a_slow_worker(
    settings: Settings, embedder: TestEmbedder, sql: Sql
) -> None:
    brief = with_worker(settings, lease_seconds=1)
    quick = TestEmbedder()
    async with open_memory(brief, embedder) as slow, open_memory(brief, quick) as other:
        await add(slow, "slow")
        embedder.go_on.clear()
        async with running_worker(slow):
            await until(embedder.entered.is_set)
            for _ in range(20):  # two leases long
                assert await Worker(other).embed_batch() == 0
                await asyncio.sleep(0.1)
            embedder.go_on.set()
            await until_nothing_is_due(slow)
    assert embedded(sql) == ["slow"]
    assert not quick.seen


async def test_events_of_a_gone_worker_are_embedded_by_another(
    watched: Memory, embedder: TestEmbedder, sql: Sql
) -> None:
    await add(watched, *(f"text {n}" for n in range(40)))
    await Claim(watched.database, watched.space, lease=lease()).take(30)
    assert await Worker(watched).embed_batch() == 10
    assert await Worker(watched).embed_batch() == 0
    end_leases(sql)
    await Worker(watched).drain()
    assert embedded(sql) == [f"text {n}" for n in range(40)]
    assert set(embedder.seen.values()) == {1}


async def test_a_large_claim_is_stored_slice_by_slice(
    watched: Memory, embedder: TestEmbedder, sql: Sql
) -> None:
    await add(watched, *(f"long {n} " + "word " * 60_000 for n in range(3)))
    await Worker(watched).drain()
    assert len(set(embedded(sql))) == 3
    query = f"SELECT count(DISTINCT xmin::text) FROM {watched.space.table}"
    assert sql.execute(query.encode()).fetchone() == (3,)
