"""The database of a benchmark: real events in bulk, their vectors, and the index on them."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from itertools import islice
from typing import IO, Any

from psycopg import sql
from pydantic import ValidationError

from mnemolite.bench.seeded import store_seeded
from mnemolite.errors import InvalidFileError
from mnemolite.import_export import ImportReport, LineMapping
from mnemolite.memory import Memory
from mnemolite.models import NewEvent
from mnemolite.sql import load
from mnemolite.worker import Worker

_queries = load("bench")

NAMESPACE = "bench"
# Under each of these names an event has a number below the value. An equal part of the events has
# each number, whatever their time: {"tenth": 3} lets a tenth of them pass.
BUCKETS: Mapping[str, int] = {"tenth": 10, "hundredth": 100, "thousandth": 1000, "bucket": 10_000}
# A prime, so that neighbours in time are far apart in the buckets.
_SCATTER = 7919
_BATCH_LINES = 900
# While one writer's transaction runs in the database, the other reads and checks its lines.
_WRITERS = 2
_POLL_SECONDS = 0.5

Progress = Callable[[str, int, int], None]
Steps = dict[str, Callable[[], Awaitable[Any]]]
# One line of the file: its event, and the copies of it in smaller namespaces.
Line = list[NewEvent]


async def count_events(memory: Memory) -> int:
    """How many lines the benchmark has stored so far."""
    return next((one.events for one in await memory.namespaces() if one.name == NAMESPACE), 0)


async def empty(memory: Memory) -> None:
    """Delete all events of the database."""
    await memory.spaces.drop_index(memory.space)
    async with memory.database.own_connection() as connection:
        table = sql.Identifier(memory.space.table)
        await connection.execute(_queries["empty"].format(table=table))


def read_lines(lines: IO[bytes], mapping: LineMapping) -> Iterator[Line]:
    """The lines as events of one namespace; a part of them also in smaller ones.

    Raises InvalidFileError that names the first bad line.
    """
    report = ImportReport()
    for number, line in enumerate(lines):
        try:
            event = mapping.to_event(json.loads(line), report)
        except (ValidationError, ValueError, AttributeError) as error:
            raise InvalidFileError(f"Line {number + 1}: {error}", field="--events") from error
        buckets = {name: number * _SCATTER % size for name, size in BUCKETS.items()}
        metadata = event.metadata | buckets
        places = [f"{NAMESPACE}-1-in-{size}" for size in BUCKETS.values() if number % size == 0]
        yield [
            event.model_copy(update={"namespace": place, "metadata": metadata})
            for place in (NAMESPACE, *places)
        ]


async def grow(
    memory: Memory, lines: Iterator[Line], *, count: int | None, seeded: bool, progress: Progress
) -> dict[str, float]:
    """Store ``count`` more lines, or all; with vectors and index. The seconds of each step."""
    # A bulk of rows is stored and indexed in a fraction of the time that the index takes for
    # them one by one.
    await memory.spaces.drop_index(memory.space)
    store: Steps = {"storing": lambda: _store(memory, lines, count=count, progress=progress)}
    stored = await _timed(store, progress=progress)
    return stored | await complete(memory, seeded=seeded, progress=progress)


async def complete(memory: Memory, *, seeded: bool, progress: Progress) -> dict[str, float]:
    """Give what is stored its words, vectors and index, as far as they are missing.

    The seconds of each step; none if an earlier run was not interrupted.
    """
    steps: Steps = {}
    if (await memory.queue_state()).due:
        steps |= {
            "counting words": memory.settle,
            "embedding": lambda: _embed(memory, seeded=seeded, progress=progress),
            "vacuum": lambda: _vacuum(memory),
        }
    elif not await _lacks_index(memory):
        return {}
    return await _timed(steps | {"indexing": lambda: _index(memory)}, progress=progress)


async def _timed(steps: Steps, *, progress: Progress) -> dict[str, float]:
    """Take the steps; the seconds of each."""
    seconds: dict[str, float] = {}
    for name, step in steps.items():
        progress(name, 0, 1)
        started = time.perf_counter()
        await step()
        seconds[name] = round(time.perf_counter() - started, 1)
    return seconds


async def _store(
    memory: Memory, lines: Iterator[Line], *, count: int | None, progress: Progress
) -> None:
    unread = islice(lines, count)
    stored = 0

    async def write() -> None:
        nonlocal stored
        while batch := list(islice(unread, _BATCH_LINES)):
            await memory.count_added([event for line in batch for event in line])
            stored += len(batch)
            progress("storing", stored, count or 0)

    writers = [asyncio.create_task(write()) for _ in range(_WRITERS)]
    try:
        await asyncio.gather(*writers)
    finally:
        # After a bad line the other writer ends too, before the database is closed.
        for writer in writers:
            writer.cancel()
        await asyncio.wait(writers)


async def _embed(memory: Memory, *, seeded: bool, progress: Progress) -> None:
    total = (await memory.queue_state()).due

    async def watch() -> None:
        while True:
            left = (await memory.queue_state()).due
            progress("embedding", max(0, total - left), total)
            await asyncio.sleep(_POLL_SECONDS)

    watcher = asyncio.create_task(watch())
    try:
        await (store_seeded(memory, NAMESPACE) if seeded else Worker(memory).drain())
    finally:
        watcher.cancel()
        await asyncio.wait([watcher])


async def _vacuum(memory: Memory) -> None:
    async with memory.database.own_connection() as connection:
        await connection.execute(_queries["vacuum"])


async def _index(memory: Memory) -> None:
    """As a worker would, once nothing is pending."""
    await memory.spaces.build_index(memory.space, min_rows=memory.settings.worker.hnsw_min_rows)


async def _lacks_index(memory: Memory) -> bool:
    return await memory.spaces.lacks_index(memory.space, memory.settings.worker.hnsw_min_rows)
