"""Routes of the search: by query string, and by a body for filters and vectors."""

from typing import Annotated

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
    ModelUnavailableError,
)
from mnemolite.models import SearchOptions, SearchQuery, SearchResult

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
_ERRORS: tuple[type[MnemoliteError], ...] = (
    InvalidInputError,
    InvalidQueryError,
    InvalidTextError,
    InvalidTimestampError,
    InvalidFilterError,
    EmbeddingError,
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
    responses={200: example(_EXAMPLE_RESULT), **responses(*_ERRORS)},
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
        **responses(*_ERRORS, InvalidVectorError, *WITH_BODY),
    },
)
async def search_with_body(
    memory: MemoryDep, query: Annotated[SearchQuery, Body(examples=[_EXAMPLE_QUERY])]
) -> Response:
    """The same search; `where` is plain JSON here, and `vector` takes the place of `q`'s own."""
    return _answer(await memory.search(query))


def _answer(result: SearchResult) -> Response:
    """Written once: the framework would check the result against its own model before."""
    return Response(result.model_dump_json(), media_type="application/json")
