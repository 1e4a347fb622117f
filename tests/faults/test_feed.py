"""What kill -9 must not break: a reader that comes back hears of each event once."""

import asyncio
import contextlib
import threading
import time
from pathlib import Path
from uuid import uuid4

import httpx
import psycopg
from httpx_sse import connect_sse

from mnemolite.memory import Memory
from mnemolite.models import EventChange, FeedQuery
from mnemolite.settings import DatabaseSettings, EmbeddingSettings, Settings
from tests.acceptance.server import ServerProcess, patient_client
from tests.faults.postgres import kill_server, own_server

EVENTS = 200
WRITERS = 4
KILLS = 2


class _Reader(threading.Thread):
    """Follows the stream until it has heard of every event, wherever the server is."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self.url = url
        self.heard: list[str] = []
        self.connections = 0
        self.last_id = ""

    def run(self) -> None:
        while len(self.heard) < EVENTS:
            with contextlib.suppress(httpx.TransportError), patient_client() as client:
                self._listen(client)
            time.sleep(0.01)

    def _listen(self, client: httpx.Client) -> None:
        headers = {"Last-Event-ID": self.last_id} if self.last_id else {}
        params = {"after": "start", "kinds": "added"}
        url = f"{self.url}/v1/events/stream"
        with connect_sse(client, "GET", url, headers=headers, params=params) as stream:
            if stream.response.status_code == 503:
                return
            self.connections += 1
            for message in stream.iter_sse():
                self.last_id = message.id
                if message.event == "added":
                    self.heard.append(message.json()["id"])
                    if len(self.heard) % (EVENTS // 8) == 0:
                        return


def _write(crowd: _Reader, part: int, *, stored: set[str]) -> None:
    with patient_client() as client:
        for _ in range(part, EVENTS, WRITERS):
            event = {"id": str(uuid4()), "content": "an event"}
            while event["id"] not in stored:
                time.sleep(0.01)
                with contextlib.suppress(httpx.TransportError):
                    answer = client.post(f"{crowd.url}/v1/events", json=event)
                    assert answer.status_code in (200, 201, 503), answer.text
                    stored |= {event["id"]} if answer.status_code != 503 else set()


def test_a_reader_hears_of_each_event_once_across_kills(tmp_path: Path, dsn: str) -> None:
    variables = {"DATABASE_URL": dsn, "EMBEDDING_MODE": "mock"}
    server = ServerProcess(tmp_path / "serve.log", variables=variables)
    reader, stored = _Reader(server.url), set[str]()
    writers = [
        threading.Thread(target=_write, args=(reader, part), kwargs={"stored": stored}, daemon=True)
        for part in range(WRITERS)
    ]
    try:
        for thread in (reader, *writers):
            thread.start()
        for kill in range(1, KILLS + 1):
            while len(reader.heard) < EVENTS * kill // (KILLS + 1):
                reader.join(0.01)
            server.kill()
            server = ServerProcess(tmp_path / "serve.log", variables=variables)
            reader.url = server.url
        for thread in (*writers, reader):
            thread.join()
        with psycopg.connect(dsn) as connection:
            ids = {str(row[0]) for row in connection.execute("SELECT id FROM events")}
    finally:
        server.kill()
    assert ids == stored
    assert sorted(reader.heard) == sorted(ids)
    assert reader.connections > KILLS


def test_a_position_survives_a_crash_that_forgets_transactions() -> None:
    """Numbers of transactions that never reached the disk are handed out once more."""
    with own_server() as postgres:
        dsn = postgres.dsn()
        settings = Settings(
            database=DatabaseSettings(url=dsn),
            embedding=EmbeddingSettings(mode="mock", dimension=8),
        )
        first, cursor, taken = asyncio.run(_read_behind_others(settings, dsn))
        kill_server(postgres.data_dir)
        postgres.ensure_running()
        with psycopg.connect(dsn, autocommit=True) as connection:
            row = connection.execute("SELECT pg_current_xact_id()::text::bigint").fetchone()
            assert row is not None
            assert row[0] < taken, "the crash forgot no transaction, so it proves nothing"
        heard = asyncio.run(_write_and_read_on(settings, cursor))
    assert [change.id for change in heard.told] == heard.stored
    assert first not in heard.stored


class _Heard:
    def __init__(self) -> None:
        self.stored: list[object] = []
        self.told: list[EventChange] = []


async def _read_behind_others(settings: Settings, dsn: str) -> tuple[object, str, int]:
    """An event, and the cursor of a reader after transactions that changed nothing."""
    async with Memory.open(settings) as memory:
        event = await memory.add("before the crash")
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute("CHECKPOINT")
            taken = 0
            for _ in range(500):
                with connection.transaction(force_rollback=True):
                    row = connection.execute("SELECT pg_current_xact_id()::text::bigint").fetchone()
                    taken = row[0] if row else taken
        reader = await memory.feed.read(FeedQuery(after="start"))
        try:
            (told,) = await reader.next(10)
            assert told.change.id == event.id
            await reader.next(0.1)  # nothing more is there, however far the transactions are
            return event.id, reader.cursor, taken
        finally:
            reader.close()


async def _write_and_read_on(settings: Settings, cursor: str) -> _Heard:
    heard = _Heard()
    async with Memory.open(settings) as memory:
        for number in range(5):
            heard.stored.append((await memory.add(f"after the crash {number}")).id)
        query = FeedQuery(after=cursor)
        heard.told = [change async for change in memory.follow(query, wait=False)]
    return heard
