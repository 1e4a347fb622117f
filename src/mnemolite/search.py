"""The search: two arms find candidates, the conversation around them helps, the best are hits."""

import asyncio
import re
from collections.abc import Coroutine, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from pgvector import Vector
from psycopg import sql

from mnemolite.arms import ArmResult, Arms, Key, SearchJob
from mnemolite.database import Connection, Database
from mnemolite.embeddings.batching import BatchingEmbedder
from mnemolite.errors import EmbeddingError
from mnemolite.lexicon import PENDING_LIMIT, Lexicon
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
from mnemolite.reranking.stage import RerankStage, Speakers
from mnemolite.sql import load

_queries = load("search")

_WORD = re.compile(r"\w{2,}")

Row = dict[str, Any]


class Search:
    """Runs searches: query in, hits out, and an account of how they were found."""

    def __init__(self, database: Database, lexicon: Lexicon, *, reranking: RerankStage) -> None:
        self._database = database
        self._lexicon = lexicon
        self._reranking = reranking
        self._arms = Arms(database)

    async def run(
        self, query: SearchQuery, *, space: Space | None, embedder: BatchingEmbedder | None
    ) -> SearchResult:
        """Run the arms of the query's mode at the same time, rank what they found, fetch the best,
        and let the reranker order these, if there is one.

        In hybrid mode a vector arm whose model fails is left out and named in ``meta.degraded``;
        every other fault is raised.
        """
        wide = self._reranking.widen(query)
        question = await self._lexicon.question(
            query.namespace, query.q, space=space.id if space else None
        )
        job = SearchJob(wide, question, space, embedder)
        arms, degraded = await _settle(self._start(job))
        ranked, speakers = await self._rank(job, arms)
        hits, rerank = await self._reranking.run(query, ranked, speakers=speakers)
        vector_arm = arms.get("vector")
        meta = SearchMeta(
            mode=query.mode,
            arms=list(arms),
            degraded=degraded,
            plan=vector_arm.plan if vector_arm else None,
            space=space.id if space and vector_arm else None,
            vector_source=("client" if query.vector else "model") if vector_arm else None,
            pending=question.pending,
            pending_is_lower_bound=question.pending >= PENDING_LIMIT,
            count=len(hits),
            rerank=rerank,
        )
        return SearchResult(data=hits, meta=meta)

    def _start(self, job: SearchJob) -> dict[Arm, Coroutine[Any, Any, ArmResult]]:
        arms: dict[Arm, Coroutine[Any, Any, ArmResult]] = {}
        if job.query.mode != "text":
            arms["vector"] = self._arms.vector(job)
        if job.query.mode != "vector" and job.query.q.strip():
            arms["text"] = self._arms.text(job)
        return arms

    async def _rank(
        self, job: SearchJob, arms: Mapping[Arm, ArmResult]
    ) -> tuple[list[Hit], Speakers]:
        """The best hits, and who said the candidates."""
        found = list(dict.fromkeys(key for arm in arms.values() for key in arm.keys))
        if not found:
            return [], {}
        async with self._database.connection() as connection:
            rows = await self._pool(connection, job, arms=arms, found=found)
            nearest = {name for name, _ in arms["vector"].keys} if "vector" in arms else set()
            weights = Weights(
                np.array([term.idf for term in job.question.terms]), job.question.average_words
            )
            ranking = rank(
                _as_pool(rows, job.query.q, nearest=nearest),
                weights,
                use_vectors="vector" in arms,
                use_words="text" in arms,
            )
            best = _best(job.query, rows, ranking=ranking)
            events = await self._events(connection, job, arms=arms, rows=[rows[i] for i in best])
        ranks = {arm: _ranks(result) for arm, result in arms.items()}
        hits = [
            _hit(
                events[rows[place]["id"]],
                rows[place],
                job=job,
                ranks=ranks,
                place=place,
                ranking=ranking,
            )
            for place in best
            if rows[place]["id"] in events
        ]
        return hits, {row["id"]: row["speaker"] for row in rows}

    async def _pool(
        self,
        connection: Connection,
        job: SearchJob,
        *,
        arms: Mapping[Arm, ArmResult],
        found: Sequence[Key],
    ) -> list[Row]:
        """The candidates and those just before and after them, as both arms know them exactly."""
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
        parameters = job.parameters | _columns(found) | vector
        return await (await connection.execute(statement, parameters)).fetchall()

    async def _events(
        self,
        connection: Connection,
        job: SearchJob,
        *,
        arms: Mapping[Arm, ArmResult],
        rows: Sequence[Row],
    ) -> dict[str, Row]:
        """The events of the best rows, by id as text."""
        passage, vector = self._measure(job, arms, of="passage")
        statement = _queries["hits"].format(passage=passage)
        keys = [(row["id"], row["timestamp"]) for row in rows]
        cursor = await connection.execute(statement, job.parameters | _columns(keys) | vector)
        return {str(event["id"]): event async for event in cursor}

    def _measure(
        self, job: SearchJob, arms: Mapping[Arm, ArmResult], *, of: str
    ) -> tuple[sql.Composable, dict[str, object]]:
        """The expression that looks at an event's vectors, and its parameter; or NULL."""
        vector = arms["vector"].vector if "vector" in arms else None
        if vector is None or job.space is None:
            return _queries[f"no_{of}"], {}
        table = sql.Identifier(job.space.table)
        return _queries[of].format(table=table), {"vector": Vector(vector)}


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


def _as_pool(rows: Sequence[Row], q: str, *, nearest: set[str]) -> Pool:
    """Rows of the database as arrays; links that lead outside keep their place in the chain."""
    numbers: dict[str, int] = {row["id"]: number for number, row in enumerate(rows)}
    chain: list[tuple[int, int]] = []
    for row in rows:
        ids = [*reversed(row["before"] or []), row["id"], *(row["after"] or [])]
        places = [numbers.setdefault(name, len(numbers)) for name in ids]
        chain += pairwise(places)
    asked = _name_parts(q)
    speakers = {row["speaker"] for row in rows if row["speaker"]}
    named = {speaker for speaker in speakers if not asked.isdisjoint(_name_parts(speaker))}
    distances = [np.nan if row["distance"] is None else row["distance"] for row in rows]
    frequencies = np.array([row["frequencies"] for row in rows], dtype=np.float64)
    return Pool(
        words=np.array([row["words"] for row in rows], dtype=np.float64),
        frequencies=frequencies.reshape(len(rows), -1),
        cosines=1.0 - np.array(distances, dtype=np.float64),
        nearest=np.array([row["id"] in nearest for row in rows], dtype=bool),
        named=np.array([row["speaker"] in named for row in rows], dtype=bool),
        nearby=chain_neighbours(chain, len(rows)),
    )


def _name_parts(text: str) -> frozenset[str]:
    """The words of a name, or of a question that may hold it: "Caroline's" names Caroline."""
    return frozenset(_WORD.findall(text.casefold()))


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
    ranks: Mapping[Arm, Mapping[str, int]],
    place: int,
    ranking: Ranking,
) -> Hit:
    distance = row["distance"]
    span = event.pop("passage")
    found = {arm: of.get(row["id"]) for arm, of in ranks.items()}
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


def _ranks(result: ArmResult) -> dict[str, int]:
    return {name: number for number, (name, _) in enumerate(result.keys, start=1)}


def _columns(keys: Sequence[Key]) -> dict[str, object]:
    """Two arrays as PostgreSQL reads them; psycopg would take milliseconds to write them."""
    return {
        "ids": "{" + ",".join(name for name, _ in keys) + "}",
        "timestamps": "{" + ",".join(f'"{timestamp}"' for _, timestamp in keys) + "}",
    }
