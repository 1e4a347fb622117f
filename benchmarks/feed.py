"""The change feed: every change once, across leaps, slow transactions and kills; and what it costs.

    python -m benchmarks.feed [--writes 10000] [--leaps 100] [--kills 5]

A server of its own (`mnemolite serve`, mock embeddings, private PostgreSQL) takes events from eight
clients, beside plain SQL whose transactions stay open for a moment. One reader follows the
stream and comes back 100 times with its last id; the server is killed with `kill -9` meanwhile.
Then the same rows are inserted with and without the triggers that tell of them.
"""

import argparse
import contextlib
import statistics
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import psycopg
from httpx_sse import connect_sse
from tests.acceptance.server import ServerProcess

CLIENTS = 8
SLOW = 200  # each of so many events is written by a slow transaction
SLOW_SECONDS = 0.5
INSERT = """
    INSERT INTO events (id, namespace, session, timestamp, content, metadata, language, text)
    SELECT event_id(now()), 'cost', 's', now(), jsonb_build_object('text', t.text), '{}',
        'mnemo_english', t.text
    FROM (SELECT repeat('the ferry to Naxos leaves at seven ', 4) || g AS text
        FROM generate_series(1, %s) g) AS t"""


class Scene:
    """What the writers have stored and the reader has heard."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._variables = {"EMBEDDING_MODE": "mock"}
        self.dsn = f"host={folder / 'data' / 'run'} port=5432 user=mnemolite dbname=mnemolite"
        self.start()
        self.heard: list[str] = []
        self.delays: list[float] = []
        self.connections = 0

    def start(self) -> None:
        arguments = ("--data-dir", str(self._folder / "data"))
        log = self._folder / "serve.log"
        self.server = ServerProcess(log, *arguments, variables=self._variables)

    def write(self, numbers: range) -> None:
        with httpx.Client(timeout=30) as client:
            for number in numbers:
                while not self._stored(number, client):
                    time.sleep(0.02)

    def _stored(self, number: int, client: httpx.Client) -> bool:
        if number % SLOW == 0:
            with psycopg.connect(self.dsn) as connection:
                connection.execute(
                    "INSERT INTO events (content) VALUES (jsonb_build_object('text', %s::text))",
                    [str(number)],
                )
                time.sleep(SLOW_SECONDS)
            return True
        event = {
            "id": f"00000000-0000-4000-8000-{number:012d}",
            "content": str(number),
            "timestamp": "2024-01-01T00:00:00Z",
            "metadata": {"sent": time.time()},
        }
        with contextlib.suppress(httpx.TransportError):
            answer = client.post(f"{self.server.url}/v1/events", json=event)
            return answer.status_code in (200, 201)
        return False

    def read(self, writes: int, leaps: int) -> None:
        cursor = ""
        while len(self.heard) < writes:
            headers = {"Last-Event-ID": cursor} if cursor else {}
            url = f"{self.server.url}/v1/events/stream?after=start&kinds=added"
            with (
                contextlib.suppress(httpx.TransportError),
                httpx.Client(timeout=30) as client,
                connect_sse(client, "GET", url, headers=headers) as stream,
            ):
                if stream.response.status_code != 200:
                    continue
                self.connections += 1
                for message in stream.iter_sse():
                    cursor = message.id
                    if message.event == "added" and self._hear(message.json(), writes // leaps):
                        break
            time.sleep(0.01)

    def _hear(self, event: dict[str, Any], leap: int) -> bool:
        """Whether it is time to leave."""
        self.heard.append(event["text"])
        if "sent" in event["metadata"]:
            self.delays.append(time.time() - event["metadata"]["sent"])
        return len(self.heard) % leap == 0


def follow(scene: Scene, *, writes: int, leaps: int, kills: int) -> None:
    reader = threading.Thread(target=scene.read, args=(writes, leaps))
    parts = [range(part, writes, CLIENTS) for part in range(CLIENTS)]
    writers = [threading.Thread(target=scene.write, args=(part,)) for part in parts]
    started = time.perf_counter()
    for thread in (reader, *writers):
        thread.start()
    for kill in range(1, kills + 1):
        while len(scene.heard) < writes * kill // (kills + 1):
            time.sleep(0.01)
        scene.server.kill()
        scene.start()
    for thread in (*writers, reader):
        thread.join()
    print(
        f"{writes} writes in {time.perf_counter() - started:.0f} s, {kills} kills; heard "
        f"{len(scene.heard)}, distinct {len(set(scene.heard))}, connections {scene.connections}"
    )
    delays = sorted(scene.delays)
    print(
        f"from the client's request to the reader, slow transactions ahead included: "
        f"median {statistics.median(delays) * 1e3:.0f} ms, "
        f"p99 {delays[len(delays) * 99 // 100] * 1e3:.0f} ms"
    )
    assert sorted(map(int, scene.heard)) == list(range(writes))


def cost(dsn: str, *, rounds: int = 12) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("DELETE FROM embedding_spaces")  # their queue is not what is measured
        connection.execute("INSERT INTO namespaces (name) VALUES ('cost') ON CONFLICT DO NOTHING")
        for rows, times in ((1, 300), (100, 10), (1000, 2)):
            seconds: dict[bool, list[float]] = {True: [], False: []}
            for number in range(rounds * 2):
                tells = number % 4 in (0, 3)
                switch = "ENABLE" if tells else "DISABLE"
                connection.execute(
                    f"ALTER TABLE events {switch} TRIGGER events_tell_added".encode()
                )
                started = time.perf_counter()
                for _ in range(times):
                    connection.execute(INSERT, [rows])
                seconds[tells].append(time.perf_counter() - started)
            with_, without = statistics.median(seconds[True]), statistics.median(seconds[False])
            print(f"insert of {rows}: {with_ / without:.3f} of the time without the feed")
        connection.execute("ALTER TABLE events ENABLE TRIGGER events_tell_added")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--writes", type=int, default=10_000)
    parser.add_argument("--leaps", type=int, default=100)
    parser.add_argument("--kills", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        scene = Scene(Path(folder))
        try:
            follow(scene, writes=options.writes, leaps=options.leaps, kills=options.kills)
            cost(scene.dsn)
        finally:
            scene.server.stop()


if __name__ == "__main__":
    main()
