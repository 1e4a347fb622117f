"""What partitions cost a search, and what they save it: the same events, laid out in several ways.

    python -m benchmarks.partitioned_search --events 120000 --months 1 12 24 60

For each number of months one database holds the events in one table, and a copy of it holds them
in monthly partitions; the vectors of the copy are there in several layouts, each a space of its
own. All are asked the same questions in turn, unbounded and bounded to seven days, with vectors of
their own, so no model takes part. Printed are medians: milliseconds of a whole hybrid search, the
milliseconds that PostgreSQL's processors worked for it (which other load on the machine disturbs
less), and the recall of the vector arm against an exact search.
"""

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import mean, median

import numpy as np
import psycopg
from pgvector import Vector
from pgvector.psycopg import register_vector
from psycopg import sql

from mnemolite.arms import Arms, SearchJob
from mnemolite.bench.seeded import near
from mnemolite.local_postgres import open_local_postgres
from mnemolite.memory import Memory
from mnemolite.models import SearchQuery, Space
from mnemolite.recall_check import recall
from mnemolite.reranking.stage import RerankStage
from mnemolite.search import Search
from mnemolite.settings import DatabaseSettings, EmbeddingSettings, Settings
from tests.partitioned import partition

NAMESPACE, CENTRES = "bench", 2000
START = datetime(2021, 1, 1, tzinfo=UTC)
# Words as frequent as in any language: the n-th is n times as rare as the first.
EVENTS = """
    INSERT INTO events (id, namespace, session, timestamp, content, metadata, language, text)
    SELECT event_id(at), %(namespace)s, 's' || n / 20, at, jsonb_build_object('text', text),
        jsonb_build_object('tenth', n %% 10), 'mnemo_english', text
    FROM (
        SELECT n, %(start)s::timestamptz + n * %(step)s::interval AS at, (
            SELECT string_agg('w' || floor(exp(random() * ln(30000)))::integer, ' ')
            FROM generate_series(1, 14 + 0 * n)) AS text
        FROM generate_series(0, %(events)s - 1) AS n) AS made"""
WORDS = """
    INSERT INTO lexicon SELECT namespace, lexeme, count(*)
    FROM events, unnest(tsvector_to_array(lexemes)) AS lexeme GROUP BY 1, 2;
    INSERT INTO lexicon_totals SELECT namespace, count(*), sum(words) FROM events GROUP BY 1"""
LAYOUTS = ("year", "quarter", "month")


@dataclass
class Variant:
    """One layout, and what was measured of it."""

    name: str
    memory: Memory
    space: Space
    wall: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    worked: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    recalls: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    plans: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))


def settings(dsn: str, *, min_rows: int, dimension: int) -> Settings:
    base = Settings(
        database=DatabaseSettings(url=dsn, pool_size=4),
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
