"""What kill -9 must not break: an acknowledged event is there, once, and gets its embedding."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import UUID, uuid4

import httpx
import psycopg

from mnemolite.local_postgres import LocalPostgres, open_local_postgres
from tests.acceptance.server import ServerProcess, patient_client
from tests.faults.postgres import kill_server, processes_in

EVENTS = 1000
CLIENTS = 16
KILLS = 3


class _Crowd:
    """Clients that post events, each until it is acknowledged, while the server comes and goes."""

    def __init__(self, client: httpx.Client) -> None:
        self._client = client
        self.url = ""
        self.acknowledged: set[UUID] = set()
        self._lock = threading.Lock()

    def post(self, number: int) -> None:
        """Half of them give the event an id, the others the request a key."""
        event = {"namespace": "crowd", "content": f"event number {number}"}
        own, headers = str(uuid4()), {}
        if number % 2:
            event["id"] = own
        else:
            headers["Idempotency-Key"] = own
        while True:
            try:
                response = self._client.post(f"{self.url}/v1/events", json=event, headers=headers)
            except httpx.TransportError:
                time.sleep(0.05)
                continue
            if response.status_code in (200, 201):
                with self._lock:
                    self.acknowledged.add(UUID(response.json()["id"]))
                return
            assert response.status_code == 503, response.text


def test_nothing_acknowledged_is_lost_or_doubled(tmp_path: Path, dsn: str) -> None:
    variables = {"DATABASE_URL": dsn, "EMBEDDING_MODE": "mock"}
    server = ServerProcess(tmp_path / "serve.log", variables=variables)
    try:
        with patient_client() as client, ThreadPoolExecutor(CLIENTS) as pool:
            crowd = _Crowd(client)
            crowd.url = server.url
            posts = [pool.submit(crowd.post, number) for number in range(EVENTS)]
            for kill in range(1, KILLS + 1):
                while len(crowd.acknowledged) < EVENTS * kill // (KILLS + 1):
                    time.sleep(0.005)
                server.kill()
                server = ServerProcess(tmp_path / "serve.log", variables=variables)
                crowd.url = server.url
            for post in posts:
                post.result()
        _wait_until_nothing_is_pending(server)
    finally:
        server.stop()
    with psycopg.connect(dsn) as connection:
        stored = connection.execute("SELECT id FROM events").fetchall()
        embedded = connection.execute("SELECT id FROM embedded_events").fetchall()
    assert len(stored) == EVENTS
    assert {row[0] for row in stored} == crowd.acknowledged
    assert sorted(embedded) == sorted(stored)


def _wait_until_nothing_is_pending(server: ServerProcess) -> None:
    with server.client() as client:
        for _ in range(600):
            if client.get("/v1/stats").json()["queue"]["pending"] == 0:
                return
            time.sleep(0.1)
    raise AssertionError("events stay pending")


def test_the_embedded_server_recovers_from_a_kill_of_everything(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    variables = {"EMBEDDING_MODE": "mock"}
    arguments = ("--data-dir", str(data_dir))
    server = ServerProcess(tmp_path / "serve.log", *arguments, variables=variables)
    with server.client() as client:
        ids = [client.post("/v1/events", json={"content": f"e{n}"}).json()["id"] for n in range(20)]
    server.kill()
    kill_server(data_dir)
    server = ServerProcess(tmp_path / "serve.log", *arguments, variables=variables)
    try:
        _wait_until_nothing_is_pending(server)
        with server.client() as client:
            found = client.get("/v1/events", params={"limit": 100}).json()["data"]
        assert [event["id"] for event in found] == ids[::-1]
    finally:
        assert server.stop() == 0
    assert processes_in(data_dir) == []


def test_a_killed_postgres_is_started_again(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    variables = {"EMBEDDING_MODE": "mock"}
    server = ServerProcess(tmp_path / "serve.log", "--data-dir", str(data_dir), variables=variables)
    try:
        with server.client() as client:
            kept = client.post("/v1/events", json={"content": "kept"}).json()["id"]
            kill_server(data_dir)
            _post_until_stored(client, "after the crash")
            assert client.get(f"/v1/events/{kept}").status_code == 200
        _wait_until_nothing_is_pending(server)
    finally:
        assert server.stop() == 0


def _post_until_stored(client: httpx.Client, text: str) -> None:
    for _ in range(300):
        response = client.post("/v1/events", json={"content": text})
        if response.status_code == 201:
            return
        assert response.status_code == 503, response.text
        time.sleep(0.1)
    raise AssertionError("the server does not come back")


def test_a_postgres_that_dies_during_a_start_does_not_end_it(tmp_path: Path) -> None:
    data_dir, killed = tmp_path / "data", threading.Event()
    variables = {"EMBEDDING_MODE": "mock"}
    arguments = ("--data-dir", str(data_dir))

    def kill_when_joined(local: LocalPostgres) -> None:
        """Kill PostgreSQL once the starting server speaks to it."""
        with psycopg.connect(local.dsn(), autocommit=True) as sql:
            others = (
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
                "AND backend_type = 'client backend' AND pid <> pg_backend_pid()"
            )
            while sql.execute(others).fetchone() == (0,):
                time.sleep(0.001)
        kill_server(data_dir)
        killed.set()

    with open_local_postgres(data_dir) as local:
        killer = threading.Thread(target=kill_when_joined, args=(local,))
        killer.start()
        server = ServerProcess(tmp_path / "serve.log", *arguments, variables=variables)
        try:
            killer.join()
            with server.client() as client:
                _post_until_stored(client, "stored all the same")
            _wait_until_nothing_is_pending(server)
        finally:
            assert server.stop() == 0
    assert killed.is_set()
