"""Partitions turned on, divided and turned off under a load of writes and searches, in one run.

    python -m benchmarks.partitions --events 20000

A server is filled with events of two years, then written to 50 times and searched 10 times a second
while `mnemolite partitions enable --no-split`, `split` and `disable` run. Reported for each step:
its time, requests, failures, and the longest stall of a request; at the end, what was acknowledged
and is not there, and what is there twice. With --dsn the database exists already and is not filled;
--searched names the namespace that is asked there.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import psycopg
from tests.acceptance.load import NAMESPACE, facts, probes
from tests.acceptance.server import command, environment, running_server

from mnemolite.local_postgres import open_local_postgres
from mnemolite.memory import Memory
from mnemolite.models import NewEvent
from mnemolite.settings import Settings
from mnemolite.worker import running_worker

SPAN_DAYS = 730
BATCH = 1000


async def fill(dsn: str, count: int) -> None:
    """Events spread over two years, embedded by whatever model the environment names."""
    texts = facts(min(count, 60_000))
    begin = datetime.now(UTC) - timedelta(days=SPAN_DAYS)
    async with Memory.open(Settings.load(database={"url": dsn})) as memory:
        for start in range(0, count, BATCH):
            await memory.add_many(
                [
                    NewEvent(
                        content={"text": texts[number % len(texts)]},
                        namespace=NAMESPACE,
                        timestamp=begin + timedelta(days=SPAN_DAYS * number / count),
                    )
                    for number in range(start, min(start + BATCH, count))
                ]
            )
        async with running_worker(memory):
            while (await memory.queue_state()).due:
                await asyncio.sleep(1)
        await memory.settle()
        settings = memory.settings.worker
        if await memory.spaces.lacks_index(memory.space, settings.hnsw_min_rows):
            await memory.spaces.build_index(memory.space)


@dataclass
class Load:
    """Requests at a fixed rate, whatever the answers do, and an account of each."""

    url: str
    questions: list[str]
    searched: str
    stored: set[str] = field(default_factory=set)
    failures: list[str] = field(default_factory=list)
    spent: list[tuple[float, float]] = field(default_factory=list)  # when it began, seconds

    async def run(self, stop: asyncio.Event, *, writes: float, searches: float) -> None:
        limits = httpx.Limits(max_connections=400)
        async with httpx.AsyncClient(base_url=self.url, timeout=120, limits=limits) as client:
            await asyncio.gather(
                self._at_rate(stop, rate=writes, ask=lambda n: self._write(client, n)),
                self._at_rate(stop, rate=searches, ask=lambda n: self._search(client, n)),
            )

    async def _at_rate(self, stop: asyncio.Event, *, rate: float, ask: Any) -> None:
        tasks: set[asyncio.Task[None]] = set()
        begin, number = time.perf_counter(), 0
        while not stop.is_set():
            task = asyncio.create_task(ask(number))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            number += 1
            await asyncio.sleep(max(0.0, begin + number / rate - time.perf_counter()))
        await asyncio.gather(*tasks)

    async def _write(self, client: httpx.AsyncClient, number: int) -> None:
        event = {"namespace": NAMESPACE, "content": f"Reminder {number}: water the plants."}
        if answer := await self._ask(client, "/v1/events", body=event):
            self.stored.add(answer["id"])

    async def _search(self, client: httpx.AsyncClient, number: int) -> None:
        question = self.questions[number % len(self.questions)]
        query = {"q": question, "namespace": self.searched, "limit": 10}
        answer = await self._ask(client, "/v1/search", body=query)
        if answer and (answer["meta"]["degraded"] or not answer["data"]):
            self.failures.append(f"search: {answer['meta']['degraded'] or 'nothing found'}")

    async def _ask(self, client: httpx.AsyncClient, path: str, *, body: Any) -> Any:
        begin, started = time.time(), time.perf_counter()
        try:
            response = await client.post(path, json=body)
        except httpx.HTTPError as error:
            self.failures.append(f"{path}: {error!r}")
            return None
        finally:
            self.spent.append((begin, time.perf_counter() - started))
        if response.status_code not in (200, 201):
            self.failures.append(f"{path}: {response.status_code} {response.text}")
            return None
        return response.json()


def step(load: Load, folder: Path, *arguments: str, variables: dict[str, str]) -> None:
    """Run one command, and tell what the requests met meanwhile; without one, of some seconds."""
    failed, begin = len(load.failures), time.time()
    if arguments:
        done = subprocess.run(
            command("partitions", *arguments, "--json"),
            env=environment(**variables),
            cwd=folder,
            text=True,
            capture_output=True,
            check=False,
        )
        if done.returncode:
            sys.exit(done.stderr)
        figures = json.loads(done.stdout)
    else:
        time.sleep(20)
        figures = {"operation": "none"}
    end = time.time()
    asked = sorted(seconds for at, seconds in load.spent if begin <= at < end)
    figures |= {
        "wall_seconds": round(end - begin, 1),
        "requests": len(asked),
        "failed": len(load.failures) - failed,
        "median_ms": round(1000 * asked[len(asked) // 2], 1) if asked else None,
        "longest_ms": round(1000 * asked[-1]) if asked else None,
    }
    print(json.dumps(figures), flush=True)


def account(dsn: str, load: Load, *, before: int) -> dict[str, Any]:
    """What was acknowledged held against what is stored."""
    with psycopg.connect(dsn) as connection:
        ids = [str(row[0]) for row in connection.execute("SELECT id FROM events")]
        added = connection.execute(
            "SELECT count(*), count(DISTINCT event_id) FROM event_changes WHERE kind = 'added'"
        ).fetchone()
        space = connection.execute("SELECT id FROM embedding_spaces").fetchone()
        query = (
            f"SELECT count(*), count(DISTINCT v.event_id) FROM embeddings_{space and space[0]} v "
            "JOIN events e ON e.id = v.event_id WHERE v.passage = 0"
        )
        vectors = connection.execute(query.encode()).fetchone()
    return {
        "acknowledged": len(load.stored),
        "lost": len(load.stored - set(ids)) + max(0, before - (len(ids) - len(load.stored))),
        "doubled": len(ids) - len(set(ids)),
        "stored": len(ids),
        "told of": added,
        "embedded": vectors,
        "failed requests": len(load.failures),
    }


async def measure(dsn: str, folder: Path, *, options: Any) -> None:
    with psycopg.connect(dsn) as connection:
        row = connection.execute("SELECT count(*) FROM events").fetchone()
    before = int(row[0]) if row else 0
    model = {name: v for name, v in os.environ.items() if name.startswith("EMBEDDING_")}
    variables = {"DATABASE_URL": dsn, "COLUMNS": "200", **model}
    questions = [probe.question for probe in probes(facts(1000), 100)]
    with running_server(folder, variables=variables) as server:
        load, stop = Load(server.url, questions, options.searched), asyncio.Event()
        running = asyncio.create_task(
            load.run(stop, writes=options.writes, searches=options.searches)
        )
        enable = ("enable", "--no-split", "--embeddings-interval", options.embeddings_interval)
        for arguments in ((), enable, ("split",), (), ("disable",), ()):
            await asyncio.to_thread(step, load, folder, *arguments, variables=variables)
        stop.set()
        await running
        async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
            while (await client.get("/v1/stats")).json()["queue"]["pending"]:
                await asyncio.sleep(1)
    print(json.dumps(account(dsn, load, before=before)))
    for failure in load.failures[:10]:
        print(failure, file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=20_000)
    parser.add_argument("--writes", type=float, default=50, help="a second")
    parser.add_argument("--searches", type=float, default=10, help="a second")
    parser.add_argument("--dsn", help="a database that is filled already")
    parser.add_argument("--searched", default=NAMESPACE, help="namespace of the questions")
    parser.add_argument("--embeddings-interval", default="year", help="as of the command")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.dsn:
            asyncio.run(measure(options.dsn, folder, options=options))
            return
        with open_local_postgres(folder / "data", database="bench") as postgres:
            started = time.time()
            asyncio.run(fill(postgres.dsn(), options.events))
            print(f"filled in {time.time() - started:.0f} s", file=sys.stderr)
            asyncio.run(measure(postgres.dsn(), folder, options=options))


if __name__ == "__main__":
    main()
