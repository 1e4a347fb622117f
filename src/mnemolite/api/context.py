"""The route of contexts: memories as a text for a prompt."""

from typing import Annotated

from fastapi import APIRouter, Body

from mnemolite.api.deps import MemoryDep, StrictJsonRoute
from mnemolite.api.problems import WITH_BODY, example, responses
from mnemolite.api.search import SEARCH_ERRORS
from mnemolite.errors import InvalidVectorError
from mnemolite.models import Context, ContextQuery

router = APIRouter(prefix="/v1/context", tags=["search"], route_class=StrictJsonRoute)

_EXAMPLE_QUERY = {
    "q": "When did Caroline go to the support group?",
    "namespace": "conv-26",
    "max_tokens": 500,
}
_EXAMPLE_CONTEXT = {
    "text": "Monday, 8 May 2023 (session 1)\n13:56 Caroline: I went to a support group yesterday.",
    "parts": [
        {
            "id": "0187fb9b-6600-7d2a-9c31-3f0a5b6c7d8e",
            "part": "whole",
            "start": 0,
            "end": 36,
            "hit": 1,
        }
    ],
    "tokens": 21,
    "max_tokens": 500,
    "tokenizer": "all-MiniLM-L6-v2",
    "meta": {
        "mode": "hybrid",
        "arms": ["vector", "text"],
        "degraded": [],
        "plan": {"vector": "exact", "estimated_rows": None},
        "space": 1,
        "pending": 0,
        "pending_is_lower_bound": False,
        "count": 1,
    },
}


@router.post(
    "",
    summary="Memories for a prompt",
    responses={
        200: example(_EXAMPLE_CONTEXT),
        **responses(*SEARCH_ERRORS, InvalidVectorError, *WITH_BODY),
    },
)
async def context(
    memory: MemoryDep, query: Annotated[ContextQuery, Body(examples=[_EXAMPLE_QUERY])]
) -> Context:
    """A search, and the best of it as dated, spoken lines grouped by session. The text never has
    more than `max_tokens`; an empty text means that nothing was found."""
    return await memory.context(query)
