"""What partitions cost a search, and what they save it: the same events, laid out in several ways.

    python -m benchmarks.partitioned_search --events 120000 --months 1 12 24 60

For each number of months one database holds the events and their vectors in one table each, and
others hold copies in monthly partitions, with the vectors in one table or in partitions by year,
quarter or month, each with its index. All are asked the same questions in turn, unbounded and
bounded to seven and to thirty days, with vectors of their own, so no model takes part. Printed are
medians for each layout: milliseconds of a whole hybrid search; those that processors worked for it
in the server and in the client, which other load on the machine disturbs less; the server's against
those of the unpartitioned layout (the median of the ratios, question by question); and the recall
of the vector arm against an exact search. At the end stands the table of docs/partitions.md.
"""

import argparse
import asyncio
import json
import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import mean, median
from typing import Any

import numpy as np
import psycopg
from pgvector import Vector
from pgvector.psycopg import register_vector
from tests.partitioned import partition

from mnemolite.arms import Arms, SearchJob
from mnemolite.bench.seeded import near
from mnemolite.local_postgres import LocalPostgres, open_local_postgres
from mnemolite.memory import Memory
from mnemolite.models import SearchQuery
from mnemolite.recall_check import recall
from mnemolite.settings import DatabaseSettings, EmbeddingSettings, Settings

NAMESPACE, CENTRES = "bench", 2000
START = datetime(2021, 1, 1, tzinfo=UTC)
UNBOUNDED = "none"
BOUNDS = {"7 days": timedelta(days=7), "30 days": timedelta(days=30)}
_BUILDERS = min(5, os.cpu_count() or 1)
# Words as frequent as in any language: the n-th is n times as rare as the first.
EVENTS = """
    INSERT INTO events (id, namespace, session, timestamp, content, language, text)
    SELECT event_id(at), %(namespace)s, 's' || n / 20, at, jsonb_build_object('text', text),
        'mnemo_english', text
    FROM (
        SELECT n, %(start)s::timestamptz + n * %(step)s::interval AS at, (
            SELECT string_agg('w' || floor(exp(random() * ln(30000)))::integer, ' ')
            FROM generate_series(1, 14 + 0 * n)) AS text
        FROM generate_series(0, %(events)s - 1) AS n) AS made"""
WORDS = """
    INSERT INTO lexicon SELECT namespace, lexeme, count(*)
    FROM events, unnest(tsvector_to_array(lexemes)) AS lexeme GROUP BY 1, 2;
    INSERT INTO lexicon_totals SELECT namespace, count(*), sum(words) FROM events GROUP BY 1"""
LAYOUTS = ("plain", "none", "year", "quarter", "month")


@dataclass
class Variant:
    """One layout, and what was measured of it, by the bound of the question."""

    months: int
    layout: str
    memory: Memory
    wall: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    server: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    client: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    recalls: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    plans: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))


def settings(dsn: str, *, min_rows: int, dimension: int) -> Settings:
    base = Settings(
        database=DatabaseSettings(url=dsn, pool_size=4, pool_timeout_seconds=120),
        embedding=EmbeddingSettings(mode="mock", dimension=dimension),
    )
    worker = base.worker.model_copy(update={"hnsw_min_rows": min_rows})
    return base.model_copy(update={"worker": worker})


def month(number: int) -> datetime:
    """The beginning of a month counted from the first."""
    return START.replace(year=START.year + number // 12, month=number % 12 + 1)


def vector_centres(dimension: int) -> np.ndarray:
    centres = np.random.default_rng(1).standard_normal((CENTRES, dimension), dtype=np.float32)
    return centres / np.linalg.norm(centres, axis=1, keepdims=True)


def fill(dsn: str, *, events: int, months: int, dimension: int) -> None:
    """Events evenly over the months, and a vector for each."""
    step = (month(months) - START) / events
    with psycopg.connect(dsn) as connection:
        register_vector(connection)
        connection.execute("SET session_replication_role = replica")  # no queues
        connection.execute("SELECT setseed(0.5)")
        connection.execute("INSERT INTO namespaces (name) VALUES (%s)", [NAMESPACE])
        values = {"namespace": NAMESPACE, "start": START, "step": step, "events": events}
        connection.execute(EVENTS, values)
        connection.execute(WORDS)
        keys = connection.execute("SELECT id, timestamp FROM events ORDER BY timestamp").fetchall()
        centres, generator = vector_centres(dimension), np.random.default_rng(0)
        copying = (
            "COPY embeddings_1 (event_id, timestamp, passage, namespace, char_start, char_end, "
            "embedding) FROM STDIN (FORMAT BINARY)"
        )
        with connection.cursor().copy(copying) as copy:
            copy.set_types(("uuid", "timestamptz", "int2", "text", "int4", "int4", "vector"))
            for first in range(0, events, 5000):
                some = keys[first : first + 5000]
                vectors = near(centres, len(some), generator=generator)
                for (key, at), vector in zip(some, vectors, strict=True):
                    copy.write_row((key, at, 0, NAMESPACE, 0, 1, Vector(vector)))


def _settings(dsn: str, options: argparse.Namespace) -> Settings:
    return settings(dsn, min_rows=options.min_rows, dimension=options.dimension)


def fill_anew(dsn: str, options: argparse.Namespace, *, months: int) -> None:
    """A database of that many months, with vectors and without an index on them."""

    async def migrate() -> None:
        async with Memory.open(_settings(dsn, options)):
            pass

    asyncio.run(migrate())
    fill(dsn, events=options.events, months=months, dimension=options.dimension)


def lay_out(dsn: str, options: argparse.Namespace, *, layout: str, months: int) -> None:
    """Partition, and build an index wherever there are rows enough."""
    if layout != "plain":
        embeddings: Any = None if layout == "none" else layout
        partition(dsn, since=START, until=month(months), embeddings=embeddings)
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE")

    async def index() -> None:
        async with Memory.open(_settings(dsn, options)) as memory:
            await memory.spaces.build_index(memory.space, min_rows=options.min_rows)

    asyncio.run(index())
    print(f"prepared {layout}, {months} months", flush=True)


def questions(dsn: str, options: argparse.Namespace, *, months: int) -> list[SearchQuery]:
    """Some words of an event and a vector near others, each unbounded and with every bound."""
    with psycopg.connect(dsn) as connection:
        texts = connection.execute(
            "SELECT text FROM events ORDER BY md5(text) LIMIT %s", [options.questions]
        ).fetchall()
    generator = np.random.default_rng(7)
    vectors = near(vector_centres(options.dimension), len(texts), generator=generator)
    asked = []
    for (text,), vector in zip(texts, vectors, strict=True):
        words = " ".join(text.split()[:5])
        query = SearchQuery(q=words, vector=vector.tolist(), namespace=NAMESPACE)
        asked.append(query)
        for span in BOUNDS.values():
            days = max((month(months) - START - span).days, 1)
            since = START + timedelta(days=int(generator.integers(0, days)))
            asked.append(query.model_copy(update={"since": since, "until": since + span}))
    return asked


def bound_of(query: SearchQuery) -> str:
    """The name of a question's bound."""
    if query.since is None or query.until is None:
        return UNBOUNDED
    return next(name for name, span in BOUNDS.items() if query.since + span == query.until)


def nanoseconds_worked(pids: Sequence[int]) -> int:
    """What processors have worked for some processes, as Linux counts it."""
    return sum(int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) for pid in pids)


async def backends(memory: Memory) -> list[int]:
    """The processes of the server behind the connections of a pool."""
    async with AsyncExitStack() as stack:
        taken = [
            await stack.enter_async_context(memory.database.connection())
            for _ in range(memory.settings.database.pool_size)
        ]
        return [connection.info.backend_pid for connection in taken]


async def ask(variant: Variant, query: SearchQuery, *, pids: Sequence[int]) -> None:
    """One search, measured; and what its vector arm finds of what an exact one does."""
    bound = bound_of(query)
    worked, client = nanoseconds_worked(pids), time.process_time_ns()
    started = time.perf_counter()
    result = await variant.memory.search(query)
    variant.wall[bound].append(1000 * (time.perf_counter() - started))
    variant.client[bound].append((time.process_time_ns() - client) / 1e6)
    variant.server[bound].append((nanoseconds_worked(pids) - worked) / 1e6)
    assert result.meta.plan is not None
    variant.plans[bound].add(result.meta.plan.vector)


async def compare(variant: Variant, query: SearchQuery) -> None:
    """How much of the nearest hundred the vector arm finds, by the plan that it chooses."""
    memory = variant.memory
    question = await memory.lexicon.question(NAMESPACE, query.q, space=memory.space.id)
    job = SearchJob(query, question, memory.space, memory.embedder)
    arms = Arms(memory.database)
    served, exact = await arms.vector(job), await arms.vector(replace(job, forced="exact"))
    variant.recalls[bound_of(query)].append(recall(served.scores, exact.scores, cut=100))


async def measure(
    dsns: dict[str, str], options: argparse.Namespace, *, months: int
) -> list[Variant]:
    """Ask every layout of some months the same, in turn."""
    async with AsyncExitStack() as stack:
        variants = [
            Variant(
                months,
                layout,
                await stack.enter_async_context(Memory.open(_settings(dsn, options))),
            )
            for layout, dsn in dsns.items()
        ]
        pids = {one.layout: await backends(one.memory) for one in variants}
        asked = questions(dsns["plain"], options, months=months)
        each = 1 + len(BOUNDS)
        for query in asked[: 2 * each]:  # connections warm up: statements are planned once on each
            for variant in variants:
                await asyncio.gather(*(variant.memory.search(query) for _ in range(2)))
        for query in asked:
            for variant in variants:
                await ask(variant, query, pids=pids[variant.layout])
        for query in asked[: each * options.compared]:
            for variant in variants:
                await compare(variant, query)
    return variants


def rows(variants: Sequence[Variant]) -> list[dict[str, Any]]:
    """The table."""
    plain = next(one for one in variants if one.layout == "plain")
    return [
        {
            "months": one.months,
            "layout": one.layout,
            "bound": bound,
            "plan": "/".join(sorted(one.plans[bound])),
            "ms": round(median(one.wall[bound]), 1),
            "server_ms": round(median(one.server[bound]), 1),
            "client_ms": round(median(one.client[bound]), 1),
            "against_plain": round(_ratio(one.server[bound], plain.server[bound]), 2),
            "recall@100": round(mean(one.recalls[bound]), 3),
        }
        for bound in (UNBOUNDED, *BOUNDS)
        for one in variants
    ]


def _ratio(these: Sequence[float], those: Sequence[float]) -> float:
    """The same questions were asked in turn, so what disturbs one disturbs the other."""
    return median(this / that for this, that in zip(these, those, strict=True))


def as_markdown(found: Sequence[dict[str, Any]]) -> str:
    """A line for each number of months and layout: worked, against plain, recall, plan."""
    bounds = (UNBOUNDED, *BOUNDS)
    lines = [
        "| months | layout | " + " | ".join("unbounded" if b == UNBOUNDED else b for b in bounds),
        "|" + " --- |" * (1 + len(bounds)) + " ---",
    ]
    for months, layout in dict.fromkeys((row["months"], row["layout"]) for row in found):
        cells = [
            f"{row['server_ms']:.1f} ms, {row['against_plain']:.2f}x, {row['plan']}, "
            f"{row['recall@100']:.3f}"
            for bound in bounds
            for row in found
            if (row["months"], row["layout"], row["bound"]) == (months, layout, bound)
        ]
        lines.append(f"| {months} | `{layout}` | " + " | ".join(cells))
    return "\n".join(f"{line} |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=120_000)
    parser.add_argument("--months", type=int, nargs="+", default=[1, 12, 24, 60])
    parser.add_argument("--layouts", nargs="+", choices=LAYOUTS, default=list(LAYOUTS))
    parser.add_argument("--dimension", type=int, default=384)
    parser.add_argument("--min-rows", type=int, default=500, help="of a table with an index")
    parser.add_argument("--questions", type=int, default=60, help="asked with each bound")
    parser.add_argument("--compared", type=int, default=20, help="of them, with an exact search")
    parser.add_argument("--data", type=Path, help="keeps the databases there for another run")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run(options.data or Path(folder), options)


def run(data: Path, options: argparse.Namespace) -> None:
    layouts = ["plain", *(one for one in options.layouts if one != "plain")]
    with open_local_postgres(data, database="postgres") as server:
        prepare(server, options, layouts=layouts)
        table = []
        for months in options.months:
            dsns = {layout: server.dsn(f"{layout}_{months}") for layout in layouts}
            for row in rows(asyncio.run(measure(dsns, options, months=months))):
                print(json.dumps(row), flush=True)
                table.append(row)
    print(as_markdown(table))


def prepare(server: LocalPostgres, options: argparse.Namespace, *, layouts: Sequence[str]) -> None:
    """The databases that are not there yet; each layout is made of a copy of the same rows."""
    with (
        psycopg.connect(server.dsn("postgres"), autocommit=True) as connection,
        ProcessPoolExecutor(_BUILDERS) as builders,
    ):
        there = {name for (name,) in connection.execute("SELECT datname FROM pg_database")}
        building = []
        for months in options.months:
            missing = [layout for layout in layouts if f"{layout}_{months}" not in there]
            rows = f"rows_{months}"
            if missing and rows not in there:
                connection.execute(f"CREATE DATABASE {rows}".encode())
                builders.submit(fill_anew, server.dsn(rows), options, months=months).result()
            for layout in missing:
                name = f"{layout}_{months}"
                connection.execute(f"CREATE DATABASE {name} TEMPLATE {rows}".encode())
                building.append(
                    builders.submit(
                        lay_out, server.dsn(name), options, layout=layout, months=months
                    )
                )
        for one in building:
            one.result()


if __name__ == "__main__":
    main()
