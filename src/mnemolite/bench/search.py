"""How fast searches are answered over HTTP: by mode, filter, span of time and number of clients."""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import cycle, islice
from typing import Any

import numpy as np

from mnemolite.bench.corpus import (
    BUCKETS,
    NAMESPACE,
    Line,
    complete,
    count_events,
    grow,
    read_lines,
)
from mnemolite.bench.server import Answers, Server, running_server
from mnemolite.errors import InvalidInputError
from mnemolite.evaluate import draw_texts
from mnemolite.import_export import LineMapping, open_lines
from mnemolite.memory import Memory
from mnemolite.models import Namespace, SearchQuery
from mnemolite.selectivity import choose, count_matching
from mnemolite.sql import load

_queries = load("bench")

MODES = ("hybrid", "vector", "text")
_SPANS = {"month": timedelta(days=30), "day": timedelta(days=1)}
_WARM_UP = 20
_CACHE_BYTES = 32 * 1024 * 1024

Progress = Callable[[str, int, int], None]
# Fields of a SearchQuery.
Fields = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the report: which searches, under which filter, from how many clients."""

    mode: str
    filter: str = "none"
    fields: Fields = field(default_factory=dict)
    clients: int = 1
    cached: bool = False

    def query(self, text: str) -> SearchQuery:
        return SearchQuery(q=text, namespace=NAMESPACE, mode=self.mode, **self.fields)


@dataclass(frozen=True, slots=True)
class Extent:
    """How much to measure; ``brief`` is without a filter and in a month only, by one client."""

    modes: Sequence[str] = MODES
    clients: Sequence[int] = (1, 4, 16)
    requests: int = 100
    brief: bool = False


@dataclass(frozen=True, slots=True)
class Source:
    """Where events come from, and who makes their vectors."""

    path: str | None = None  # None: what the database holds already
    mapping: LineMapping = field(default_factory=LineMapping)
    seeded: bool = False


async def measure_sizes(
    memory: Memory,
    source: Source,
    *,
    extent: Extent,
    sizes: Sequence[int | None],
    texts: Sequence[str] = (),
    progress: Progress,
) -> dict[str, Any]:
    """Grow the database to each size in turn and measure; None is as it is, or the whole file."""
    measured = []
    with ExitStack() as stack:
        lines: Iterator[Line] | None = None
        if source.path is not None:
            opened = stack.enter_context(open_lines(source.path))
            lines = islice(read_lines(opened, source.mapping), await count_events(memory), None)
        for size in sizes:
            built = await _reach(memory, lines, size=size, seeded=source.seeded, progress=progress)
            figures = await measure(memory, extent, texts=texts, progress=progress)
            measured.append(figures | {"build_seconds": built})
    return {
        "vectors": "seeded" if source.seeded else "model",
        "model": memory.space.model,
        "cores": os.cpu_count(),
        "sizes": measured,
    }


async def _reach(
    memory: Memory,
    lines: Iterator[Line] | None,
    *,
    size: int | None,
    seeded: bool,
    progress: Progress,
) -> dict[str, float]:
    """Have ``size`` events; the seconds of each step, none if all is there."""
    stored = await count_events(memory)
    if size == stored or (size is None and stored):
        return await complete(memory, seeded=seeded, progress=progress)
    if size is not None and stored > size:
        raise InvalidInputError(
            f"The database holds {stored:,} events already, which are more than {size:,}.",
            field="--count",
            remedy="Begin again with --fresh, or use another database with --name.",
        )
    if lines is None:
        raise InvalidInputError(
            f"The database holds {stored:,} events.",
            field="--events",
            remedy="Name a file of events as JSON lines, or - for standard input.",
        )
    missing = None if size is None else size - stored
    built = await grow(memory, lines, count=missing, seeded=seeded, progress=progress)
    reached = await count_events(memory)
    if reached < (size or 1):
        raise InvalidInputError(
            f"The file has only {reached:,} events.", field="--events", remedy="Ask for fewer."
        )
    return built


async def measure(
    memory: Memory, extent: Extent, *, texts: Sequence[str] = (), progress: Progress
) -> dict[str, Any]:
    """Start a server on the memory's database, ask it, and return the figures of every row.

    ``texts`` are the questions; without them, they are drawn from the events. The server embeds
    every question, as its cache is off, but for the rows that are ``cached``.
    """
    namespace = choose(await memory.namespaces(), NAMESPACE)
    rows = make_rows(await _filters(memory, namespace, brief=extent.brief), extent)
    count = extent.requests + _WARM_UP
    questions = list(texts) or await draw_texts(memory, NAMESPACE, count=count)
    asked = list(islice(cycle(questions), count))
    measured: list[dict[str, Any]] = []
    for cached in (False, True):
        with running_server(memory.settings, cache_bytes=_CACHE_BYTES * cached) as server:
            for row in (row for row in rows if row.cached is cached):
                progress(f"{row.mode}, {row.filter}", len(measured), len(rows))
                passing = await count_matching(memory, row.query("-"))
                answers = _ask(server, row, asked=asked)
                measured.append(summarise(row, answers, share=passing / namespace.events))
    return {
        "events": namespace.events,
        "embeddings": await memory.spaces.embeddings(memory.space),
        "requests": extent.requests,
        "rows": measured,
    }


def make_rows(filters: Mapping[str, Fields], extent: Extent) -> list[Row]:
    """Every mode under every filter; then more clients, then questions that are cached."""
    rows = [Row(mode, name, fields) for mode in extent.modes for name, fields in filters.items()]
    if extent.brief:
        return rows
    more = [count for count in extent.clients if count > 1]
    rows += [Row(mode, clients=count) for mode in extent.modes for count in more]
    rows += [Row(mode, cached=True) for mode in extent.modes if mode != "text"]
    return rows


def summarise(row: Row, answers: Answers, *, share: float) -> dict[str, Any]:
    """The figures of a row; the parts are means, and add up to the mean of what clients saw."""
    p50, p95, p99 = np.percentile(answers.milliseconds, [50, 95, 99])
    mean = float(np.mean(answers.milliseconds))
    embedding, database = (answers.parts.get(part, 0.0) for part in ("embedding", "database"))
    parts = {"embedding": embedding, "sql": database, "rest": mean - embedding - database}
    latency = {"p50": p50, "p95": p95, "p99": p99, "mean": mean}
    return {
        "mode": row.mode,
        "filter": row.filter,
        "share": round(share, 6),
        "clients": row.clients,
        "cached": row.cached,
        "plan": (answers.meta.get("plan") or {}).get("vector"),
        "latency_ms": {name: round(float(value), 2) for name, value in latency.items()},
        "parts_ms": {name: round(value, 2) for name, value in parts.items()},
        "per_second": round(len(answers.milliseconds) / answers.seconds, 1),
    }


def _ask(server: Server, row: Row, *, asked: Sequence[str]) -> Answers:
    parameters = [_parameters(row.query(text)) for text in asked]
    # A cached question is one that was asked before.
    server.search(parameters if row.cached else parameters[-_WARM_UP:], clients=row.clients)
    return server.search(parameters[:-_WARM_UP], clients=row.clients)


def _parameters(query: SearchQuery) -> dict[str, str]:
    """A search as a query string has it."""
    fields = query.model_dump(exclude_defaults=True)
    return {name: _written(value) for name, value in fields.items()}


def _written(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    return value if isinstance(value, str) else json.dumps(value)


async def _filters(memory: Memory, namespace: Namespace, *, brief: bool) -> dict[str, Fields]:
    """The filters by name: spans in the middle of the data, the longest session, the buckets."""
    filters: dict[str, Fields] = {"none": {}}
    first, last = namespace.first_timestamp, namespace.last_timestamp
    assert first is not None
    assert last is not None
    middle = first + (last - first) / 2
    for name, length in _SPANS.items():
        if length < last - first:
            filters[name] = {"since": middle - length / 2, "until": middle + length / 2}
    if brief:
        return {name: fields for name, fields in filters.items() if name != "day"}
    async with memory.database.own_connection() as connection:
        cursor = await connection.execute(
            _queries["longest_session"], {"namespace": namespace.name}
        )
        row = await cursor.fetchone()
    if row:
        filters["session"] = {"session": row["session"]}
    return filters | {"metadata " + name: {"where": {name: 3}} for name in BUCKETS}
