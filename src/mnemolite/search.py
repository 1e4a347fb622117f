"""The search: two arms find candidates, the conversation around them helps, the best are hits."""

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray
from psycopg import sql

from mnemolite.arms import ArmResult, Arms, Row, SearchJob
from mnemolite.boosts import boosts, narrowed
from mnemolite.database import Connection, Database
from mnemolite.diversity import diversify, vector_likeness, word_likeness
from mnemolite.embeddings.batching import BatchingEmbedder
from mnemolite.errors import EmbeddingError
from mnemolite.explanation import Explainer, account
from mnemolite.lexicon import PENDING_LIMIT, Lexicon
from mnemolite.models import (
    Arm,
    DegradedArm,
    Explanation,
    Hit,
    NamedDate,
    Passage,
    SearchMeta,
    SearchQuery,
    SearchResult,
    Space,
)
from mnemolite.moments import Moment, names_moments, read_moments
from mnemolite.neighbours import Neighbourhood
from mnemolite.partitions import Catalog
from mnemolite.pool import PoolReader, as_facts, as_parameter, as_pool, columns, measure, merged
from mnemolite.ranking import Floats, Pool, Ranking, Weights, confidence, rank
from mnemolite.reranking.stage import RerankStage, Speakers
from mnemolite.sql import load
from mnemolite.stopwatch import Stopwatch

_queries = load("search")

# How many of the best rows are compared with each other where diversity is asked for.
_DIVERSE_DEPTH = 50


@dataclass(frozen=True, slots=True)
class _Found:
    """The best hits, who said the candidates, and how sure it is that the subject is known."""

    hits: list[Hit]
    speakers: Speakers
    confidence: float | None


@dataclass(frozen=True, slots=True)
class _Ranked:
    """The pool as it came and as arrays, its ranking, and the places of its best rows."""

    rows: Sequence[Row]
    pool: Pool
    ranking: Ranking
    best: Sequence[int]


class Search:
    """Runs searches: query in, hits out, and an account of how they were found."""

    def __init__(self, database: Database, lexicon: Lexicon, *, reranking: RerankStage) -> None:
        self._database = database
        self._lexicon = lexicon
        self._reranking = reranking
        catalog = Catalog(database)
        self._arms = Arms(database, catalog)
        self._pool = PoolReader(database, catalog)
        self._neighbourhood = Neighbourhood(database, catalog)

    def on(self, database: Database) -> "Search":
        """The same search on another database."""
        bm25 = self._lexicon.bm25
        lexicon = Lexicon(database, k1=bm25.k1, b=bm25.b)
        return Search(database, lexicon, reranking=self._reranking)

    async def run(
        self, query: SearchQuery, *, space: Space | None, embedder: BatchingEmbedder | None
    ) -> SearchResult:
        """Run the arms of the query's mode at once, rank what they found, rerank the best.

        In hybrid mode a vector arm whose model fails is left out and named in ``meta.degraded``;
        every other fault is raised.
        """
        job = await self._read(query, space=space, embedder=embedder)
        arms, degraded = await _settle(self._start(job))
        found = await self._rank(job, arms)
        with job.watch.part("reranking"):
            hits, rerank = await self._reranking.run(query, found.hits, speakers=found.speakers)
        with job.watch.part("neighbours"):
            hits = await self._neighbourhood.around(hits, query.neighbours, space=space)
        vector_arm = arms.get("vector")
        meta = SearchMeta(
            mode=query.mode,
            arms=list(arms),
            degraded=degraded,
            plan=vector_arm.plan if vector_arm else None,
            space=space.id if space and vector_arm else None,
            vector_source=("client" if query.vector else "model") if vector_arm else None,
            pending=job.question.pending,
            pending_is_lower_bound=job.question.pending >= PENDING_LIMIT,
            count=len(hits),
            rerank=rerank,
            dates=_named(job.moments),
            confidence=found.confidence,
            explanation=account(job, arms) if query.explain else None,
        )
        return SearchResult(data=hits, meta=meta)

    async def _read(
        self, query: SearchQuery, *, space: Space | None, embedder: BatchingEmbedder | None
    ) -> SearchJob:
        """What the query asks for: its words and their rarity, and the dates that it names."""
        watch = Stopwatch()
        with watch.part("question"):
            question = await self._lexicon.question(
                query.namespace, query.q, space=space.id if space else None
            )
            now = query.now or datetime.now(UTC)
            moments = await _read_dates(query, question.language, now=now)
        bounded = narrowed(self._reranking.widen(query), moments)
        return SearchJob(bounded, question, space, embedder, now=now, moments=moments, watch=watch)

    def _start(self, job: SearchJob) -> dict[Arm, Coroutine[Any, Any, ArmResult]]:
        arms: dict[Arm, Coroutine[Any, Any, ArmResult]] = {}
        if job.query.mode != "text":
            arms["vector"] = self._arm(job, "vector", finding=self._arms.vector(job))
        if job.uses_words:
            arms["text"] = self._arm(job, "text", finding=self._arms.text(job))
        return arms

    async def _arm(
        self, job: SearchJob, arm: Arm, *, finding: Coroutine[Any, Any, ArmResult]
    ) -> ArmResult:
        """What an arm finds, and at once what is around it: the slower arm may still be at it."""
        with job.watch.part(arm):
            found = await finding
        with job.watch.part("pool"):
            return replace(found, around=await self._pool.around(job, found.keys))

    async def _rank(self, job: SearchJob, arms: Mapping[Arm, ArmResult]) -> _Found:
        rows = merged(arm.around for arm in arms.values())
        if not rows:
            return _Found([], {}, 0.0 if "vector" in arms and not job.question.pending else None)
        with job.watch.part("ranking"):
            pool = _pool_of(job, rows, arms=arms)
            ranking = _ranking(job, pool, arms=arms)
            best = _best(job.query, rows, ranking=ranking)
        async with self._database.connection() as connection:
            if job.query.diversity:
                with job.watch.part("diversity"):
                    chosen = [rows[place] for place in best]
                    alike = await self._alike(connection, job, arms=arms, rows=chosen)
                    best, ranking = _diversified(job.query, best, ranking=ranking, alike=alike)
            best = best[: job.query.limit]
            with job.watch.part("hits"):
                chosen = [rows[place] for place in best]
                events = await self._events(connection, job, arms=arms, rows=chosen)
        hits = _hits(job, arms, ranked=_Ranked(rows, pool, ranking, best), events=events)
        passing = np.array([row["passes"] for row in rows], dtype=bool)
        speakers = {row["id"]: row["speaker"] for row in rows}
        return _Found(hits, speakers, confidence(ranking.evidence[passing]))

    async def _events(
        self,
        connection: Connection,
        job: SearchJob,
        *,
        arms: Mapping[Arm, ArmResult],
        rows: Sequence[Row],
    ) -> dict[str, Row]:
        """The events of the best rows, by id as text."""
        vector = arms["vector"].vector if "vector" in arms else None
        statement = _queries["hits"].format(
            passage=measure("passage", space=job.space, vector=vector)
        )
        keys = [(row["id"], row["timestamp"]) for row in rows]
        parameters = job.parameters | columns(keys) | as_parameter(vector)
        cursor = await connection.execute(statement, parameters)
        return {str(event["id"]): event async for event in cursor}

    async def _alike(
        self,
        connection: Connection,
        job: SearchJob,
        *,
        arms: Mapping[Arm, ArmResult],
        rows: Sequence[Row],
    ) -> tuple[Floats, NDArray[np.bool_]]:
        """How much each pair of rows is alike, by vectors or else by words; and what is a copy."""
        by_vectors = "vector" in arms and job.space is not None
        table = sql.Identifier(job.space.table) if job.space else sql.SQL("")
        statement = _queries["alike"].format(
            likeness=_queries["first_vector" if by_vectors else "lexemes"].format(table=table)
        )
        keys = [(row["id"], row["timestamp"]) for row in rows]
        cursor = await connection.execute(statement, job.parameters | columns(keys))
        found = {row["id"]: row async for row in cursor}
        known = [found.get(name, {}) for name, _ in keys]
        digests = np.array([row.get("digest", "") for row in known])
        seen = [row.get("likeness") for row in known]
        if by_vectors:
            vectors = [None if one is None else one.to_numpy() for one in seen]
            likeness = vector_likeness(vectors)
        else:
            likeness = word_likeness([frozenset(one or ()) for one in seen])
        return likeness, digests[:, None] == digests[None, :]


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


def _pool_of(job: SearchJob, rows: Sequence[Row], *, arms: Mapping[Arm, ArmResult]) -> Pool:
    nearest = {name for name, _ in arms["vector"].keys} if "vector" in arms else set()
    favours = boosts(job.query, as_facts(rows), now=job.now, moments=job.moments)
    return as_pool(rows, job.query.q, nearest=nearest, boosts=favours)


def _ranking(job: SearchJob, pool: Pool, *, arms: Mapping[Arm, ArmResult]) -> Ranking:
    question = job.question
    idf = np.array([term.idf for term in question.terms])
    weights = Weights(idf, question.average_words, question.bm25)
    return rank(pool, weights, use_vectors="vector" in arms, use_words="text" in arms)


def _named(moments: Sequence[Moment]) -> list[NamedDate]:
    return [NamedDate(phrase=one.phrase, since=one.since, until=one.until) for one in moments]


async def _read_dates(query: SearchQuery, language: str, *, now: datetime) -> tuple[Moment, ...]:
    """The dates in the question; the library takes milliseconds, so in another thread."""
    if query.dates == "ignore" or not names_moments(query.q, language=language):
        return ()
    return await asyncio.to_thread(read_moments, query.q, now=now, language=language)


def _best(query: SearchQuery, rows: Sequence[Row], *, ranking: Ranking) -> list[int]:
    """The best rows that pass the filters, equal scores in the order of their ids; more than the
    limit if some are to be held back.
    """
    floor = query.min_similarity
    passing = [
        number
        for number, row in enumerate(rows)
        if row["passes"] and (floor is None or _similarity(row["distance"] or 2.0) >= floor)
    ]
    passing.sort(key=lambda number: (-ranking.scores[number], rows[number]["id"]))
    return passing[: max(_DIVERSE_DEPTH, 2 * query.limit) if query.diversity else query.limit]


def _diversified(
    query: SearchQuery,
    best: Sequence[int],
    *,
    ranking: Ranking,
    alike: tuple[Floats, NDArray[np.bool_]],
) -> tuple[list[int], Ranking]:
    """The best in an order without repetitions, and the ranking with this as one more boost."""
    likeness, copies = alike
    order, factors = diversify(
        ranking.scores[list(best)], likeness, copies=copies, diversity=query.diversity
    )
    everyone = np.ones(len(ranking.scores))
    everyone[list(best)] = factors
    return [best[place] for place in order], ranking.boosted("diversity", everyone)


def _hits(
    job: SearchJob,
    arms: Mapping[Arm, ArmResult],
    *,
    ranked: _Ranked,
    events: Mapping[str, Row],
) -> list[Hit]:
    rows, ranking = ranked.rows, ranked.ranking
    ranks = {arm: _ranks(result) for arm, result in arms.items()}
    explainer = None
    if job.query.explain:
        explainer = Explainer(job, rows, pool=ranked.pool, ranking=ranking)
    hits = []
    for place in ranked.best:
        row = rows[place]
        if row["id"] not in events:
            continue
        found_at = {arm: of.get(row["id"]) for arm, of in ranks.items()}
        hits.append(
            _hit(
                events[row["id"]],
                row,
                score=float(ranking.scores[place]),
                bm25=float(ranking.bm25[place]) if "text" in arms else 0.0,
                ranks=found_at,
                explanation=explainer.explain(place, found_at) if explainer else None,
            )
        )
    return hits


def _hit(
    event: Row,
    row: Row,
    *,
    score: float,
    bm25: float,
    ranks: dict[Arm, int | None],
    explanation: Explanation | None,
) -> Hit:
    distance = row["distance"]
    span = event.pop("passage")
    return Hit(
        **event,
        score=score,
        distance=distance,
        similarity=None if distance is None else _similarity(distance),
        text_score=bm25 or None,
        ranks=ranks,
        passage=_passage(event["text"], span),
        explanation=explanation,
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
