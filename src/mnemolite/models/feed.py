"""The change feed: which changes are asked for, and what a change says."""

import re
from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from pydantic import BeforeValidator, Field, PlainSerializer, WithJsonSchema
from pydantic_core import PydanticCustomError

from mnemolite.models.events import Event
from mnemolite.models.values import (
    DEFAULT_NAMESPACE,
    Frozen,
    Name,
    Timestamp,
    Where,
    format_timestamp,
    parse_timestamp,
)

ChangeKind = Literal["added", "changed", "deleted"]

_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
# Epoch, transaction, number. No transaction and no number is longer.
CURSOR = re.compile(r"([0-9a-f]{8})-([0-9]{1,19})-([0-9]{1,18})")


def _parse_after(value: object) -> object:
    if isinstance(value, datetime) or (isinstance(value, str) and _DATE.match(value)):
        return parse_timestamp(value)
    if value in ("now", "start") or (isinstance(value, str) and CURSOR.fullmatch(value)):
        return value
    raise PydanticCustomError(
        "invalid_cursor", "must be now, start, a time, or the cursor of a change"
    )


def _format_after(value: datetime | str) -> str:
    return value if isinstance(value, str) else format_timestamp(value)


After = Annotated[
    datetime | str,
    BeforeValidator(_parse_after),
    PlainSerializer(_format_after, return_type=str, when_used="json"),
    WithJsonSchema({"type": "string", "examples": ["now", "start", "2024-05-08T13:56:00Z"]}),
]


def _split(value: object) -> object:
    """``added,deleted``, alone or in a list, is two kinds."""
    given = [value] if isinstance(value, str) else value
    if not isinstance(given, list):
        return given
    parts = [item.split(",") if isinstance(item, str) else [item] for item in given]
    return [kind for kinds in parts for kind in kinds]


Kinds = Annotated[list[ChangeKind], BeforeValidator(_split)]


class FeedScope(Frozen):
    """Whose changes are told, and of which kinds."""

    namespace: Name = Field(DEFAULT_NAMESPACE, description="Isolation scope.")
    all_namespaces: bool = Field(False, description="Tell of every namespace instead.")
    session: Name | None = Field(None, description="Only this thread; deletions of all are told.")
    kinds: Kinds = Field(
        ["added", "changed", "deleted"], min_length=1, max_length=3, description="What is told."
    )


class FeedOptions(FeedScope):
    """Where the feed begins."""

    after: After = Field(
        "now", description="now; start, for all that is kept; a time; or a change's cursor."
    )


class FeedQuery(FeedOptions):
    """A part of the feed, with a filter."""

    where: Where = Field(None, description="Filter on metadata and content; not of deletions.")


class EventChange(Frozen):
    """What became of one event."""

    cursor: str = Field(description="Pass as `after` to go on behind this change.")
    kind: ChangeKind
    at: Timestamp = Field(description="When it was changed.")
    id: UUID = Field(description="Of the event.")
    namespace: str
    timestamp: Timestamp = Field(description="Of the event.")
    event: Event | None = Field(description="The event as it is now; null when it was deleted.")
