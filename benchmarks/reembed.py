"""A change of the model and back, under a load of writes and searches, in one run.

    python -m benchmarks.reembed --events 20000

A server with the packaged model is filled, then written to and searched without a pause while
`mnemolite reembed` fills a space for a second model (the packaged one, projected to 256
dimensions), switches to it, and rolls back. Reported for each phase: searches, failures, latency,
recall, spaces that answered; at the end, what is missing, and hits whose distance is not that of
the space named in the answer.
"""

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.acceptance.load import NAMESPACE, Load, facts, missing, probes, recall, strangers
from tests.acceptance.server import command, environment, running_server
from tests.acceptance.test_reembed import question_vectors
from tests.other_model import build_projected_model

from mnemolite.local_postgres import open_local_postgres
from mnemolite.memory import Memory
from mnemolite.models import NewEvent
from mnemolite.settings import DatabaseSettings, Settings
from mnemolite.worker import running_worker


async def fill(dsn: str, texts: list[str]) -> None:
    settings = Settings(database=DatabaseSettings(url=dsn))
    async with Memory.open(settings) as memory, running_worker(memory):
        for start in range(0, len(texts), 1000):
            await memory.add_many(
                [
                    NewEvent(content={"text": text}, namespace=NAMESPACE)
                    for text in texts[start : start + 1000]
                ]
            )
        while (await memory.queue_state()).due:
            await asyncio.sleep(1)
        await memory.settle()
        while await memory.spaces.lacks_index(memory.space, settings.worker.hnsw_min_rows):
            await asyncio.sleep(1)


def report(name: str, load: Load, *, since: float, until: float) -> dict[str, Any]:
    answers = load.between(since, until)
    figures = {
        "phase": name,
        "seconds": round(until - since, 1),
        "searches": len(answers),
        "spaces": sorted({answer.space for answer in answers}),
        "questions": len({answer.probe for answer in answers}),
        "recall": round(recall(answers), 3),
        "p50_ms": round(1000 * statistics.median(answer.seconds for answer in answers)),
        "worst_ms": round(1000 * max(answer.seconds for answer in answers)),
    }
    print(json.dumps(figures), flush=True)
    return figures


class Run:
    """One change and its way back."""

    def __init__(self, dsn: str, folder: Path, *, load: Load) -> None:
        self._variables = {"DATABASE_URL": dsn, "COLUMNS": "200"}
        self._folder = folder
        self._load = load

    def phase(self, name: str, *arguments: str, pause: float = 0.0) -> None:
        started = time.time()
        if arguments:
            done = subprocess.run(
                command("reembed", *arguments),
                env=environment(**self._variables),
                cwd=self._folder,
                text=True,
                capture_output=True,
                check=False,
            )
            print(done.stdout.strip(), file=sys.stderr)
            if done.returncode:
                sys.exit(done.stderr)
        time.sleep(pause)
        report(name, self._load, since=started, until=time.time())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=20_000)
    parser.add_argument("--probes", type=int, default=60)
    parser.add_argument("--pause", type=float, default=20.0, help="seconds between the commands")
    options = parser.parse_args()
    texts = facts(options.events)
    asked = probes(texts, options.probes)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        build_projected_model(folder / "projected")
        with open_local_postgres(folder / "data", database="bench") as postgres:
            measure(postgres.dsn(), folder, texts=texts, load=Load("", asked), options=options)


def measure(dsn: str, folder: Path, *, texts: list[str], load: Load, options: Any) -> None:
    started = time.time()
    asyncio.run(fill(dsn, texts))
    print(f"filled in {time.time() - started:.0f} s", file=sys.stderr)
    with running_server(folder, variables={"DATABASE_URL": dsn}) as server:
        load.url = server.url
        steps = Run(dsn, folder, load=load)
        with load.running(writers=2, searchers=2):
            steps.phase("before", pause=options.pause)
            steps.phase("start", "start", "--model", str(folder / "projected"))
            steps.phase("verify", "verify")
            steps.phase("switch", "switch")
            steps.phase("after the switch", pause=options.pause)
            steps.phase("rollback", "rollback")
            steps.phase("after the rollback", pause=options.pause)
        with server.client() as client:
            while any(s["progress"]["pending"] for s in client.get("/v1/spaces").json()["data"]):
                time.sleep(1)
    by_space = {s: [a for a in load.answers if a.space == s] for s in (1, 2)}
    vectors = question_vectors(load.probes, folder / "projected")
    print(
        json.dumps(
            {
                "stored under load": len(load.stored),
                "searches": len(load.answers),
                "failed requests": len(load.failures),
                "missing from space 1": missing(dsn, 1),
                "missing from space 2": missing(dsn, 2),
                "recall by space": {s: round(recall(a), 3) for s, a in by_space.items()},
                "hits of another space": strangers(dsn, load.answers, vectors),
            }
        )
    )
    for failure in load.failures[:10]:
        print(failure, file=sys.stderr)


if __name__ == "__main__":
    main()
