"""A memory under siege: writers that retry with keys, a reader of the feed, and kills at random."""

import contextlib
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

from tests.acceptance.server import ServerProcess, command, environment, patient_client
from tests.faults.listener import Listener
from tests.faults.postgres import kill_server

Victim = Literal["server", "worker", "postgres"]
VICTIMS: tuple[Victim, ...] = ("server", "worker", "postgres")
NAMESPACE = "siege"
KEEP_ALIVE_SECONDS = 1
# What an account must have none of.
MUST_BE_NONE = (
    *("lost", "lost_ids", "doubled", "pending", "embeddings_too_many"),
    *("feed_missing", "feed_doubled", "unexpected_answers"),
)
# Answers after which a writer tries again: not now, or not known.
_TRY_AGAIN = (503, 507)
# For each part of the end; what takes longer is told by the account.
_PATIENCE_SECONDS = 120


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
        self._variables |= {"MNEMO_FEED_KEEP_ALIVE_SECONDS": str(KEEP_ALIVE_SECONDS)}
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
        self.unexpected: Counter[str] = Counter()
        self._acknowledged_at: dict[str, float] = {}
        self.longest_gap_seconds = 0.0
        self.seconds_of_the_end: dict[str, float] = {}
        self.server = self._serve()
        self._worker = self._work()
        self._listener = Listener(lambda: self.server.url, namespace=NAMESPACE)

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
            kill_server(self._data_dir)
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

    # --- The crowd -------------------------------------------------------------------------------

    @contextmanager
    def crowd(self) -> Iterator[None]:
        """Writers and a listener while the block runs; it stays until it has heard of all."""
        writers = [threading.Thread(target=self._write) for _ in range(self._writers)]
        self._listener.start()
        for thread in writers:
            thread.start()
        try:
            yield
        except BaseException:
            self._failed.set()
            raise
        finally:
            self._ending.set()
            try:
                with self._phase("writers"):
                    self._see_off(writers)
                with self._phase("listener"):
                    self._wait_until_told()
            finally:
                self._listener.leave()

    def _see_off(self, writers: list[threading.Thread]) -> None:
        deadline = time.monotonic() + _PATIENCE_SECONDS
        for thread in writers:
            thread.join(max(0.0, deadline - time.monotonic()))
        if any(thread.is_alive() for thread in writers):
            self._failed.set()
            raise AssertionError("writes are not acknowledged any more")

    def _wait_until_told(self) -> None:
        """Only once no writer is left: what is under way may be told before it is acknowledged."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        told = self._listener.told
        while not self._failed.is_set() and not told.keys() >= self.acknowledged.keys():
            if time.monotonic() > deadline:
                return  # the account says what is missing
            time.sleep(0.05)
        time.sleep(KEEP_ALIVE_SECONDS)  # in which a second telling would come

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
                self._note(self.refused, type(error).__name__)
            else:
                if answer.status_code == httpx.codes.CREATED:
                    self._acknowledge(token, answer.json()["id"])
                    return
                expected = answer.status_code in _TRY_AGAIN
                self._note(self.refused if expected else self.unexpected, answer.json()["code"])
            time.sleep(0.05)

    def _note(self, reasons: Counter[str], reason: str) -> None:
        with self._lock:
            reasons[reason] += 1

    def _acknowledge(self, token: str, event_id: str) -> None:
        with self._lock:
            self.acknowledged[token] = event_id
            self._acknowledged_at[token] = time.time()

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
        told = self._listener.told
        return {
            "acknowledged": len(self.acknowledged),
            "lost": len(self.acknowledged.keys() - stored.keys()),
            "lost_ids": len(set(self.acknowledged.values()) - ids),
            "doubled": sum(count - 1 for count in stored.values()),
            "pending": stats["queue"]["pending"],
            "embeddings_too_many": stats["embeddings"] - len(stored),
            "feed_missing": len(stored.keys() - told.keys()),
            "feed_doubled": sum(count - 1 for count in told.values()),
            "feed_connections": self._listener.connections,
            "feed_refused": dict(self._listener.refused),
            "longest_wait_for_the_feed": self._longest_wait_for_the_feed(),
            "unexpected_answers": self.unexpected.total(),
            "longest_wait_for_an_answer_seconds": round(self.longest_gap_seconds, 1),
            "tried_again_after": dict(self.refused + self.unexpected),
            "seconds_of_the_end": self.seconds_of_the_end,
        }

    def _longest_wait_for_the_feed(self) -> dict[str, Any]:
        """Of an acknowledged event, and when it began: what was struck then is in the progress."""
        heard_at = self._listener.heard_at
        waits = (
            (heard_at[token] - at, at)
            for token, at in self._acknowledged_at.items()
            if token in heard_at
        )
        seconds, at = max(waits, default=(0.0, time.time()))
        return {"seconds": round(seconds, 1), "since": time.strftime("%X", time.localtime(at))}

    def _wait_until_embedded(self, client: httpx.Client) -> None:
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while time.monotonic() < deadline:
            with contextlib.suppress(httpx.TransportError):
                answer = client.get("/v1/stats")
                if answer.status_code == httpx.codes.OK and not answer.json()["queue"]["pending"]:
                    return
            time.sleep(0.1)

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
