"""Readiness: red, and saying why, when events are not embedded or writes are refused."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import psycopg
import pytest

from mnemolite.app import create_app
from mnemolite.errors import DatabaseFullError
from mnemolite.memory import Memory
from mnemolite.models import Check
from mnemolite.settings import Settings
from mnemolite.settings.pipeline import PipelineSettings
from mnemolite.worker import Worker, running_worker
from tests.integration.test_worker import TestEmbedder, add, open_memory, with_worker

Sql = psycopg.Connection[tuple[Any, ...]]


@pytest.fixture
def sql(dsn: str) -> Iterator[Sql]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        yield connection


@pytest.fixture
def embedder() -> TestEmbedder:
    return TestEmbedder()


@pytest.fixture
async def impatient(settings: Settings, embedder: TestEmbedder) -> AsyncIterator[Memory]:
    """A memory whose readiness turns red within a second, and whose workers beat thrice in one."""
    limits = PipelineSettings(ready_max_pending_seconds=1000, ready_max_idle_seconds=1)
    brief = with_worker(settings, lease_seconds=1).model_copy(update={"pipeline": limits})
    async with open_memory(brief, embedder) as opened:
        yield opened


async def until(memory: Memory, name: str, *, ok: bool) -> Check:
    """Wait for a check to turn red or green; pytest's own time limit ends a wait in vain."""
    while True:
        check = (await memory.health()).checks.get(name)
        if check is not None and check.ok is ok:
            return check
        await asyncio.sleep(0.05)


def make_older(sql: Sql, seconds: int) -> None:
    sql.execute(
        "UPDATE embedding_queue SET not_before = not_before - make_interval(secs => %s)", [seconds]
    )


async def test_a_healthy_memory_names_all_its_parts(impatient: Memory) -> None:
    async with running_worker(impatient):
        await impatient.add("embedded", wait_seconds=60)
        health = await impatient.health()
    assert health.status == "ok"
    assert health.checks.keys() == {"model", "database", "writes", "lag", "workers"}


async def test_without_a_worker_what_waits_turns_it_red(impatient: Memory, sql: Sql) -> None:
    await add(impatient, "waits")
    assert (await impatient.health()).status == "ok"
    make_older(sql, 60)
    health = await impatient.health()
    assert health.status == "not_ready"
    assert [name for name, check in health.checks.items() if not check.ok] == ["workers"]
    assert "start `mnemolite worker`" in health.checks["workers"].detail
    async with running_worker(impatient):
        await until(impatient, "workers", ok=True)


async def test_a_backlog_that_is_worked_off_stays_green(
    impatient: Memory, embedder: TestEmbedder, sql: Sql
) -> None:
    await add(impatient, *(f"text {n}" for n in range(500)))
    make_older(sql, 900)
    async with running_worker(impatient):
        await until(impatient, "workers", ok=True)
        while (await impatient.queue_state()).due:
            assert (await impatient.health()).status == "ok"
            await asyncio.sleep(0.01)


async def test_an_event_that_is_due_for_too_long_turns_it_red(impatient: Memory, sql: Sql) -> None:
    await add(impatient, "forgotten")
    make_older(sql, 1001)
    check = await until(impatient, "lag", ok=False)
    assert "longer than 1000 s" in check.detail


async def test_a_model_that_fails_on_everything_turns_it_red(
    impatient: Memory, embedder: TestEmbedder
) -> None:
    embedder.chokes_on = ""
    await add(impatient, "one")
    async with running_worker(impatient):
        await until(impatient, "workers", ok=False)
        embedder.chokes_on = "poison"
        await until(impatient, "workers", ok=True)
    assert (await impatient.queue_state()).pending == 0


async def test_a_model_that_hangs_turns_it_red(impatient: Memory, embedder: TestEmbedder) -> None:
    embedder.go_on.clear()
    await add(impatient, "one")
    async with running_worker(impatient):
        check = await until(impatient, "workers", ok=False)
        assert "1 at work" in check.detail
        embedder.go_on.set()
        await until(impatient, "workers", ok=True)


async def test_a_bad_text_alone_does_not(impatient: Memory, sql: Sql) -> None:
    await add(impatient, "poison")
    worker = Worker(impatient)
    await worker.embed_batch()
    assert (await impatient.health()).status == "ok"
    sql.execute("UPDATE embedding_queue SET not_before = 'infinity'")
    make_older(sql, 5000)
    assert (await impatient.health()).status == "ok"


async def test_a_database_that_refuses_writes_turns_it_red(impatient: Memory, sql: Sql) -> None:
    read_only = (
        "DO $$ BEGIN EXECUTE format("
        "'ALTER DATABASE %I SET default_transaction_read_only = {}', current_database()); END $$"
    )
    drop_connections = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    sql.execute(read_only.format("on").encode())
    sql.execute(drop_connections)
    check = await until(impatient, "writes", ok=False)
    while "read_only" not in check.detail:  # at first the connections are gone
        check = await until(impatient, "writes", ok=False)
        await asyncio.sleep(0.1)
    assert (await impatient.health()).status == "not_ready"
    sql.execute("SET default_transaction_read_only = off")
    sql.execute(read_only.format("off").encode())
    sql.execute(drop_connections)
    await until(impatient, "writes", ok=True)


async def test_a_write_that_found_no_room_turns_it_red(impatient: Memory, sql: Sql) -> None:
    sql.execute(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'no space left on device' USING ERRCODE = 'disk_full'; END $$"
    )
    sql.execute("CREATE TRIGGER refuse BEFORE INSERT ON events EXECUTE FUNCTION refuse()")
    with pytest.raises(DatabaseFullError):
        await add(impatient, "too much")
    check = await until(impatient, "writes", ok=False)
    assert "no room" in check.detail


async def test_workers_are_seen_in_figures_and_metrics(impatient: Memory) -> None:
    async with running_worker(impatient), running_worker(impatient):
        await impatient.add("embedded", wait_seconds=60)
        while len(await impatient.workers()) < 2 or not any(
            worker.last_success_at for worker in await impatient.workers()
        ):
            await asyncio.sleep(0.05)
        stats = await impatient.stats()
        assert {worker.space for worker in stats.workers} == {impatient.space.id}
        transport = httpx.ASGITransport(create_app(impatient))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            shown = (await client.get("/metrics")).text
            assert (await client.get("/v1/stats")).json()["workers"][0]["host"]
        assert "mnemolite_workers 2.0" in shown
        assert 'mnemolite_ready{check="workers"} 1.0' in shown
    assert await impatient.workers() == [], "they have ended in order"
