"""How fast events come in, by every way, on real texts and in one run; and out and in again.

    python -m benchmarks.ingest ../shared/data/scale_topicalchat.texts.jsonl.gz [--round-trip]

The yardstick is a raw COPY of the same rows into the same table, with its triggers and indexes,
text and language given. It runs before and after the import, each into an empty table. Nothing is
embedded until the last part. The private PostgreSQL is as it is shipped: commits reach the disk.
"""

import argparse
import asyncio
import gzip
import io
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
from psycopg import AsyncConnection

from mnemolite.embeddings import create_embedder
from mnemolite.embeddings.templates import recall_text
from mnemolite.ids import new_event_id
from mnemolite.import_export import import_events, open_lines, write_export
from mnemolite.memory import Memory
from mnemolite.models import ExportQuery
from mnemolite.settings import DatabaseSettings, EmbeddingSettings, Settings
from mnemolite.worker import Worker

CLIENTS = 16
HTTP_EVENTS = 3000
ROUND_TRIP = 10_000
_EVENTS = (
    "SELECT md5(string_agg(concat_ws('|', id, namespace, session, timestamp, created_at, content, "
    "metadata, text, language, lexemes), '' ORDER BY id)) FROM events"
)
_VECTORS = (
    "SELECT md5(string_agg(concat_ws('|', event_id, passage, char_start, char_end, embedding), '' "
    "ORDER BY event_id, passage)) FROM embeddings_1"
)


@dataclass(frozen=True)
class Turn:
    """A real text with its place and time."""

    namespace: str
    session: str
    timestamp: datetime
    speaker: str
    text: str
    number: int

    @property
    def row(self) -> dict[str, Any]:
        """As a line of a file, and as the body of a request."""
        return {
            "namespace": self.namespace,
            "session": self.session,
            "timestamp": self.timestamp.isoformat(),
            "content": {"speaker": self.speaker, "text": self.text},
            "metadata": {"number": self.number},
        }


def read_turns(path: Path, count: int) -> list[Turn]:
    """The first texts of a file of chats, a minute apart."""
    turns: list[Turn] = []
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            stamp = datetime(2024, 1, 1, tzinfo=UTC) + timedelta(minutes=len(turns))
            speaker = row.get("speaker") or "somebody"
            place = row.get("conv") or row.get("session") or "1"
            number = len(turns)
            turns.append(Turn("chat", str(place), stamp, speaker, row["text"], number))
            if len(turns) == count:
                return turns
    return turns


def told(name: str, events: int, *, seconds: float, yardstick: float | None = None) -> float:
    """Print a rate, and its share of the yardstick; the rate."""
    rate = events / seconds
    share = f"{rate / yardstick:7.0%} of raw COPY" if yardstick else ""
    print(f"{name:44} {rate:8.0f} events/s {share}", flush=True)
    return rate


@asynccontextmanager
async def opened(folder: Path, *, name: str = "mnemolite") -> AsyncIterator[Memory]:
    """A memory with mock vectors in a database of that name."""
    database = DatabaseSettings(url=None, data_dir=folder, name=name)
    embedding = EmbeddingSettings(mode="mock", dimension=384)
    async with Memory.open(
        Settings(database=database, embedding=embedding), with_reranker=False
    ) as memory:
        yield memory


async def empty(memory: Memory) -> None:
    """Take everything out of the tables that grow."""
    async with memory.database.own_connection() as connection:
        await connection.execute("TRUNCATE events, embedding_queue, lexicon_queue")


async def raw_copy(memory: Memory, turns: list[Turn]) -> float:
    """Seconds of a COPY of ready rows into the table."""
    rows = [
        (
            *(new_event_id(turn.timestamp), turn.namespace, turn.session, turn.timestamp),
            *(json.dumps(turn.row["content"]), json.dumps(turn.row["metadata"])),
            *("mnemo_english", turn.text),
        )
        for turn in turns
    ]
    await memory.events.add_namespaces(["chat"])
    async with memory.database.own_connection() as connection:
        started = time.perf_counter()
        await _copy(connection, rows)
        seconds = time.perf_counter() - started
    await empty(memory)
    return seconds


async def _copy(connection: AsyncConnection[Any], rows: list[tuple[Any, ...]]) -> None:
    statement = (
        "COPY events (id, namespace, session, timestamp, content, metadata, language, text) "
        "FROM STDIN"
    )
    async with connection.transaction(), connection.cursor().copy(statement) as copy:
        for row in rows:
            await copy.write_row(row)


async def file_import(memory: Memory, data: bytes) -> float:
    """Seconds of an import without embedding."""
    started = time.perf_counter()
    await import_events(memory, io.BytesIO(data))
    return time.perf_counter() - started


async def compare_imports(folder: Path, turns: list[Turn]) -> float:
    """Raw COPY against the import, in turns; the rate of the raw COPY."""
    data = b"".join(json.dumps(turn.row).encode() + b"\n" for turn in turns)
    raw, imported = [], []
    async with opened(folder) as memory:
        for _ in range(2):
            raw.append(await raw_copy(memory, turns))
            imported.append(await file_import(memory, data))
            again = await file_import(memory, data)
            await empty(memory)
        raw.append(await raw_copy(memory, turns))
    rate = told("raw COPY", len(turns) * len(raw), seconds=sum(raw))
    told("import", len(turns) * 2, seconds=sum(imported), yardstick=rate)
    told("import of what is there already", len(turns), seconds=again, yardstick=rate)
    return rate


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """The address of a server without a worker."""
    variables = {
        "MNEMO_DATA_DIR": str(folder),
        "EMBEDDING_MODE": "mock",
        "EMBEDDING_DIMENSION": "384",
        "MNEMO_WORKER_IN_SERVER": "false",
        "MNEMO_LOG_LEVEL": "info",
    }
    command = [sys.executable, "-m", "mnemolite.cli", "serve", "--port", "0"]
    log = folder.parent / "serve.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env=os.environ | variables, stdout=output, stderr=output
        )
    try:
        while not (found := re.search(r"url=(\S+)", log.read_text())):
            if process.poll() is not None:
                sys.exit(log.read_text())
            time.sleep(0.1)
        yield found[1]
    finally:
        process.terminate()
        process.wait()


async def over_http(url: str, turns: list[Turn], *, yardstick: float) -> None:
    """A stream, batches of a hundred, and single events of sixteen clients."""
    rows = [turn.row for turn in turns]
    async with httpx.AsyncClient(base_url=url, timeout=120) as client:
        lines = "".join(json.dumps(row) + "\n" for row in rows[: 2 * HTTP_EVENTS])
        headers = {"Content-Type": "application/x-ndjson"}
        started = time.perf_counter()
        answer = await client.post("/v1/events/import", content=lines, headers=headers)
        stored = answer.raise_for_status().json()["stored"]
        seconds = time.perf_counter() - started
        told("POST /v1/events/import", stored, seconds=seconds, yardstick=yardstick)
        chosen = rows[-HTTP_EVENTS:]
        started = time.perf_counter()
        for start in range(0, len(chosen), 100):
            batch = chosen[start : start + 100]
            (await client.post("/v1/events/batch", json=batch)).raise_for_status()
        seconds = time.perf_counter() - started
        told("POST /v1/events/batch of 100", len(chosen), seconds=seconds, yardstick=yardstick)
        unsent = iter(chosen)

        async def post() -> None:
            for row in unsent:
                (await client.post("/v1/events", json=row)).raise_for_status()

        started = time.perf_counter()
        await asyncio.gather(*(post() for _ in range(CLIENTS)))
        seconds = time.perf_counter() - started
        name = f"POST /v1/events, {CLIENTS} clients"
        told(name, len(chosen), seconds=seconds, yardstick=yardstick)


async def round_trip(folder: Path, turns: list[Turn]) -> None:
    """Export, and import into an empty database: the time of each, and whether all is the same."""
    data = b"".join(json.dumps(turn.row).encode() + b"\n" for turn in turns)
    path = folder.parent / "export.jsonl"
    sums = []
    async with opened(folder) as memory:
        await empty(memory)
        await import_events(memory, io.BytesIO(data))
        await Worker(memory).drain()
        for vectors in (False, True):
            started = time.perf_counter()
            count = await write_export(memory, ExportQuery(), path=str(path), with_vectors=vectors)
            seconds = time.perf_counter() - started
            kind = "with vectors" if vectors else "without vectors"
            size = path.stat().st_size / 1e6
            print(f"export of {count} events {kind}: {seconds:.2f} s, {size:.1f} MB", flush=True)
        sums.append(await checksums(memory))
    async with opened(folder, name="copy") as memory:
        started = time.perf_counter()
        with open_lines(str(path)) as lines:
            report = await import_events(memory, lines)
        seconds = time.perf_counter() - started
        sums.append(await checksums(memory))
    same = "identical" if sums[0] == sums[1] else "DIFFERENT"
    print(f"import of the export: {report.stored} events with vectors in {seconds:.2f} s: {same}")


async def checksums(memory: Memory) -> list[Any]:
    """Of all that events and vectors are."""
    async with memory.database.own_connection() as connection:
        found = [
            await (await connection.execute(query)).fetchone() for query in (_EVENTS, _VECTORS)
        ]
    return [list((row or {}).values()) for row in found]


async def with_embedding(folder: Path, turns: list[Turn]) -> None:
    """An import that embeds, against the bare model on the same texts, in turns."""
    data = b"".join(json.dumps(turn.row).encode() + b"\n" for turn in turns)
    texts = [recall_text(t.text, speaker=t.speaker, timestamp=t.timestamp) for t in turns]
    bare, imported = [], []
    for name in ("one", "two"):
        settings = Settings(database=DatabaseSettings(url=None, data_dir=folder, name=name))
        bare.append(await asyncio.to_thread(bare_model, settings, texts))
        async with Memory.open(settings, with_reranker=False) as memory:
            started = time.perf_counter()
            await import_events(memory, io.BytesIO(data))
            await Worker(memory).drain()
            imported.append(time.perf_counter() - started)
    rate = told("bare model", len(texts) * 2, seconds=sum(bare))
    share = len(texts) * 2 / sum(imported) / rate
    print(f"{'import with embedding':44} {share * rate:8.0f} events/s {share:7.0%} of the model")


def bare_model(settings: Settings, texts: list[str]) -> float:
    """Seconds the model takes for all texts, in the batches it likes best."""
    embedder = create_embedder(settings.embedding)
    embedder.embed(texts[:64], "document")
    started = time.perf_counter()
    for start in range(0, len(texts), 512):
        embedder.embed(texts[start : start + 512], "document")
    return time.perf_counter() - started


async def main() -> None:
    data = Path(__file__).resolve().parents[2] / "shared" / "data"
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("texts", type=Path, nargs="?")
    parser.add_argument("--events", type=int, default=20_000)
    parser.add_argument("--embedded", type=int, default=2000, help="0: leave the model out")
    parser.add_argument("--round-trip", action="store_true", help="only out and in again")
    options = parser.parse_args()
    path = options.texts or data / "scale_topicalchat.texts.jsonl.gz"
    turns = read_turns(path, options.events)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "data"
        if not options.round_trip:
            yardstick = await compare_imports(folder, turns)
            with serving(folder) as url:
                await over_http(url, turns, yardstick=yardstick)
        await round_trip(folder, turns[:ROUND_TRIP])
        if options.embedded and not options.round_trip:
            await with_embedding(folder, turns[: options.embedded])


if __name__ == "__main__":
    asyncio.run(main())
