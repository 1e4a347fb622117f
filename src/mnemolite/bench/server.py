"""A server process for a benchmark, on a free port, and clients that ask it over HTTP."""

import http.client
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import IO, Any
from urllib.parse import urlencode, urlsplit

from prometheus_client.parser import text_string_to_metric_families

from mnemolite.errors import MnemoliteError
from mnemolite.settings import Settings

_START_SECONDS = 300
_STOP_SECONDS = 30
_ANSWER_SECONDS = 120
_POLL_SECONDS = 0.05
_OK = 200

Parameters = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Answers:
    """What the clients saw, and where the time went inside the server."""

    milliseconds: Sequence[float]  # of each request
    seconds: float  # from the first request to the last answer
    parts: Mapping[str, float]  # mean milliseconds of a search, by what it waited for
    meta: Mapping[str, Any]  # of one of the answers


class Server:
    """A running server, known by its address."""

    def __init__(self, url: str) -> None:
        self._place = urlsplit(url).netloc

    def search(self, asked: Sequence[Parameters], *, clients: int) -> Answers:
        """Send the searches over as many kept connections, each the next one that is not sent."""
        unsent = iter([f"/v1/search?{urlencode(parameters)}" for parameters in asked])
        before = self._waited()
        started = time.perf_counter()
        try:
            with ThreadPoolExecutor(clients) as pool:
                outcomes = list(pool.map(self._ask_the_next, [unsent] * clients))
        except (OSError, http.client.HTTPException) as error:
            raise MnemoliteError(f"The server is gone: {error}.") from error
        seconds = time.perf_counter() - started
        parts = {
            part: (waited - before.get(part, 0.0)) * 1000 / len(asked)
            for part, waited in self._waited().items()
        }
        milliseconds = [one for of_client, _ in outcomes for one in of_client]
        last = next(body for _, body in outcomes if body)
        return Answers(milliseconds, seconds, parts, json.loads(last)["meta"])

    def _ask_the_next(self, unsent: Iterator[str]) -> tuple[list[float], bytes]:
        """One client: the milliseconds of each of its requests, and its last answer."""
        milliseconds, body = [], b""
        with closing(http.client.HTTPConnection(self._place, timeout=_ANSWER_SECONDS)) as kept:
            for target in unsent:
                started = time.perf_counter()
                body = _get(kept, target)
                milliseconds.append((time.perf_counter() - started) * 1000)
        return milliseconds, body

    def _waited(self) -> dict[str, float]:
        """The seconds that searches have waited so far, by part, as the server counts them."""
        with closing(http.client.HTTPConnection(self._place, timeout=_ANSWER_SECONDS)) as opened:
            text = _get(opened, "/metrics").decode()
        return {
            sample.labels["part"]: sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == "mnemolite_search_part_seconds_sum"
        }


@contextmanager
def running_server(settings: Settings, *, cache_bytes: int) -> Iterator[Server]:
    """`mnemolite serve` on the database of these settings, without a worker beside it."""
    database = settings.database
    variables = {
        "DATABASE_URL": database.url or "",
        "MNEMO_DATA_DIR": str(database.data_dir or ""),
        "MNEMO_DATABASE": database.name,
        "MNEMO_API_KEY": "",
        "MNEMO_WORKER_IN_SERVER": "false",
        "MNEMO_LOG_FORMAT": "json",
        "MNEMO_LOG_LEVEL": "info",
        "EMBEDDING_CACHE_SIZE": str(cache_bytes),
        "MNEMO_REDIS_URL": "",
    }
    arguments = ["serve", "--host", "127.0.0.1", "--port", "0"]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "mnemolite.cli", *arguments],
            # Handed on, not read: all other settings are those of this process.
            env=os.environ | variables,
            stdout=subprocess.DEVNULL,
            stderr=log,
        )
        try:
            yield Server(_wait_ready(process, log))
        finally:
            process.terminate()
            process.wait(_STOP_SECONDS)


def _wait_ready(process: "subprocess.Popen[bytes]", log: IO[bytes]) -> str:
    """The address that the server says in its log when it is ready."""
    deadline = time.monotonic() + _START_SECONDS
    written = ""
    while time.monotonic() < deadline:
        # Read by place: the server writes through the same description.
        written = os.pread(log.fileno(), 1 << 20, 0).decode(errors="replace")
        for line in written.splitlines():
            if '"event": "ready"' in line or '"event":"ready"' in line:
                return str(json.loads(line)["url"])
        if process.poll() is not None:
            break
        time.sleep(_POLL_SECONDS)
    raise MnemoliteError(f"The server did not start: {written.strip()[-1000:]}")


def _get(connection: http.client.HTTPConnection, target: str) -> bytes:
    connection.request("GET", target)
    answer = connection.getresponse()
    body = answer.read()
    if answer.status != _OK:
        raise MnemoliteError(f"{answer.status} {body.decode(errors='replace')[:300]}")
    return body
