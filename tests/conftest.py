"""Fixtures of all tests: a real PostgreSQL, a database of its own for each test, a memory."""

import os
import secrets
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import hypothesis
import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from mnemolite.app import create_app
from mnemolite.local_postgres import open_local_postgres
from mnemolite.memory import Memory
from mnemolite.migrations import upgrade
from mnemolite.settings import DatabaseSettings, EmbeddingSettings, Settings, WorkerSettings
from mnemolite.worker import running_worker

# How long an example takes says how busy the machine is, and nothing of what is tested.
hypothesis.settings.register_profile(
    "untimed", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("untimed")

_TEMPLATE = "mnemolite_test_template"
# Every test keeps its data for milliseconds only; nothing of the product turns this off.
_FAST = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def server_dsn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server for all tests of the run: TEST_DATABASE_URL, or an embedded one."""
    if url := os.environ.get("TEST_DATABASE_URL"):
        yield url
        return
    folder = _shared_folder(tmp_path_factory) / "postgres"
    with open_local_postgres(folder, database="postgres", extra_settings=_FAST) as server:
        yield server.dsn("postgres")


@pytest.fixture(scope="session")
def template(server_dsn: str) -> str:
    """A database with the schema, made once, that the tests' databases are copies of."""
    with psycopg.connect(server_dsn, autocommit=True) as connection:
        # The processes of a parallel run take turns; the first one makes it.
        connection.execute("SELECT pg_advisory_lock(1)")
        query = "SELECT FROM pg_database WHERE datname = %s"
        if connection.execute(query, [_TEMPLATE]).fetchone() is None:
            connection.execute(f"CREATE DATABASE {_TEMPLATE} TEMPLATE template0 ENCODING 'UTF8'")
            upgrade(make_conninfo(server_dsn, dbname=_TEMPLATE))
    return _TEMPLATE


@pytest.fixture
def empty_dsn(server_dsn: str) -> Iterator[str]:
    """A database without a schema."""
    yield from _fresh_database(server_dsn, "template0")


@pytest.fixture
def dsn(server_dsn: str, template: str) -> Iterator[str]:
    """A database with the schema and nothing in it."""
    yield from _fresh_database(server_dsn, template)


@pytest.fixture
def settings(dsn: str) -> Settings:
    """Mock embeddings and short waits."""
    return Settings(
        database=DatabaseSettings(url=dsn, pool_size=6),
        embedding=EmbeddingSettings(mode="mock", dimension=16),
        worker=WorkerSettings(batch_size=64, poll_seconds=0.1, retry_seconds=0.05, max_attempts=2),
    )


@pytest.fixture
async def memory(settings: Settings) -> AsyncIterator[Memory]:
    """A memory without a worker: events stay pending until the test embeds them."""
    async with Memory.open(settings) as opened:
        yield opened


@pytest.fixture
async def worked_memory(memory: Memory) -> AsyncIterator[Memory]:
    """A memory with a worker."""
    async with running_worker(memory):
        yield memory


@pytest.fixture
async def client(memory: Memory) -> AsyncIterator[httpx.AsyncClient]:
    """An HTTP client of the application over ``memory``, in this process."""
    transport = httpx.ASGITransport(create_app(memory), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as opened:
        yield opened


def _shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all processes of a parallel run."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


def _fresh_database(server_dsn: str, template: str) -> Iterator[str]:
    name = f"mnemolite_test_{secrets.token_hex(6)}"
    with psycopg.connect(server_dsn, autocommit=True) as connection:
        create = sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY FILE_COPY ENCODING 'UTF8'")
        connection.execute(create.format(sql.Identifier(name), sql.Identifier(template)))
        try:
            yield make_conninfo(server_dsn, dbname=name)
        finally:
            drop = sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)")
            connection.execute(drop.format(sql.Identifier(name)))
