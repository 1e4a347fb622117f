"""The search history: explained searches, recorded so that they can be run again and compared."""

import math
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import structlog
from pydantic import ValidationError

from mnemolite.database import Database
from mnemolite.errors import MnemoliteError, SearchNotFoundError
from mnemolite.ids import new_event_id
from mnemolite.models import (
    Change,
    HitChange,
    Recorded,
    Replay,
    SearchMeta,
    SearchQuery,
    SearchResult,
)
from mnemolite.sql import load

_queries = load("history")
log = structlog.get_logger(__name__)

_PURGE_STEP = 500
# What of the meta is recorded and compared.
_RERANK: dict[str, Any] = {"provider": True, "model": True, "applied": True}
_OUTCOME: dict[str, Any] = {
    "arms": True,
    "degraded": True,
    "plan": True,
    "space": True,
    "rerank": _RERANK,
}
# Scores are sums in an order that PostgreSQL is free to choose.
_SAME_SCORE = 1e-9


class SearchHistory:
    """Keeps queries, and the ids and scores of their hits; bounded by age and number."""

    def __init__(self, database: Database, *, days: int, searches: int) -> None:
        self._database = database
        self._days = days
        self._searches = searches

    async def record(self, query: SearchQuery, result: SearchResult) -> SearchResult:
        """Record a search and put its ``request_id`` into the answer.

        An answer that cannot be recorded, as on a read-only server, is still one: it then says
        why in ``not_recorded``.
        """
        if not self._searches:
            return _with_meta(result, not_recorded="MNEMO_HISTORY_SEARCHES is 0.")
        request_id = new_event_id(datetime.now(UTC))
        parameters = {
            "id": request_id,
            "namespace": query.namespace,
            "query": query.model_dump_json(),
            "outcome": result.meta.model_dump_json(include=_OUTCOME),
            "hit_ids": [hit.id for hit in result.data],
            "hit_scores": [hit.score for hit in result.data],
        }
        try:
            async with self._database.connection() as connection:
                await connection.execute(_queries["record"], parameters)
        except MnemoliteError as error:
            log.warning("search_not_recorded", code=error.code, error=str(error))
            return _with_meta(result, not_recorded=f"{error.code}: {error}")
        return _with_meta(result, request_id=request_id)

    async def get(self, request_id: UUID) -> Recorded:
        """A recorded search. Raises SearchNotFoundError."""
        async with self._database.connection() as connection:
            cursor = await connection.execute(_queries["get"], {"id": request_id})
            row = await cursor.fetchone()
        if row is None:
            raise SearchNotFoundError(
                f"No recorded search has the id {request_id}.",
                field="request_id",
                remedy="Only searches with explain are recorded, and the oldest are forgotten.",
            )
        return _as_recorded(row)

    async def purge(self) -> int:
        """Forget some of what is too old or too much; how many."""
        parameters = {"days": self._days, "keep": self._searches, "step": _PURGE_STEP}
        async with self._database.connection() as connection:
            return (await connection.execute(_queries["purge"], parameters)).rowcount


def compare(recorded: Recorded, result: SearchResult) -> Replay:
    """What differs between a recorded search and the same search now."""
    hits = _hit_changes(recorded, result)
    before, now = (_outcome(of) for of in (recorded, result.meta))
    changed = {
        name: Change(before=value, now=now[name])
        for name, value in before.items()
        if value != now[name]
    }
    return Replay(
        request_id=recorded.id,
        recorded_at=recorded.created_at,
        query=recorded.query,
        same=not hits and not changed,
        hits=hits,
        meta=changed,
        result=result,
    )


def _as_recorded(row: dict[str, Any]) -> Recorded:
    fields = {name: row[name] for name in ("id", "created_at", "query")} | row["outcome"]
    hits = zip(row["hit_ids"], row["hit_scores"], strict=True)
    try:
        return Recorded.model_validate(fields | {"hits": list(hits)})
    except ValidationError as error:
        raise SearchNotFoundError(
            f"The search {row['id']} was recorded by a version that searched otherwise.",
            field="request_id",
            remedy="Search again with explain.",
        ) from error


def _hit_changes(recorded: Recorded, result: SearchResult) -> list[HitChange]:
    """Hits that came, moved or changed their scores, in the order of now; then those that went."""
    before = {name: (rank, score) for rank, (name, score) in enumerate(recorded.hits, start=1)}
    now = {hit.id: (rank, hit.score) for rank, hit in enumerate(result.data, start=1)}
    names = [*now, *(name for name in before if name not in now)]
    changes = (_hit_change(name, before=before.get(name), now=now.get(name)) for name in names)
    return [change for change in changes if change]


def _hit_change(
    name: UUID, *, before: tuple[int, float] | None, now: tuple[int, float] | None
) -> HitChange | None:
    rank_before, score_before = before or (None, None)
    rank, score = now or (None, None)
    if score_before is None or score is None:
        kind = "came" if before is None else "went"
    elif rank_before != rank:
        kind = "moved"
    elif not math.isclose(score_before, score, rel_tol=_SAME_SCORE):
        kind = "rescored"
    else:
        return None
    return HitChange.model_validate(
        {
            "change": kind,
            "id": name,
            "rank_before": rank_before,
            "rank": rank,
            "score_before": score_before,
            "score": score,
        }
    )


def _outcome(of: Recorded | SearchMeta) -> dict[str, Any]:
    return of.model_dump(mode="json", include=_OUTCOME)


def _with_meta(result: SearchResult, **changed: object) -> SearchResult:
    return result.model_copy(update={"meta": result.meta.model_copy(update=changed)})
