"""The two arms of a search: nearest vectors, and BM25 over the question's words."""

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pgvector import Vector
from psycopg import sql

from mnemolite.database import EARLIEST, LATEST, Connection, Database
from mnemolite.embeddings.batching import BatchingEmbedder
from mnemolite.errors import InvalidVectorError, MnemoliteError, ModelUnavailableError
from mnemolite.filters import parse
from mnemolite.lexicon import Question, candidate_words
from mnemolite.models import Plan, SearchQuery, Space
from mnemolite.moments import Moment
from mnemolite.partitions import EVENTS, Catalog, Range, within
from mnemolite.scans import Reach, ef_search, exact_rows, passages_per_event, reach
from mnemolite.sql import load
from mnemolite.stopwatch import Stopwatch

_queries = load("arms")

# Events that each arm hands on. More than 100 changed no corpus by more than noise.
_DEPTH = 100
# Events whose words are scored in full; a question of common words only has more.
_MOST_SCORED = 5000
# So many times more passages are read when those that were read belong to too few events.
_MORE_PASSAGES = 8
# Pages of the events looked at to estimate how many rows pass: some thousands of events, 1 to 3 ms.
_SAMPLED_PAGES = 300
# An exact scan of fewer rows takes less than 10 ms: help would hardly arrive in time.
_SHARED_ROWS = 10_000
_TIME = sql.SQL("v.timestamp")
_EXACT = Plan(vector="exact", estimated_rows=None)

# Id and timestamp of an event as PostgreSQL writes them: text is compared and sent far faster.
Key = tuple[str, str]
Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class ArmResult:
    """What one arm found, best first, with its raw scores (cosine distance, or BM25)."""

    keys: Sequence[Key] = ()
    scores: Sequence[float] = ()
    plan: Plan | None = None
    vector: NDArray[np.float32] | None = None
    around: Sequence[Row] = ()  # the pool of what it found


class QueryVector:
    """The vector of a search's question, made once, for whoever asks first."""

    def __init__(self) -> None:
        self._made: asyncio.Task[NDArray[np.float32]] | None = None

    async def of(self, job: "SearchJob") -> NDArray[np.float32]:
        """The client's vector if it fits the space, else the model's."""
        if self._made is None:
            self._made = asyncio.create_task(_query_vector(job))
            # A fault is heard by whoever waits; nobody does when the search is cancelled.
            self._made.add_done_callback(lambda made: made.cancelled() or made.exception())
        return await asyncio.shield(self._made)

    async def unless_failed(self, job: "SearchJob") -> NDArray[np.float32] | None:
        """The same, or None where it cannot be had; the vector arm tells why."""
        try:
            return await self.of(job)
        except MnemoliteError:
            return None


@dataclass(frozen=True, slots=True)
class SearchJob:
    """One search under way: the query, and what it was read as."""

    query: SearchQuery
    question: Question
    space: Space | None
    embedder: BatchingEmbedder | None
    now: datetime = field(default_factory=lambda: datetime.now(UTC))
    moments: Sequence[Moment] = ()
    watch: Stopwatch = field(default_factory=Stopwatch)
    # By which plan vectors are searched, whatever it costs; None: by the number of matching rows.
    forced: Literal["exact", "hnsw"] | None = None
    vector: "QueryVector" = field(default_factory=lambda: QueryVector())

    @property
    def parameters(self) -> dict[str, object]:
        return {
            "namespace": self.query.namespace,
            "session": self.query.session,
            "since": self.query.since or EARLIEST,
            "until": self.query.until or LATEST,
            "depth": self.depth,
            "phrases": list(self.question.phrases),
            "excluded": list(self.question.excluded),
            "asked": list(self.question.asked),
        }

    @property
    def depth(self) -> int:
        """How many events each arm hands on."""
        return max(_DEPTH, self.query.limit)

    @property
    def uses_words(self) -> bool:
        """Whether the text arm takes part."""
        return self.query.mode != "vector" and bool(self.query.q.strip())

    @property
    def looks_at_events(self) -> bool:
        """Whether the conditions concern more than namespace and time."""
        query, question = self.query, self.question
        return bool(query.where or query.session or question.phrases or question.excluded)

    @property
    def is_filtered(self) -> bool:
        """Whether only a part of the namespace can match; the lexicon knows the size of all."""
        return self.looks_at_events or bool(self.query.since or self.query.until)

    def conditions(self) -> sql.Composable:
        """What a hit must fulfil beside namespace and time, said of the events ``e``."""
        conditions = [parse(self.query.where).to_sql("e")]
        if self.query.session is not None:
            conditions.append(sql.SQL("e.session = %(session)s"))
        if self.question.phrases:
            conditions.append(_queries["holds_phrases"])
        if self.question.excluded:
            conditions.append(_queries["lacks_excluded"])
        return sql.SQL(" AND ").join(conditions)


@dataclass(frozen=True, slots=True)
class _Scan:
    """How the vectors are to be found, in which tables, and the centre of their indexes."""

    plan: Plan
    reach: Reach = field(default_factory=lambda: Reach(()))
    centre: str | None = None
    passages_per_event: float = passages_per_event(Reach(()), Reach(()))


class Arms:
    """Finds candidates: SQL in, keys and raw scores out."""

    def __init__(self, database: Database, catalog: Catalog | None = None) -> None:
        self._database = database
        self._catalog = catalog or Catalog(database)

    async def vector(self, job: SearchJob) -> ArmResult:
        """The events whose passages are nearest to the query."""
        space = job.space
        if space is None:
            raise ModelUnavailableError("No model has been used with this database yet.")
        vector, scan = await asyncio.gather(job.vector.of(job), self._scan(job, space))
        statement = _statement(job, space, scan=scan)
        parameters = job.parameters | {"vector": Vector(vector)}
        rows = await self._nearest(job, statement, parameters=parameters, scan=scan)
        keys = [(row["id"], row["timestamp"]) for row in rows]
        return ArmResult(keys, [row["distance"] for row in rows], scan.plan, vector)

    async def _nearest(
        self,
        job: SearchJob,
        statement: sql.Composed,
        *,
        parameters: dict[str, Any],
        scan: "_Scan",
    ) -> list[Row]:
        """The nearest events; more passages are read where few events have all the nearest."""
        passages = math.ceil(job.depth * scan.passages_per_event)
        tuning = _tuning(job, scan)
        reading = self._database.transaction() if tuning else self._database.connection()
        async with reading as connection:
            if tuning:
                await connection.execute(tuning)
            while True:
                bounded = parameters | {"passages": passages}
                rows = await (await connection.execute(statement, bounded)).fetchall()
                if len(rows) >= job.depth or not rows or rows[0]["passages"] < passages:
                    return rows[: job.depth]
                passages *= _MORE_PASSAGES

    async def _scan(self, job: SearchJob, space: Space) -> "_Scan":
        """Exact for as many matching rows as that is fast for, else what indexes there are."""
        if job.forced == "exact":
            return _Scan(_EXACT)
        bounds = Range(job.query.since, job.query.until)
        vectors, events = await self._catalog.leaves(space.table, EVENTS)
        reached, filtered = reach(vectors, bounds), reach(events, bounds)
        passages = passages_per_event(reached, filtered)
        if not reached.indexes:
            return _Scan(_EXACT, passages_per_event=passages)
        few = exact_rows(reached.rows)
        rows = job.question.documents
        async with self._database.connection() as connection:
            if rows > few and job.is_filtered:
                pages = sum(leaf.pages for leaf in filtered.leaves)
                rows = await _estimate(connection, job, pages=pages)
            if rows <= few and job.forced is None:
                plan = Plan(vector="exact", estimated_rows=rows)
                return _Scan(plan, passages_per_event=passages)
            cursor = await connection.execute(_queries["centre"], {"space": space.id})
            centre = (await cursor.fetchone() or {}).get("centre")
        plan = Plan(vector=reached.plan_by_index, estimated_rows=rows)
        return _Scan(plan, reached, centre, passages_per_event=passages)

    async def text(self, job: SearchJob) -> ArmResult:
        """The events that score best by BM25 among those that hold the question's rarer words."""
        if not job.question.terms:
            return ArmResult()
        statement = _queries["text"].format(score=_score(job.question), where=job.conditions())
        bm25 = job.question.bm25
        parameters = job.parameters | {
            "k1": bm25.k1,
            "b": bm25.b,
            "average_words": job.question.average_words,
            "most": _MOST_SCORED,
        }
        found: dict[str, Row] = {}
        async with self._database.connection() as connection:
            for words in candidate_words(job.question):
                cursor = await connection.execute(statement, parameters | {"words": words})
                found |= {row["id"]: row for row in await cursor.fetchall()}
                if len(found) >= job.depth:
                    break
        rows = sorted(found.values(), key=lambda row: (-row["score"], row["id"]))[: job.depth]
        return ArmResult(
            [(row["id"], row["timestamp"]) for row in rows], [row["score"] for row in rows]
        )


def _score(question: Question) -> sql.Composable:
    """The BM25 of a row that is read, summed over the question's words."""
    return sql.SQL(" + ").join(
        _queries["term_score"].format(
            weight=sql.Literal(term.idf * (question.bm25.k1 + 1)), term=sql.Literal(term.tsquery)
        )
        for term in question.terms
    )


async def _query_vector(job: SearchJob) -> NDArray[np.float32]:
    if job.query.vector is not None and job.space is not None:
        return _checked_vector(job.query.vector, job.space)
    if job.embedder is None:
        raise ModelUnavailableError("This process runs without a model.")
    with job.watch.part("embedding"):
        return await job.embedder.embed_query(job.query.q)


async def _estimate(connection: Connection, job: SearchJob, *, pages: int) -> int:
    """How many events pass the filters, from a sample that is the same for every question."""
    share = min(1.0, _SAMPLED_PAGES / max(pages, 1))
    statement = _queries["estimate"].format(where=job.conditions())
    parameters = job.parameters | {"percent": 100 * share}
    row = await (await connection.execute(statement, parameters)).fetchone()
    return round(row["rows"] / share) if row else 0


def _tuning(job: SearchJob, scan: _Scan) -> sql.Composed | None:
    """The settings of a scan, for its transaction alone; None if it needs none."""
    if scan.plan.vector != "exact":
        candidates = ef_search(scan.reach.indexes, with_words=job.uses_words)
        return _queries["tune_hnsw"].format(ef_search=sql.Literal(str(candidates)))
    shared = (scan.plan.estimated_rows or 0) > _SHARED_ROWS
    return _queries["tune_exact"].format() if shared else None


def join_of(job: SearchJob) -> sql.Composable:
    """What joins the events ``e`` to the vectors ``v``, where the job's conditions look at them."""
    return _queries["join_events"] if job.looks_at_events else sql.SQL("")


def _statement(job: SearchJob, space: Space, *, scan: _Scan) -> sql.Composed:
    """The statement of a scan; where only some tables have an index, of two in one.

    Each of the two names its spans of time, for the planner, left to itself, would sort the rows
    of all tables as soon as a few must be sorted.
    """
    names: dict[str, sql.Composable] = {
        "table": sql.Identifier(space.table),
        "dimension": sql.Literal(space.dimension),
        "centre": sql.Literal(scan.centre),
        "join": join_of(job),
        "where": job.conditions(),
    }
    if scan.plan.vector == "exact":
        return _queries["vector_exact"].format(**names)
    under, without = scan.reach.spans()
    parts = [("by_index", under), ("without_index", without)]
    scans = [
        _queries[name].format(span=within(spans, _TIME) if without else sql.SQL("true"), **names)
        for name, spans in parts
        if spans
    ]
    return _queries["vector_hnsw"].format(scans=sql.SQL(" UNION ALL ").join(scans))


def _checked_vector(values: Sequence[float], space: Space) -> NDArray[np.float32]:
    """A client's vector, if it can belong to the space; an all-zero one has no direction."""
    if len(values) != space.dimension:
        raise InvalidVectorError(
            f"The vector has {len(values)} dimensions, the space {space.model!r} has "
            f"{space.dimension}.",
            field="vector",
            remedy="Embed the query with the model of the active space (GET /v1/spaces), or name "
            "the space that it was made in.",
        )
    with np.errstate(over="ignore"):
        vector = np.asarray(values, dtype=np.float32)
    norm = float(np.linalg.norm(vector.astype(np.float64)))
    if not np.isfinite(norm) or norm == 0:
        raise InvalidVectorError("The vector has no direction: zero or infinite.", field="vector")
    return vector
