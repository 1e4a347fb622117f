"""The search: two arms find candidates, their ranks are fused, the best become hits."""

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

import numpy as np
from numpy.typing import NDArray
from pgvector import Vector
from psycopg import sql

from mnemolite.database import EARLIEST, LATEST, Database
from mnemolite.embeddings.batching import BatchingEmbedder
from mnemolite.errors import EmbeddingError, InvalidVectorError, ModelUnavailableError
from mnemolite.filters import parse
from mnemolite.models import (
    Arm,
    DegradedArm,
    Event,
    Hit,
    Plan,
    SearchMeta,
    SearchQuery,
    SearchResult,
    Space,
)
from mnemolite.sql import load

_queries = load("search")

_CANDIDATES = 100
# Reciprocal rank fusion with the constant of Cormack, Clarke and Büttcher (SIGIR 2009).
_RRF_K = 60
# Up to this many rows an exact scan is as fast as the index, and misses nothing.
_EXACT_ROWS = 20_000
_EF_SEARCH = 200
_PENDING_COUNT_LIMIT = 10_000


@dataclass(frozen=True, slots=True)
class Candidate:
    """An event that an arm found, with the arm's raw score (a distance, or a weight of words)."""

    id: UUID
    timestamp: datetime
    score: float


@dataclass(frozen=True, slots=True)
class ArmResult:
    """What one arm found, best first; the vector arm adds its plan and the vector it looked for."""

    candidates: Sequence[Candidate] = ()
    plan: Plan | None = None
    vector: NDArray[np.float32] | None = None


@dataclass(slots=True)
class Fused:
    """A candidate with its fused score and what each arm said of it."""

    candidate: Candidate
    score: float = 0.0
    ranks: dict[Arm, int | None] = field(default_factory=dict)
    raw: dict[Arm, float] = field(default_factory=dict)


class Search:
    """Runs searches: query in, hits out, and an account of how they were found."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def run(
        self, query: SearchQuery, space: Space | None, embedder: BatchingEmbedder | None
    ) -> SearchResult:
        """Run the arms of the query's mode at the same time, fuse them, fetch the best.

        In hybrid mode a vector arm whose model fails is left out and named in ``meta.degraded``;
        every other fault is raised.
        """
        running: dict[Arm, Coroutine[Any, Any, ArmResult]] = {}
        if query.mode != "text":
            running["vector"] = self._vector_arm(query, space, embedder)
        if query.mode != "vector" and query.q.strip():
            running["text"] = self._text_arm(query)
        arms, degraded = await _settle(running)
        hits = await self._hits(query, arms, space)
        pending = await self._pending(query, space)
        vector_ran = "vector" in arms
        meta = SearchMeta(
            mode=query.mode,
            arms=list(arms),
            degraded=degraded,
            plan=arms["vector"].plan if vector_ran else None,
            space=space.id if space and vector_ran else None,
            pending=pending,
            pending_is_lower_bound=pending >= _PENDING_COUNT_LIMIT,
            count=len(hits),
        )
        return SearchResult(data=hits, meta=meta)

    async def _vector_arm(
        self, query: SearchQuery, space: Space | None, embedder: BatchingEmbedder | None
    ) -> ArmResult:
        """The events whose passages are nearest to the query."""
        if space is None:
            raise ModelUnavailableError("No model has been used with this database yet.")
        vector = await _query_vector(query, space, embedder)
        plan = await self._plan(query, space)
        needs_event = query.where is not None or query.session is not None
        statement = _queries[f"vector_{plan.vector}"].format(
            table=sql.Identifier(space.table),
            dimension=sql.Literal(space.dimension),
            join=_queries["join_events"] if needs_event else sql.SQL(""),
            where=_conditions(query),
        )
        async with self._database.transaction() as connection:
            if plan.vector == "hnsw":
                await connection.execute(_queries["tune_hnsw"], {"ef_search": _EF_SEARCH})
            cursor = await connection.execute(
                statement, _parameters(query) | {"vector": Vector(vector)}
            )
            rows = await cursor.fetchall()
        found = [Candidate(row["id"], row["timestamp"], row["distance"]) for row in rows]
        return ArmResult(found, plan, vector)

    async def _text_arm(self, query: SearchQuery) -> ArmResult:
        """The events that hold any of the query's words."""
        parameters = _parameters(query)
        async with self._database.connection() as connection:
            cursor = await connection.execute(_queries["words"], parameters)
            words = (await cursor.fetchone() or {}).get("any_word")
            if words is None:
                return ArmResult()
            statement = _queries["text"].format(where=_conditions(query))
            cursor = await connection.execute(statement, parameters | {"any_word": words})
            rows = await cursor.fetchall()
        return ArmResult([Candidate(row["id"], row["timestamp"], row["score"]) for row in rows])

    async def _hits(
        self, query: SearchQuery, arms: Mapping[Arm, ArmResult], space: Space | None
    ) -> list[Hit]:
        floor = query.min_similarity
        fused = fuse(arms)[: query.limit if floor is None else None]
        vector = arms["vector"].vector if "vector" in arms else None
        events, distances = await asyncio.gather(
            self._events(query, fused), self._distances(query, fused, space, vector)
        )
        hits = [
            _hit(events[item.candidate.id], item, distances.get(item.candidate.id))
            for item in fused
            if item.candidate.id in events
        ]
        if floor is not None:
            hits = [hit for hit in hits if hit.similarity is not None and hit.similarity >= floor]
        return hits[: query.limit]

    async def _events(self, query: SearchQuery, fused: Sequence[Fused]) -> dict[UUID, Event]:
        parameters = _keys(fused) | {"namespace": query.namespace}
        async with self._database.connection() as connection:
            cursor = await connection.execute(_queries["hits"], parameters)
            return {row["id"]: Event.model_validate(row) async for row in cursor}

    async def _distances(
        self,
        query: SearchQuery,
        fused: Sequence[Fused],
        space: Space | None,
        vector: NDArray[np.float32] | None,
    ) -> dict[UUID, float]:
        if space is None or vector is None:
            return {}
        parameters = _keys(fused) | {"namespace": query.namespace, "vector": Vector(vector)}
        statement = _queries["distances"].format(table=sql.Identifier(space.table))
        async with self._database.connection() as connection:
            cursor = await connection.execute(statement, parameters)
            return {row["id"]: row["distance"] async for row in cursor}

    async def _plan(self, query: SearchQuery, space: Space) -> Plan:
        """Exact below a bounded number of matching rows, else the index, if there is one."""
        async with self._database.connection() as connection:
            cursor = await connection.execute(_queries["index_ready"], {"index": space.hnsw_index})
            if not (await cursor.fetchone() or {}).get("ready"):
                return Plan(vector="exact", estimated_rows=None, estimate_is_lower_bound=False)
            statement = _queries["estimate"].format(where=_conditions(query))
            parameters = _parameters(query) | {"limit": _EXACT_ROWS + 1}
            cursor = await connection.execute(statement, parameters)
            rows = (await cursor.fetchone() or {}).get("rows", 0)
        many = rows > _EXACT_ROWS
        return Plan(
            vector="hnsw" if many else "exact",
            estimated_rows=min(rows, _EXACT_ROWS),
            estimate_is_lower_bound=many,
        )

    async def _pending(self, query: SearchQuery, space: Space | None) -> int:
        if space is None:
            return 0
        parameters = {
            "space": space.id,
            "namespace": query.namespace,
            "limit": _PENDING_COUNT_LIMIT,
        }
        async with self._database.connection() as connection:
            row = await (await connection.execute(_queries["pending"], parameters)).fetchone()
        return int(row["pending"]) if row else 0


def fuse(arms: Mapping[Arm, ArmResult]) -> list[Fused]:
    """Reciprocal rank fusion: the sum of 1 / (k + rank) over the arms."""
    found: dict[UUID, Fused] = {}
    for arm, result in arms.items():
        for rank, candidate in enumerate(result.candidates, start=1):
            item = found.setdefault(candidate.id, Fused(candidate, ranks=dict.fromkeys(arms)))
            item.score += 1 / (_RRF_K + rank)
            item.ranks[arm] = rank
            item.raw[arm] = candidate.score
    return sorted(found.values(), key=lambda item: (-item.score, item.candidate.id))


async def _settle(
    running: Mapping[Arm, Coroutine[Any, Any, ArmResult]],
) -> tuple[dict[Arm, ArmResult], list[DegradedArm]]:
    """Wait for all arms; a model that fails costs its arm, as long as another one answers."""
    arms: dict[Arm, ArmResult] = {}
    degraded: list[DegradedArm] = []
    for arm, result in zip(
        running, await asyncio.gather(*running.values(), return_exceptions=True), strict=True
    ):
        if isinstance(result, ArmResult):
            arms[arm] = result
        elif isinstance(result, EmbeddingError) and len(running) > 1:
            degraded.append(DegradedArm(arm=arm, reason=f"{result.code}: {result}"))
        else:
            raise result
    return arms, degraded


async def _query_vector(
    query: SearchQuery, space: Space, embedder: BatchingEmbedder | None
) -> NDArray[np.float32]:
    if query.vector is not None:
        return _checked_vector(query.vector, space)
    if embedder is None:
        raise ModelUnavailableError("This process runs without a model.")
    return await embedder.embed_query(query.q)


def _checked_vector(values: Sequence[float], space: Space) -> NDArray[np.float32]:
    """A client's vector, if it can belong to the space; an all-zero one has no direction."""
    if len(values) != space.dimension:
        raise InvalidVectorError(
            f"The vector has {len(values)} dimensions, the space {space.model!r} has "
            f"{space.dimension}.",
            field="vector",
            remedy="Embed the query with the model of the active space (GET /v1/spaces).",
        )
    with np.errstate(over="ignore"):
        vector = np.asarray(values, dtype=np.float32)
    norm = float(np.linalg.norm(vector.astype(np.float64)))
    if not np.isfinite(norm) or norm == 0:
        raise InvalidVectorError("The vector has no direction: zero or infinite.", field="vector")
    return vector


def _hit(event: Event, item: Fused, distance: float | None) -> Hit:
    return Hit(
        **dict(event),
        score=item.score,
        distance=distance,
        similarity=None if distance is None else min(1.0, max(0.0, 1.0 - distance)),
        text_score=item.raw.get("text"),
        ranks=item.ranks,
    )


def _keys(fused: Sequence[Fused]) -> dict[str, object]:
    return {
        "ids": [item.candidate.id for item in fused],
        "timestamps": [item.candidate.timestamp for item in fused],
    }


def _conditions(query: SearchQuery) -> sql.Composable:
    where = parse(query.where).to_sql("e")
    if query.session is None:
        return where
    return sql.SQL("e.session = %(session)s AND ({})").format(where)


def _parameters(query: SearchQuery) -> dict[str, object]:
    return {
        "q": query.q,
        "namespace": query.namespace,
        "session": query.session,
        "since": query.since or EARLIEST,
        "until": query.until or LATEST,
        "candidates": max(_CANDIDATES, query.limit),
    }
