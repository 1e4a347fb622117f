"""A memory under siege: writers that retry with keys, a reader of the feed, and kills at random."""

import contextlib
import json
import random
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

import httpx
import psutil

from tests.acceptance.server import ServerProcess, command, environment, patient_client

Victim = Literal["server", "worker", "postgres"]
VICTIMS: tuple[Victim, ...] = ("server", "worker", "postgres")
NAMESPACE = "siege"
# Answers after which a writer tries again: not now, or not known.
_TRY_AGAIN = (503, 507)


class Siege:
    """A server, a worker and a private PostgreSQL of their own, and the crowd that uses them."""

    def __init__(
        self,
        folder: Path,
        *,
        seed: int,
        writers: int,
        pause_seconds: float,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._folder = folder
        self._say = say
        self._data_dir = folder / "data"
        self._variables = {"MNEMO_WORKER_IN_SERVER": "false", "MNEMO_WORKER_LEASE_SECONDS": "5"}
        self._variables |= {"MNEMO_DATA_DIR": str(self._data_dir)}
        self._random = random.Random(seed)
        self._writers = writers
        self._pause_seconds = pause_seconds
        self._lock = threading.Lock()
        self._client = patient_client()
        self._ending = threading.Event()
        self._failed = threading.Event()
        self.acknowledged: dict[str, str] = {}  # id by the writer's own token
        self.refused: Counter[str] = Counter()
        self.told: Counter[str] = Counter()  # tokens that the feed told of
        self.connections = 0  # of the reader
        self.longest_gap_seconds = 0.0
        self.seconds_of_the_end: dict[str, float] = {}
        self.server = self._serve()
        self._worker = self._work()

    # --- The processes ---------------------------------------------------------------------------

    def strike(self) -> Victim:
        """Kill one of the three at random and, unless it comes back by itself, start it again."""
        victim = self._random.choice(VICTIMS)
        if victim == "server":
            self.server.kill()
            self.server = self._serve()
        elif victim == "worker":
            self._worker.kill()
            self._worker.wait()
            self._worker = self._work()
        else:
            for process in self._postgres():
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
        return victim

    def wait_for_writes(self, count: int, *, within_seconds: float = 120) -> None:
        """Return once so many more events are acknowledged, and a random moment later."""
        wanted, deadline = len(self.acknowledged) + count, time.monotonic() + within_seconds
        while len(self.acknowledged) < wanted:
            assert time.monotonic() < deadline, "no writes are acknowledged any more"
            time.sleep(0.01)
        time.sleep(self._random.uniform(0, 0.3))

    def _serve(self) -> ServerProcess:
        return ServerProcess(self._folder / "serve.log", variables=self._variables)

    def _work(self) -> "subprocess.Popen[bytes]":
        with (self._folder / "worker.log").open("ab") as log:
            variables = environment(**self._variables)
            return subprocess.Popen(command("worker"), env=variables, stdout=log, stderr=log)

    def _postgres(self) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter(["name"]):
            with contextlib.suppress(psutil.Error):
                inside = Path(process.cwd()).is_relative_to(self._data_dir)
                if process.info["name"] == "postgres" and inside:
                    found.append(process)
        return found

    # --- The crowd -------------------------------------------------------------------------------

    @contextmanager
    def crowd(self) -> Iterator[None]:
        """Writers and a reader while the block runs; the reader stays until it has heard of all."""
        writers = [threading.Thread(target=self._write) for _ in range(self._writers)]
        reader = threading.Thread(target=self._read, daemon=True)
        for thread in (reader, *writers):
            thread.start()
        try:
            yield
        except BaseException:
            self._failed.set()
            raise
        finally:
            self._ending.set()
            with self._phase("writers"):
                for thread in writers:
                    thread.join()
            with self._phase("reader"):
                reader.join(timeout=120)

    @contextmanager
    def _phase(self, name: str) -> Iterator[None]:
        """A part of the end, whose time is told: a run that takes long explains itself."""
        started = time.monotonic()
        self._say(f"waiting for: {name}")
        try:
            yield
        finally:
            self.seconds_of_the_end[name] = round(time.monotonic() - started, 1)

    def _write(self) -> None:
        while not self._ending.is_set():
            started = time.monotonic()
            self._write_one(uuid4().hex)
            with self._lock:
                gap = time.monotonic() - started
                self.longest_gap_seconds = max(self.longest_gap_seconds, gap)
            time.sleep(self._pause_seconds)

    def _write_one(self, token: str) -> None:
        """Post one event until it is acknowledged, always with the same key."""
        event = {"namespace": NAMESPACE, "content": {"text": f"they came at {token}"}}
        event["metadata"] = {"token": token}
        headers = {"Idempotency-Key": token}
        while not self._failed.is_set():
            try:
                url = f"{self.server.url}/v1/events"
                answer = self._client.post(url, json=event, headers=headers)
            except httpx.TransportError as error:
                answer = None
                reason = type(error).__name__
            if answer is not None and answer.status_code == 201:
                with self._lock:
                    self.acknowledged[token] = answer.json()["id"]
                return
            if answer is not None:
                assert answer.status_code in _TRY_AGAIN, answer.text
                reason = answer.json()["code"]
            with self._lock:
                self.refused[reason] += 1
            time.sleep(0.05)

    def _read(self) -> None:
        """Follow the feed, and go on after the last message wherever it breaks off."""
        cursor = "start"
        while not self._has_heard_all():
            with contextlib.suppress(httpx.TransportError):
                cursor = self._read_until_it_breaks(cursor)
            time.sleep(0.05)

    def _read_until_it_breaks(self, cursor: str) -> str:
        url = f"{self.server.url}/v1/events/stream"
        options: dict[str, Any] = {
            "params": {"namespace": NAMESPACE, "after": cursor},
            "timeout": 20,
        }
        with self._client.stream("GET", url, **options) as stream:
            self.connections += stream.status_code == httpx.codes.OK
            message: dict[str, str] = {}
            with contextlib.suppress(httpx.TransportError):
                for line in stream.iter_lines():
                    name, _, value = line.partition(": ")
                    if line:
                        message[name] = value
                        continue
                    cursor = self._hear(message, cursor)
                    message = {}
                    if self._has_heard_all():
                        break
        return cursor

    def _has_heard_all(self) -> bool:
        heard = self._ending.is_set() and self.told.keys() >= self.acknowledged.keys()
        return heard or self._failed.is_set()

    def _hear(self, message: dict[str, str], cursor: str) -> str:
        """Count a message and keep its cursor, both or neither."""
        if message.get("event") == "added":
            self.told[json.loads(message["data"])["metadata"]["token"]] += 1
        return message.get("id", cursor)

    # --- The account -----------------------------------------------------------------------------

    def account(self) -> dict[str, Any]:
        """What became of every acknowledged event, once nothing waits any more."""
        with self.server.client() as client:
            with self._phase("embedding"):
                self._wait_until_embedded(client)
            with self._phase("listing"):
                events = list(self._stored(client))
            stored = Counter(event["metadata"]["token"] for event in events)
            ids = {event["id"] for event in events}
            stats = client.get("/v1/stats").json()
        return {
            "acknowledged": len(self.acknowledged),
            "lost": len(self.acknowledged.keys() - stored.keys()),
            "lost_ids": len(set(self.acknowledged.values()) - ids),
            "doubled": sum(count - 1 for count in stored.values()),
            "pending": stats["queue"]["pending"],
            "embeddings_too_many": stats["embeddings"] - len(stored),
            "feed_missing": len(stored.keys() - self.told.keys()),
            "feed_doubled": sum(count - 1 for count in self.told.values()),
            "feed_connections": self.connections,
            "longest_wait_for_an_answer_seconds": round(self.longest_gap_seconds, 1),
            "tried_again_after": dict(self.refused),
            "seconds_of_the_end": self.seconds_of_the_end,
        }

    def _wait_until_embedded(self, client: httpx.Client) -> None:
        for _ in range(1200):
            with contextlib.suppress(httpx.TransportError):
                answer = client.get("/v1/stats")
                if answer.status_code == httpx.codes.OK and not answer.json()["queue"]["pending"]:
                    return
            time.sleep(0.1)
        raise AssertionError("events stay pending")

    def _stored(self, client: httpx.Client) -> Iterator[dict[str, Any]]:
        query: dict[str, Any] = {"namespace": NAMESPACE, "limit": 1000}
        while True:
            page = client.get("/v1/events", params=query).json()
            yield from page["data"]
            if page["meta"]["next_cursor"] is None:
                return
            query["cursor"] = page["meta"]["next_cursor"]

    def close(self) -> None:
        """End the worker, then the server and its PostgreSQL."""
        self._client.close()
        self._worker.terminate()
        self._worker.wait(timeout=60)
        if self.server.process.poll() is None:
            self.server.stop()
