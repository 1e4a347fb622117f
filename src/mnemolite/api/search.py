"""Routes of the search: by query string, by a body for filters and vectors, and run again."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Body, Query, Response
from pydantic import Field

from mnemolite.api.deps import MemoryDep, StrictJsonRoute, build, parse_where
from mnemolite.api.events import EXAMPLE_EVENT
from mnemolite.api.problems import DATABASE, WITH_BODY, example, responses
from mnemolite.errors import (
    EmbeddingError,
    InvalidFilterError,
    InvalidInputError,
    InvalidQueryError,
    InvalidTextError,
    InvalidTimestampError,
    InvalidVectorError,
    MnemoliteError,
    ModelBusyError,
    ModelUnavailableError,
    SearchNotFoundError,
)
from mnemolite.models import Replay, SearchOptions, SearchQuery, SearchResult

router = APIRouter(prefix="/v1/search", tags=["search"], route_class=StrictJsonRoute)

_EXAMPLE_RESULT = {
    "data": [
        {
            **EXAMPLE_EVENT,
            "pending": False,
            "score": 0.0325,
            "distance": 0.38,
            "similarity": 0.62,
            "text_score": 0.4,
            "ranks": {"vector": 1, "text": 2},
        }
    ],
    "meta": {
        "mode": "hybrid",
        "arms": ["vector", "text"],
        "degraded": [],
        "plan": {"vector": "exact", "estimated_rows": None},
        "space": 1,
        "vector_source": "model",
        "pending": 0,
        "pending_is_lower_bound": False,
        "count": 1,
    },
}
_EXAMPLE_REPLAY = {
    "request_id": "0193522f-9f41-7c3e-a5b1-2f6d1c0e9a77",
    "recorded_at": "2026-01-02T03:04:05.678901Z",
    "query": {"q": "When did Caroline go to the support group?", "namespace": "conv-26"},
    "same": False,
    "hits": [
        {
            "change": "moved",
            "id": "0187fb9b-6600-7d2a-9c31-3f0a5b6c7d8e",
            "rank_before": 2,
            "rank": 1,
            "score_before": 2.31,
            "score": 2.5,
        }
    ],
    "meta": {},
    "result": _EXAMPLE_RESULT,
}
SEARCH_ERRORS: tuple[type[MnemoliteError], ...] = (
    InvalidInputError,
    InvalidQueryError,
    InvalidTextError,
    InvalidTimestampError,
    InvalidFilterError,
    EmbeddingError,
    ModelBusyError,
    ModelUnavailableError,
    *DATABASE,
)
_EXAMPLE_QUERY = {
    "q": "When did Caroline go to the support group?",
    "namespace": "conv-26",
    "since": "2023-05-01T00:00:00Z",
    "where": {"doc_id": {"$in": ["D1:3", "D1:4"]}},
    "limit": 3,
}


class SearchParams(SearchOptions):
    """A search, as a query string."""

    where: str | None = Field(None, description='Filter as JSON text, such as {"user": "ada"}.')

    def query(self) -> SearchQuery:
        return build(SearchQuery, self.model_dump() | {"where": parse_where(self.where)})


@router.get(
    "",
    summary="Search",
    response_model=SearchResult,
    responses={200: example(_EXAMPLE_RESULT), **responses(*SEARCH_ERRORS)},
)
async def search(memory: MemoryDep, params: Annotated[SearchParams, Query()]) -> Response:
    """Best first. `meta` says which arms ran, how, and how many events cannot be found by meaning
    yet."""
    return _answer(await memory.search(params.query()))


@router.post(
    "",
    summary="Search with a body",
    response_model=SearchResult,
    responses={
        200: example(_EXAMPLE_RESULT),
        **responses(*SEARCH_ERRORS, InvalidVectorError, *WITH_BODY),
    },
)
async def search_with_body(
    memory: MemoryDep, query: Annotated[SearchQuery, Body(examples=[_EXAMPLE_QUERY])]
) -> Response:
    """The same search; `where` is plain JSON here, and `vector` takes the place of `q`'s own."""
    return _answer(await memory.search(query))


@router.post(
    "/{request_id}/replay",
    summary="Run a recorded search again",
    response_model=Replay,
    responses={
        200: example(_EXAMPLE_REPLAY),
        **responses(*SEARCH_ERRORS, InvalidVectorError, SearchNotFoundError),
    },
)
async def replay(memory: MemoryDep, request_id: UUID) -> Response:
    """Searches with `explain` are recorded under `meta.request_id`. Says which hits came, went,
    moved or changed their scores, and whether plan, space or arms differ."""
    return _answer(await memory.replay(request_id))


def _answer(result: SearchResult | Replay) -> Response:
    """Written once: the framework would check the result against its own model before."""
    return Response(result.model_dump_json(), media_type="application/json")
