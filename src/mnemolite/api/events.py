"""Routes of events: add, list, get, change the metadata of, and delete."""

from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Body, Header, Query, Response
from pydantic import BaseModel, ConfigDict, Field, model_validator

from mnemolite.api.deps import MemoryDep, StrictJsonRoute, build, parse_where
from mnemolite.api.problems import DATABASE, WITH_BODY, WRITING, example, responses
from mnemolite.errors import (
    EventConflictError,
    EventNotFoundError,
    IdempotencyConflictError,
    IdempotencyGoneError,
    InvalidCursorError,
    InvalidFilterError,
    InvalidInputError,
    InvalidTextError,
    InvalidTimestampError,
    MnemoliteError,
    QueueFullError,
)
from mnemolite.models import (
    MAX_BATCH,
    BatchMeta,
    Event,
    EventPage,
    EventQuery,
    Metadata,
    NewEvent,
    PageOptions,
)

router = APIRouter(prefix="/v1/events", tags=["events"], route_class=StrictJsonRoute)

_WAIT_SECONDS = 10.0

EXAMPLE_NEW_EVENT: dict[str, Any] = {
    "namespace": "conv-26",
    "session": "1",
    "timestamp": "2023-05-08T13:56:00Z",
    "content": {"speaker": "Caroline", "text": "I went to a support group yesterday."},
    "metadata": {"doc_id": "D1:3"},
}
EXAMPLE_EVENT: dict[str, Any] = {
    "id": "0187fb9b-6600-7d2a-9c31-3f0a5b6c7d8e",
    **EXAMPLE_NEW_EVENT,
    "created_at": "2026-01-02T03:04:05.678901Z",
    "text": "I went to a support group yesterday.",
    "pending": True,
}

Wait = Annotated[
    Literal["embedded"] | None,
    Query(description="embedded: answer when the events can be found by meaning (10 s at most)."),
]


Key = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        description="1 to 255 characters: a retry with the same key and body stores nothing and "
        "is answered as the first try was.",
    ),
]

_STORING: tuple[type[MnemoliteError], ...] = (
    *WITH_BODY,
    *WRITING,
    InvalidTextError,
    InvalidTimestampError,
    EventConflictError,
    IdempotencyConflictError,
    IdempotencyGoneError,
    QueueFullError,
)
_REPLAYED = {
    "headers": {
        "Idempotency-Replayed": {
            "description": "true: this is the answer of an earlier try with the same key.",
            "schema": {"type": "string", "enum": ["true"]},
        }
    }
}


class Batch(BaseModel):
    """Up to 1,000 events, stored all or none; a bare array is taken as well."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"events": [EXAMPLE_NEW_EVENT]}]}
    )

    events: list[NewEvent] = Field(min_length=1, max_length=MAX_BATCH)

    @model_validator(mode="before")
    @classmethod
    def _accept_array(cls, value: object) -> object:
        return {"events": value} if isinstance(value, list) else value


class BatchAnswer(BaseModel):
    """The stored events, in the order of the request."""

    data: list[Event]
    meta: BatchMeta


class PageParams(PageOptions):
    """A page of events, as a query string."""

    where: str | None = Field(None, description='Filter as JSON text, such as {"user": "ada"}.')

    def query(self) -> EventQuery:
        return build(EventQuery, self.model_dump() | {"where": parse_where(self.where)})


@router.post(
    "",
    status_code=201,
    summary="Store one event",
    responses={
        201: {**example(EXAMPLE_EVENT), **_REPLAYED},
        200: {
            "model": Event,
            "description": "It was stored before, by an earlier try with the same id.",
            **example(EXAMPLE_EVENT),
            **_REPLAYED,
        },
        **responses(*_STORING),
    },
)
async def add_event(
    memory: MemoryDep,
    event: Annotated[NewEvent, Body(examples=[EXAMPLE_NEW_EVENT])],
    *,
    response: Response,
    wait: Wait = None,
    key: Key = None,
) -> Event:
    """The answer comes once the event is durable. It can be found by words, time and metadata at
    once, and by meaning as soon as it is embedded (`pending` turns false)."""
    stored = await memory.store(
        [event],
        form="event",
        wait_seconds=_WAIT_SECONDS if wait else 0,
        idempotency_key=key,
    )
    response.headers["Location"] = f"/v1/events/{stored.events[0].id}"
    response.status_code = 201 if stored.created else 200
    _tell_replay(response, stored.replayed)
    return stored.events[0]


@router.post(
    "/batch",
    status_code=201,
    summary="Store up to 1,000 events, all or none",
    responses={
        201: {
            **example({"data": [EXAMPLE_EVENT], "meta": {"count": 1, "created": 1}}),
            **_REPLAYED,
        },
        **responses(*_STORING),
    },
)
async def add_events(
    memory: MemoryDep, batch: Batch, *, response: Response, wait: Wait = None, key: Key = None
) -> BatchAnswer:
    """One transaction: after an error, nothing of the batch is stored."""
    stored = await memory.store(
        batch.events, wait_seconds=_WAIT_SECONDS if wait else 0, idempotency_key=key
    )
    _tell_replay(response, stored.replayed)
    meta = BatchMeta(count=len(stored.events), created=stored.created)
    return BatchAnswer(data=stored.events, meta=meta)


def _tell_replay(response: Response, replayed: bool) -> None:
    if replayed:
        response.headers["Idempotency-Replayed"] = "true"


@router.get(
    "",
    summary="List events",
    responses={
        200: example({"data": [EXAMPLE_EVENT], "meta": {"next_cursor": None, "count": 1}}),
        **responses(
            InvalidInputError,
            InvalidTimestampError,
            InvalidFilterError,
            InvalidCursorError,
            *DATABASE,
        ),
    },
)
async def list_events(memory: MemoryDep, params: Annotated[PageParams, Query()]) -> EventPage:
    """Newest first. Pass `meta.next_cursor` as `cursor` for the next page."""
    return await memory.list_events(params.query())


@router.get(
    "/{event_id}",
    summary="Get one event",
    responses={
        200: example(EXAMPLE_EVENT),
        **responses(InvalidInputError, EventNotFoundError, *DATABASE),
    },
)
async def get_event(memory: MemoryDep, event_id: UUID) -> Event:
    """Whatever its namespace."""
    return await memory.get(event_id)


@router.patch(
    "/{event_id}/metadata",
    summary="Change an event's metadata",
    responses={
        200: example(EXAMPLE_EVENT),
        **responses(EventNotFoundError, InvalidTextError, *WITH_BODY, *WRITING),
    },
)
async def patch_metadata(
    memory: MemoryDep,
    event_id: UUID,
    *,
    patch: Annotated[Metadata, Body(examples=[{"topic": "support group", "draft": None}])],
) -> Event:
    """A JSON merge patch (RFC 7396): given keys are set, keys given as null are removed. Content,
    time and place of an event never change."""
    return await memory.merge_metadata(event_id, patch)


@router.delete(
    "/{event_id}",
    status_code=204,
    summary="Delete one event",
    responses=responses(InvalidInputError, EventNotFoundError, *WRITING),
)
async def delete_event(memory: MemoryDep, event_id: UUID) -> None:
    """The event, its words, its embeddings and its place in the queue, at once."""
    await memory.delete(event_id)
