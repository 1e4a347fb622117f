"""A client of the change feed that goes on after the last message wherever it breaks off."""

import contextlib
import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import httpx

from tests.acceptance.server import patient_client

_PAUSE_SECONDS = 0.05
# Far longer than between two keep-alives.
_SILENCE_SECONDS = 20


class Listener:
    """Counts by their token the events that the feed tells of, in a thread of its own.

    It leaves when it is told to, at the next line of the stream: the server's keep-alives bound how
    long that takes, not the messages, of which no further one need come.
    """

    def __init__(self, address: Callable[[], str], *, namespace: str) -> None:
        self._address = address
        self._namespace = namespace
        self._cursor = "start"
        self._leaving = threading.Event()
        self._thread = threading.Thread(target=self._listen)
        self.told: Counter[str] = Counter()
        self.heard_at: dict[str, float] = {}
        self.connections = 0
        self.refused: Counter[str] = Counter()

    def start(self) -> None:
        self._thread.start()

    def leave(self) -> None:
        self._leaving.set()
        self._thread.join()

    def _listen(self) -> None:
        with patient_client() as client:
            while not self._leaving.is_set():
                with contextlib.suppress(httpx.TransportError):
                    self._follow(client)
                self._leaving.wait(_PAUSE_SECONDS)

    def _follow(self, client: httpx.Client) -> None:
        query = {"namespace": self._namespace, "after": self._cursor}
        url = f"{self._address()}/v1/events/stream"
        with client.stream("GET", url, params=query, timeout=_SILENCE_SECONDS) as stream:
            if stream.status_code != httpx.codes.OK:
                self.refused[json.loads(stream.read())["code"]] += 1
                return
            self.connections += 1
            self._hear_all(stream)

    def _hear_all(self, stream: httpx.Response) -> None:
        message: dict[str, str] = {}
        for line in stream.iter_lines():
            if self._leaving.is_set():
                return
            name, _, value = line.partition(": ")
            if line:
                message[name] = value
                continue
            self._hear(message)
            message = {}

    def _hear(self, message: dict[str, str]) -> None:
        """Count a message and keep its cursor, both or neither."""
        data: dict[str, Any] = json.loads(message["data"])
        if message["event"] == "error":
            self.refused[data["code"]] += 1
        if message["event"] == "added":
            token = data["metadata"]["token"]
            self.told[token] += 1
            self.heard_at.setdefault(token, time.time())
        self._cursor = message.get("id", self._cursor)
