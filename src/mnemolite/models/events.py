"""Events as they are given, stored and listed."""

from typing import Literal, Self
from uuid import UUID

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from mnemolite.models.values import (
    DEFAULT_NAMESPACE,
    MAX_LIMIT,
    Content,
    Frozen,
    JsonObject,
    Metadata,
    Name,
    Timestamp,
    Where,
)


class NewEvent(Frozen):
    """An event as a client gives it; what is missing is filled in when it is stored."""

    content: Content = Field(description="Any JSON object; a plain string means {'text': …}.")
    namespace: Name = Field(DEFAULT_NAMESPACE, description="Isolation scope.")
    session: Name | None = Field(None, description="Thread inside the namespace.")
    timestamp: Timestamp | None = Field(None, description="When it happened. Default: now.")
    metadata: Metadata = Field(default_factory=dict, description="What filters look at.")
    id: UUID | None = Field(None, description="A client's own id makes a retry safe.")


class Event(Frozen):
    """A stored event."""

    id: UUID
    namespace: str
    session: str | None
    timestamp: Timestamp
    created_at: Timestamp = Field(description="When it was stored.")
    content: JsonObject
    metadata: JsonObject
    text: str = Field(description="What is searched, taken from the content.")
    pending: bool = Field(description="Whether its text still waits for its embedding.")

    @property
    def speaker(self) -> str:
        """Whoever said it, on one line, as `event_speaker` finds them in SQL; empty: nobody."""
        names = (self.content.get(key) for key in ("speaker", "role", "name"))
        return next(
            (" ".join(name.split()) for name in names if isinstance(name, str) and name), ""
        )


class TimeRange(Frozen):
    """A half-open span of event time, ``since <= timestamp < until``."""

    since: Timestamp | None = Field(None, description="Earliest timestamp, included.")
    until: Timestamp | None = Field(None, description="Latest timestamp, excluded.")

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.since and self.until and self.since > self.until:
            raise PydanticCustomError("invalid_range", "since lies after until", {"field": "since"})
        return self


class Scope(TimeRange):
    """Which part of the memory is meant."""

    namespace: Name = Field(DEFAULT_NAMESPACE, description="Isolation scope.")
    session: Name | None = Field(None, description="Only this thread.")


class PageOptions(Scope):
    """Which events to list, in which order, and from where on."""

    limit: int = Field(50, ge=1, le=MAX_LIMIT, description="Events per page.")
    order: Literal["newest", "oldest"] = Field("newest", description="By timestamp and id.")
    cursor: str | None = Field(None, description="`meta.next_cursor` of the page before.")


class EventQuery(PageOptions):
    """A page of events with a filter."""

    where: Where = Field(None, description="Filter on metadata and content.")


class CountMeta(Frozen):
    """How many items an answer holds."""

    count: int


class BatchMeta(Frozen):
    """What became of a batch."""

    count: int = Field(description="Events in the batch.")
    created: int = Field(description="Those of them that were not stored before.")


class PageMeta(Frozen):
    """Where the next page begins."""

    next_cursor: str | None = Field(description="Pass as cursor to go on; null at the end.")
    count: int = Field(description="Events in this page.")


class ExportQuery(TimeRange):
    """Which part of the memory is exported; by default all of it."""

    namespace: Name | None = Field(None, description="Only this one.")
    session: Name | None = Field(None, description="Only this thread.")
    where: Where = Field(None, description="Filter on metadata and content.")


class EventPage(Frozen):
    """One page of events."""

    data: list[Event]
    meta: PageMeta
