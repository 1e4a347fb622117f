"""The search: two arms find candidates, the conversation around them helps, the best are hits."""

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from itertools import pairwise
from typing import Any
from uuid import UUID

import numpy as np
from pgvector import Vector
from psycopg import sql

from mnemolite.arms import ArmResult, Arms, Key, SearchJob
from mnemolite.database import Database
from mnemolite.embeddings.batching import BatchingEmbedder
from mnemolite.errors import EmbeddingError
from mnemolite.lexicon import Lexicon
from mnemolite.models import (
    Arm,
    ArmExplanation,
    DegradedArm,
    Explanation,
    Hit,
    Passage,
    SearchMeta,
    SearchQuery,
    SearchResult,
    Space,
    TermExplanation,
)
from mnemolite.ranking import Pool, Ranking, Weights, chain_neighbours, rank
from mnemolite.sql import load

_queries = load("search")

_PENDING_COUNT_LIMIT = 10_000

Row = dict[str, Any]


class Search:
    """Runs searches: query in, hits out, and an account of how they were found."""

    def __init__(self, database: Database, lexicon: Lexicon) -> None:
        self._database = database
        self._lexicon = lexicon
        self._arms = Arms(database)

    async def run(
        self, query: SearchQuery, *, space: Space | None, embedder: BatchingEmbedder | None
    ) -> SearchResult:
        """Run the arms of the query's mode at the same time, rank what they found, fetch the best.

        In hybrid mode a vector arm whose model fails is left out and named in ``meta.degraded``;
        every other fault is raised.
        """
        question = await self._lexicon.question(query.namespace, query.q)
        job = SearchJob(query, question, space, embedder)
        pending = asyncio.ensure_future(self._pending(job))
        try:
            arms, degraded = await _settle(self._start(job))
            hits = await self._rank(job, arms)
        except BaseException:
            pending.cancel()
            raise
        vector_arm = arms.get("vector")
        meta = SearchMeta(
            mode=query.mode,
            arms=list(arms),
            degraded=degraded,
            plan=vector_arm.plan if vector_arm else None,
            space=space.id if space and vector_arm else None,
            pending=await pending,
            pending_is_lower_bound=pending.result() >= _PENDING_COUNT_LIMIT,
            count=len(hits),
        )
        return SearchResult(data=hits, meta=meta)

    def _start(self, job: SearchJob) -> dict[Arm, Coroutine[Any, Any, ArmResult]]:
        arms: dict[Arm, Coroutine[Any, Any, ArmResult]] = {}
        if job.query.mode != "text":
            arms["vector"] = self._arms.vector(job)
        if job.query.mode != "vector" and job.query.q.strip():
            arms["text"] = self._arms.text(job)
        return arms

    async def _rank(self, job: SearchJob, arms: Mapping[Arm, ArmResult]) -> list[Hit]:
        found = list(dict.fromkeys(key for arm in arms.values() for key in arm.keys))
        if not found:
            return []
        members, links = await self._neighbours(job, found)
        rows = await self._pool(job, arms, members=members)
        nearest = {event_id for event_id, _ in arms["vector"].keys} if "vector" in arms else set()
        weights = Weights(
            np.array([term.idf for term in job.question.terms]), job.question.average_words
        )
        ranking = rank(
            _as_pool(rows, links, nearest=nearest),
            weights,
            use_vectors="vector" in arms,
            use_words="text" in arms,
        )
        best = _best(job.query, rows, ranking=ranking)
        return await self._hits(
            job, arms, rows=[rows[row] for row in best], best=best, ranking=ranking
        )

    async def _neighbours(
        self, job: SearchJob, found: Sequence[Key]
    ) -> tuple[list[Key], list[tuple[UUID, UUID]]]:
        """The candidates with those just before and after them, and who follows whom."""
        members = dict.fromkeys(found)
        links: list[tuple[UUID, UUID]] = []
        async with self._database.connection() as connection:
            cursor = await connection.execute(
                _queries["neighbours"], job.parameters | _columns(found)
            )
            async for row in cursor:
                before, after = row["before"] or [], row["after"] or []
                chain = [*reversed(before), row["id"], *after]
                links += pairwise(chain)
                sides = (before, row["before_timestamps"]), (after, row["after_timestamps"])
                for ids, timestamps in sides:
                    if ids:
                        members.setdefault((ids[0], timestamps[0]))
        return list(members), links

    async def _pool(
        self, job: SearchJob, arms: Mapping[Arm, ArmResult], *, members: Sequence[Key]
    ) -> list[Row]:
        """What both arms know of every member, exactly."""
        frequencies = [
            _queries["frequency"].format(term=sql.Literal(term.tsquery))
            for term in job.question.terms
        ]
        distance, vector = self._measure(job, arms, of="distance")
        statement = _queries["pool"].format(
            passes=_queries["passes"].format(where=job.conditions()),
            frequencies=sql.SQL(", ").join(frequencies),
            distance=distance,
        )
        parameters = job.parameters | _columns(members) | vector
        async with self._database.connection() as connection:
            return await (await connection.execute(statement, parameters)).fetchall()

    async def _hits(
        self,
        job: SearchJob,
        arms: Mapping[Arm, ArmResult],
        *,
        rows: Sequence[Row],
        best: Sequence[int],
        ranking: Ranking,
    ) -> list[Hit]:
        """Fetch the events of the best rows, in their order."""
        passage, vector = self._measure(job, arms, of="passage")
        statement = _queries["hits"].format(passage=passage)
        parameters = job.parameters | _columns([(row["id"], row["timestamp"]) for row in rows])
        async with self._database.connection() as connection:
            cursor = await connection.execute(statement, parameters | vector)
            events = {event["id"]: event async for event in cursor}
        ranks = {arm: _ranks(result) for arm, result in arms.items()}
        return [
            _hit(events[row["id"]], row, job=job, ranks=ranks, place=place, ranking=ranking)
            for place, row in zip(best, rows, strict=True)
            if row["id"] in events
        ]

    def _measure(
        self, job: SearchJob, arms: Mapping[Arm, ArmResult], *, of: str
    ) -> tuple[sql.Composable, dict[str, object]]:
        """The expression that looks at an event's vectors, and its parameter; or NULL."""
        vector = arms["vector"].vector if "vector" in arms else None
        if vector is None or job.space is None:
            return _queries[f"no_{of}"], {}
        table = sql.Identifier(job.space.table)
        return _queries[of].format(table=table), {"vector": Vector(vector)}

    async def _pending(self, job: SearchJob) -> int:
        if job.space is None:
            return 0
        parameters = {
            "space": job.space.id,
            "namespace": job.query.namespace,
            "limit": _PENDING_COUNT_LIMIT,
        }
        async with self._database.connection() as connection:
            row = await (await connection.execute(_queries["pending"], parameters)).fetchone()
        return int(row["pending"]) if row else 0


async def _settle(
    running: Mapping[Arm, Coroutine[Any, Any, ArmResult]],
) -> tuple[dict[Arm, ArmResult], list[DegradedArm]]:
    """Wait for all arms; a model that fails costs its arm, as long as another one answers."""
    arms: dict[Arm, ArmResult] = {}
    degraded: list[DegradedArm] = []
    results = await asyncio.gather(*running.values(), return_exceptions=True)
    for arm, result in zip(running, results, strict=True):
        if isinstance(result, ArmResult):
            arms[arm] = result
        elif isinstance(result, EmbeddingError) and len(running) > 1:
            degraded.append(DegradedArm(arm=arm, reason=f"{result.code}: {result}"))
        else:
            raise result
    return arms, degraded


def _as_pool(
    rows: Sequence[Row], links: Sequence[tuple[UUID, UUID]], *, nearest: set[UUID]
) -> Pool:
    """Rows of the database as arrays; links that lead outside keep their place in the chain."""
    numbers: dict[UUID, int] = {row["id"]: number for number, row in enumerate(rows)}
    for pair in links:
        for event_id in pair:
            numbers.setdefault(event_id, len(numbers))
    chain = [(numbers[before], numbers[after]) for before, after in links]
    distances = [np.nan if row["distance"] is None else row["distance"] for row in rows]
    return Pool(
        words=np.array([row["words"] for row in rows], dtype=np.float64),
        frequencies=np.array([row["frequencies"] for row in rows], dtype=np.float64).reshape(
            len(rows), -1
        ),
        cosines=1.0 - np.array(distances, dtype=np.float64),
        nearest=np.array([row["id"] in nearest for row in rows], dtype=bool),
        named=np.array([bool(row["named"]) for row in rows], dtype=bool),
        nearby=chain_neighbours(chain, len(rows)),
    )


def _best(query: SearchQuery, rows: Sequence[Row], *, ranking: Ranking) -> list[int]:
    """The best rows that pass the filters; equal scores in the order of their ids."""
    floor = query.min_similarity
    passing = [
        number
        for number, row in enumerate(rows)
        if row["passes"] and (floor is None or _similarity(row["distance"] or 2.0) >= floor)
    ]
    passing.sort(key=lambda number: (-ranking.scores[number], rows[number]["id"]))
    return passing[: query.limit]


def _hit(
    event: Row,
    row: Row,
    *,
    job: SearchJob,
    ranks: Mapping[Arm, Mapping[UUID, int]],
    place: int,
    ranking: Ranking,
) -> Hit:
    distance = row["distance"]
    span = event.pop("passage")
    found = {arm: of.get(event["id"]) for arm, of in ranks.items()}
    text_score = float(ranking.bm25[place]) if "text" in ranks else None
    return Hit(
        **event,
        score=float(ranking.scores[place]),
        distance=distance,
        similarity=None if distance is None else _similarity(distance),
        text_score=text_score or None,
        ranks=found,
        passage=_passage(event["text"], span),
        explanation=_explain(job, row, place=place, ranking=ranking) if job.query.explain else None,
    )


def _explain(job: SearchJob, row: Row, *, place: int, ranking: Ranking) -> Explanation:
    terms = {
        term.lexeme: TermExplanation(idf=term.idf, documents=term.documents, frequency=frequency)
        for term, frequency in zip(job.question.terms, row["frequencies"], strict=True)
        if frequency
    }
    return Explanation(
        vector=ArmExplanation(
            own=float(ranking.own_vector[place]), score=float(ranking.vector[place])
        ),
        text=ArmExplanation(own=float(ranking.own_text[place]), score=float(ranking.text[place])),
        boost=float(ranking.boost[place]),
        words=row["words"],
        terms=terms,
    )


def _passage(text: str, span: list[int] | None) -> Passage | None:
    if span is None:
        return None
    start, end = span
    return Passage(text=text[start:end], start=start, end=end)


def _similarity(distance: float) -> float:
    return min(1.0, max(0.0, 1.0 - distance))


def _ranks(result: ArmResult) -> dict[UUID, int]:
    return {event_id: number for number, (event_id, _) in enumerate(result.keys, start=1)}


def _columns(keys: Sequence[Key]) -> dict[str, object]:
    return {
        "ids": [event_id for event_id, _ in keys],
        "timestamps": [timestamp for _, timestamp in keys],
    }
