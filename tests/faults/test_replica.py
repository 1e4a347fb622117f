"""Searches on a streaming replica: that it answers, how far it lags, and what comes without it."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack

import httpx
import pytest
from psycopg.conninfo import make_conninfo

from mnemolite.app import create_app
from mnemolite.arms import Arms, SearchJob
from mnemolite.database import Database
from mnemolite.lexicon import Lexicon
from mnemolite.local_postgres import LocalPostgres
from mnemolite.memory import Memory
from mnemolite.models import ContextQuery, NewEvent, SearchQuery, SearchResult
from mnemolite.settings import (
    DatabaseSettings,
    EmbeddingSettings,
    Settings,
    WorkerSettings,
)
from mnemolite.settings.database import ReplicaSettings
from mnemolite.worker import Worker
from tests.faults.postgres import Proxy, Standby, kill_server, own_server, standby_of

TEXTS = ("The ferry to Naxos leaves at seven.", "Ada likes tea.", "The tent is blue.")


@pytest.fixture(scope="module")
def primary() -> Iterator[LocalPostgres]:
    with own_server() as server:
        yield server


@pytest.fixture(scope="module")
def primary_dsn(primary: LocalPostgres) -> str:
    return primary.dsn()


@pytest.fixture(scope="module")
def standby(primary_dsn: str) -> Iterator[Standby]:
    with standby_of(primary_dsn) as opened:
        yield opened


def settings_of(primary: str, replica: str, *, max_lag: float = 30) -> Settings:
    return Settings(
        database=DatabaseSettings(url=primary, pool_size=4, pool_timeout_seconds=2),
        embedding=EmbeddingSettings(mode="mock", dimension=16),
        worker=WorkerSettings(hnsw_min_rows=2, poll_seconds=0.1),
        replica=ReplicaSettings(url=replica, max_lag_seconds=max_lag),
    )


@pytest.fixture
async def memory(primary_dsn: str, standby: Standby) -> AsyncIterator[Memory]:
    """A memory whose events are on both servers, in an HNSW index too."""
    async with Memory.open(settings_of(primary_dsn, standby.dsn)) as opened:
        new = [NewEvent(content=text, id=None) for text in TEXTS]
        await opened.add_many(new, idempotency_key="texts")
        await Worker(opened).drain()
        await opened.spaces.build_index(opened.space)
        standby.catch_up(primary_dsn)
        yield opened


async def until(memory: Memory, reached: Callable[[SearchResult], bool]) -> SearchResult:
    for _ in range(200):
        result = await memory.search(SearchQuery(q="ferry", mode="text"))
        if reached(result):
            return result
        await asyncio.sleep(0.05)
    raise AssertionError(result.meta)


def used(result: SearchResult) -> bool:
    return result.meta.replica is not None and result.meta.replica.used


def lag(result: SearchResult) -> float | None:
    return result.meta.replica.lag_seconds if result.meta.replica else None


def refused(result: SearchResult) -> bool:
    return not used(result)


async def test_the_index_of_vectors_works_on_a_standby(memory: Memory, standby: Standby) -> None:
    async with Database(standby.dsn, memory.settings.database) as database:
        query = SearchQuery(q="ferry", mode="vector")
        lexicon = Lexicon(database, k1=0.9, b=0.4)
        question = await lexicon.question("default", "ferry", space=memory.space.id)
        job = SearchJob(query, question, memory.space, memory.embedder, forced="hnsw")
        found = await Arms(database).vector(job)
    assert found.plan is not None
    assert found.plan.vector == "hnsw"
    assert found.keys


async def test_every_kind_of_search_works_on_a_standby(
    memory: Memory, standby: Standby, primary_dsn: str
) -> None:
    query = SearchQuery(
        q='"ferry" Naxos yesterday -tent', neighbours=2, diversity=0.5, importance=0.5,
        recency_half_life="30d", where={"user": {"$exists": False}}, explain=True,
    )  # fmt: skip
    for mode in ("hybrid", "vector", "text"):
        result = await memory.search(query.model_copy(update={"mode": mode}))
        assert result.meta.replica is not None
        assert (result.meta.replica.used, result.meta.replica.reason) == (True, None)
        assert result.meta.replica.lag_seconds is not None
        assert result.meta.not_recorded is None
        assert result.meta.request_id is not None
        replayed = await memory.replay(result.meta.request_id)
        assert replayed.result.meta.replica is not None
        assert replayed.result.meta.replica.used
    assert [hit.text for hit in result.data] == [TEXTS[0]]
    context = await memory.context(ContextQuery(q="ferry"))
    assert "Naxos" in context.text
    assert context.meta.replica is not None
    assert context.meta.replica.used


async def test_a_replica_that_lags_says_how_far(
    memory: Memory, standby: Standby, primary_dsn: str
) -> None:
    standby.pause()
    try:
        added = await memory.add("The ferry to Paros leaves at nine.")
        result = await until(memory, lambda r: used(r) and (lag(r) or 0) > 0.6)
        assert added.id not in [hit.id for hit in result.data]
        assert "lag" in (await memory.health()).checks["replica"].detail
    finally:
        standby.resume()
    result = await until(memory, lambda r: used(r) and lag(r) == 0.0)
    assert added.id in [hit.id for hit in result.data]


async def test_a_replica_that_lags_too_far_is_not_searched(
    memory: Memory, standby: Standby, primary_dsn: str
) -> None:
    async with Memory.open(settings_of(primary_dsn, standby.dsn, max_lag=0.3)) as strict:
        standby.pause()
        try:
            added = await strict.add("The ferry to Ios leaves at ten.")
            result = await until(strict, refused)
            assert result.meta.replica is not None
            assert "lags by" in str(result.meta.replica.reason)
            assert added.id in [hit.id for hit in result.data]
        finally:
            standby.resume()
        await until(strict, used)


async def test_a_replica_that_dies_and_comes_back(memory: Memory, standby: Standby) -> None:
    await until(memory, used)
    standby.kill()
    result = await memory.search("ferry")
    assert refused(result)
    assert result.data
    assert result.meta.replica is not None
    assert "database_unavailable" in str(result.meta.replica.reason)
    transport = httpx.ASGITransport(create_app(memory))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        health = await client.get("/health/ready")
        assert health.status_code == 200
        check = health.json()["checks"]["replica"]
        assert check["detail"].startswith("searches go to the primary: ")
        meta = (await client.get("/v1/search", params={"q": "ferry"})).json()["meta"]
        assert meta["replica"]["used"] is False
        assert "mnemolite_replica_fallbacks_total" in (await client.get("/metrics")).text
    standby.start()
    await until(memory, used)


async def test_searches_go_on_while_the_primary_is_away(
    memory: Memory, primary: LocalPostgres
) -> None:
    await until(memory, used)
    kill_server(primary.data_dir)
    try:
        result = await until(memory, lambda r: used(r) and lag(r) is None)
        assert result.data
        assert not (await memory.health()).checks["database"].ok
    finally:
        primary.ensure_running()
    await until(memory, lambda r: used(r) and lag(r) == 0.0)


async def test_a_replica_that_is_away_at_the_start(primary_dsn: str, memory: Memory) -> None:
    nowhere = "host=127.0.0.1 port=1 dbname=nowhere"
    async with Memory.open(settings_of(primary_dsn, nowhere)) as opened:
        result = await opened.search("ferry")
        assert result.data
        assert refused(result)


async def test_a_replica_that_is_cut_off_without_a_word(
    memory: Memory, standby: Standby, primary_dsn: str
) -> None:
    async with AsyncExitStack() as stack:
        proxy = await stack.enter_async_context(Proxy(standby.dsn))
        opened = await stack.enter_async_context(Memory.open(settings_of(primary_dsn, proxy.dsn)))
        await until(opened, used)
        proxy.fault = "silence"
        await asyncio.sleep(3.5)
        result = await opened.search("ferry")
        assert result.data
        assert result.meta.replica is not None
        assert result.meta.replica.reason == "The replica does not answer."
        proxy.fault = None


async def test_what_is_no_replica_of_the_database_is_not_searched(
    memory: Memory, primary_dsn: str, standby: Standby
) -> None:
    elsewhere = make_conninfo(standby.dsn, dbname="postgres")
    for dsn, reason in ((primary_dsn, "no standby"), (elsewhere, "no replica of the database")):
        async with Memory.open(settings_of(primary_dsn, dsn)) as opened:
            result = await opened.search("ferry")
            assert result.data
            assert result.meta.replica is not None
            assert reason in str(result.meta.replica.reason)


async def test_a_space_that_the_replica_has_not_heard_of(
    memory: Memory, primary_dsn: str, standby: Standby
) -> None:
    await until(memory, used)
    standby.pause()
    try:
        settings = settings_of(primary_dsn, standby.dsn)
        other = settings.embedding.model_copy(update={"dimension": 8})
        changed = settings.model_copy(update={"embedding": other})
        async with Memory.open(changed, role="build") as building:
            query = SearchQuery(vector=[1.0] * 8, space=building.space.id, mode="vector")
            result = await memory.search(query)
        assert refused(result)
        assert result.meta.space == building.space.id
    finally:
        standby.resume()


async def test_without_a_replica_nothing_is_said_of_one(primary_dsn: str, memory: Memory) -> None:
    settings = settings_of(primary_dsn, "").model_copy(update={"replica": ReplicaSettings()})
    async with Memory.open(settings) as opened:
        assert (await opened.search("ferry")).meta.replica is None
        assert "replica" not in (await opened.health()).checks
