"""Faults of the database: what a client is told, that its retry is safe, and that all recovers."""

import asyncio
import os
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from mnemolite.app import create_app
from mnemolite.memory import Memory
from mnemolite.settings import Settings
from tests.acceptance.server import running_server
from tests.faults.postgres import Fault, Proxy, kill_server, own_server, standby_of, until_stored

EVENT = {"content": "I like tea."}
KEYED = {"Idempotency-Key": "7f0c1d9e"}
MIB = 2**20


@asynccontextmanager
async def client_of(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    async with AsyncExitStack() as stack:
        memory = await stack.enter_async_context(Memory.open(settings))
        transport = httpx.ASGITransport(create_app(memory), raise_app_exceptions=False)
        yield await stack.enter_async_context(
            httpx.AsyncClient(transport=transport, base_url="http://test")
        )


def stored_in(dsn: str) -> int:
    with psycopg.connect(dsn) as connection:
        row = connection.execute("SELECT count(*) FROM events").fetchone()
    return int(row[0]) if row else 0


def variables_of(dsn: str) -> dict[str, str]:
    return {"DATABASE_URL": dsn, "EMBEDDING_MODE": "mock", "MNEMO_POOL_TIMEOUT_SECONDS": "1"}


def assert_told(response: httpx.Response, code: str, *, status: int = 503) -> None:
    assert (response.status_code, response.json()["code"]) == (status, code), response.text
    if status == 503:
        assert int(response.headers["Retry-After"]) >= 1


# --- Connections --------------------------------------------------------------------------------


@pytest.mark.parametrize(("fault", "stored"), [("before commit", 0), ("after commit", 1)])
async def test_a_connection_that_is_cut_at_the_commit(
    settings: Settings, dsn: str, fault: Fault, stored: int
) -> None:
    async with AsyncExitStack() as stack:
        proxy = await stack.enter_async_context(Proxy(dsn))
        database = settings.database.model_copy(update={"url": proxy.dsn})
        changed = settings.model_copy(update={"database": database})
        client = await stack.enter_async_context(client_of(changed))
        proxy.fault = fault
        lost = await client.post("/v1/events", json=EVENT, headers=KEYED)
        assert_told(lost, "database_unavailable")
        assert "Idempotency-Key" in lost.json()["remedy"], "the outcome is not known"
        assert stored_in(dsn) == stored
        again = await client.post("/v1/events", json=EVENT, headers=KEYED)
        assert again.status_code == 201
        assert ("idempotency-replayed" in again.headers) == bool(stored)
        assert stored_in(dsn) == 1
        assert (await client.get(again.headers["location"])).json() == again.json()


async def test_a_pool_with_nothing_free(settings: Settings) -> None:
    database = settings.database.model_copy(update={"pool_size": 3, "pool_timeout_seconds": 2})
    async with Memory.open(settings.model_copy(update={"database": database})) as memory:
        transport = httpx.ASGITransport(create_app(memory))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            async with AsyncExitStack() as stack:
                for _ in range(3):
                    await stack.enter_async_context(memory.database.connection())
                assert_told(await client.post("/v1/events", json=EVENT), "database_busy")
                assert_told(await client.get("/v1/search", params={"q": "tea"}), "database_busy")
            assert (await client.post("/v1/events", json=EVENT)).status_code == 201


# --- Servers ------------------------------------------------------------------------------------


def test_a_restart_of_postgres(tmp_path: Path) -> None:
    with own_server() as postgres:
        variables = variables_of(postgres.dsn())
        with running_server(tmp_path, variables=variables) as server, server.client() as client:
            first = client.post("/v1/events", json=EVENT, headers=KEYED)
            kill_server(postgres.data_dir)
            assert_told(client.post("/v1/events", json=EVENT), "database_unavailable")
            assert client.get("/health/ready").status_code == 503
            postgres.ensure_running()
            assert until_stored(client, EVENT, KEYED).json() == first.json()
            assert client.get("/health/ready").status_code == 200
        assert stored_in(postgres.dsn()) == 1


def test_a_fail_over_to_a_standby(tmp_path: Path) -> None:
    with own_server() as primary, standby_of(primary.dsn()) as standby:
        first, second = (conninfo_to_dict(x) for x in (primary.dsn(), standby.dsn))
        both = make_conninfo(
            primary.dsn(),
            host=f"{second['host']},{first['host']}",  # the standby first: it must be passed over
            port=f"{second['port']},{first['port']}",
            target_session_attrs="read-write",
        )
        variables = variables_of(both)
        with running_server(tmp_path, variables=variables) as server, server.client() as client:
            kept = client.post("/v1/events?wait=embedded", json=EVENT, headers=KEYED)
            assert kept.status_code == 201
            standby.catch_up(primary.dsn())
            kill_server(primary.data_dir)
            assert_told(client.post("/v1/events", json=EVENT), "database_unavailable")
            standby.promote()
            again = until_stored(client, EVENT, KEYED)
            assert again.headers["Idempotency-Replayed"] == "true"
            assert again.json()["id"] == kept.json()["id"]
            new = client.post("/v1/events?wait=embedded", json={"content": "and coffee"})
            assert new.json()["pending"] is False, "the worker goes on too"
            assert client.get("/health/ready").status_code == 200
        assert stored_in(standby.dsn) == 2


async def test_a_primary_that_became_read_only_is_left(settings: Settings, dsn: str) -> None:
    """As behind an address that leads elsewhere after a fail-over."""
    name = conninfo_to_dict(dsn)["dbname"]
    async with client_of(settings) as client:
        with psycopg.connect(dsn, autocommit=True) as connection:
            change = "ALTER DATABASE {} SET default_transaction_read_only = {}"
            connection.execute(change.format(name, "on").encode())
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            codes = set()
            for _ in range(10):
                codes.add((await client.post("/v1/events", json=EVENT)).json()["code"])
            assert "database_read_only" in codes
            connection.execute("SET default_transaction_read_only = off")
            connection.execute(change.format(name, "off").encode())
        for _ in range(100):
            response = await client.post("/v1/events", json=EVENT)
            if response.status_code == 201:
                return
            await asyncio.sleep(0.05)
    raise AssertionError(response.text)


# --- The disk -----------------------------------------------------------------------------------


@contextmanager
def small_disk(size: int) -> Iterator[Path]:
    """A file system of that size."""
    folder = Path(tempfile.mkdtemp(prefix="mnemolite-", dir="/tmp"))
    options = ["-t", "tmpfs", "-o", f"size={size},mode=0755"]
    if (
        os.geteuid() != 0
        or subprocess.run(
            ["mount", *options, "tmpfs", str(folder)], check=False, capture_output=True
        ).returncode
    ):
        folder.rmdir()
        pytest.skip("this user may not mount a file system to fill")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
        folder.rmdir()


def fill(folder: Path) -> Path:
    """Write until nothing more fits."""
    path = folder / "filler"
    with path.open("wb", buffering=0) as file:
        for size in (MIB, 4096):
            while True:
                try:
                    file.write(bytes(size))
                except OSError:
                    break
    return path


def batch(number: int) -> dict[str, Any]:
    text = " ".join(f"word{number}x{n}" for n in range(200))
    return {"events": [{"content": f"{n} {text}"} for n in range(20)]}


def test_a_full_disk(tmp_path: Path) -> None:
    with small_disk(256 * MIB) as disk:
        # The log of transactions is written into files of a fixed size, one of which lies ready.
        variables = {"EMBEDDING_MODE": "mock", "MNEMO_WORKER_IN_SERVER": "false"}
        arguments = ("--data-dir", str(disk / "data"))
        with running_server(tmp_path, *arguments, variables=variables) as server:
            stored = 0
            with server.client() as client:
                filler = fill(disk)
                for number in range(100):
                    headers = {"Idempotency-Key": str(number)}
                    response = client.post("/v1/events/batch", json=batch(number), headers=headers)
                    if response.status_code != 201:
                        break
                    stored += 20
                assert_told(response, "database_full", status=507)
                assert "Free some space" in response.json()["remedy"]
                assert client.get("/v1/events").status_code == 200, "reading goes on"
                assert client.get("/v1/stats").json()["events"] == stored, "nothing half-written"
                filler.unlink()
                again = client.post("/v1/events/batch", json=batch(number), headers=headers)
                assert again.status_code == 201
                assert client.get("/v1/stats").json()["events"] == stored + 20
