"""The nouns of MnemoLite as frozen values: events, searches, hits, spaces, statistics."""

import math
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, Self
from uuid import UUID

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    FiniteFloat,
    PlainSerializer,
    StringConstraints,
    WithJsonSchema,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

DEFAULT_NAMESPACE = "default"
MAX_BATCH = 1000
MAX_LIMIT = 1000
MAX_SEARCH_LIMIT = 200
# The words of a text must fit into a tsvector, which holds 1 MiB; those of prose this long do.
MAX_TEXT_BYTES = 1024 * 1024
MAX_QUERY_CHARACTERS = 10_000
MAX_JSON_DEPTH = 64

JsonObject = dict[str, Any]

_SURROGATE = re.compile("[\ud800-\udfff]")


def check_text(value: str) -> str:
    """Return ``value``; refuse what PostgreSQL cannot store: NUL and lone surrogates."""
    if "\x00" in value:
        raise PydanticCustomError("invalid_text", "NUL characters cannot be stored")
    if _SURROGATE.search(value):
        raise PydanticCustomError("invalid_text", "lone surrogates are not text")
    return value


def check_json(value: object, path: str = "", *, depth: int = 0) -> None:
    """Refuse JSON that cannot be stored exactly, naming the path of the value at fault."""
    if depth > MAX_JSON_DEPTH:
        raise PydanticCustomError(
            "too_deep", "JSON nested deeper than {limit} levels", {"limit": MAX_JSON_DEPTH}
        )
    if isinstance(value, str):
        _check_json_text(value, path)
    elif isinstance(value, float) and not math.isfinite(value):
        raise PydanticCustomError("not_finite", "{path} must be a finite number", {"path": path})
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            _check_json_text(key, f"a key in {path}")
            check_json(inner, f"{path}.{key}" if path else key, depth=depth + 1)
    elif isinstance(value, Sequence):
        for index, inner in enumerate(value):
            check_json(inner, f"{path}[{index}]", depth=depth + 1)


def _check_json_text(value: str, path: str) -> None:
    try:
        check_text(value)
    except PydanticCustomError as error:
        raise PydanticCustomError(
            "invalid_text", "{path}: {reason}", {"path": path, "reason": error.message()}
        ) from None


def _parse_json_object(value: object) -> object:
    if isinstance(value, dict):
        check_json(value)
    return value


def _parse_content(value: object) -> object:
    return _parse_json_object({"text": value} if isinstance(value, str) else value)


_ISO_DATE_TIME = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d")
_PLUS_LOST_IN_URL = re.compile(r"(?<=\d) (\d\d:?\d\d)$")


def parse_timestamp(value: object) -> datetime:
    """Read ISO 8601 text with a UTC offset; the result is in UTC.

    A bare number is refused (it could be seconds or milliseconds), and so is a date without a
    zone (it could be anyone's). An unescaped ``+`` that a URL turned into a space is forgiven.
    """
    if isinstance(value, str):
        value = _parse_iso(value)
    if not isinstance(value, datetime) or value.utcoffset() is None:
        raise _bad_timestamp("must be ISO 8601 with a UTC offset, such as 2024-05-08T13:56:00Z")
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise _bad_timestamp("lies outside the years 1 to 9999 in UTC") from None


def _parse_iso(value: str) -> datetime | None:
    if not _ISO_DATE_TIME.match(value):
        return None
    try:
        return datetime.fromisoformat(_PLUS_LOST_IN_URL.sub(r"+\1", value.strip().upper()))
    except ValueError as error:
        raise _bad_timestamp(f"is not a date: {error}") from None


def _bad_timestamp(reason: str) -> PydanticCustomError:
    return PydanticCustomError("invalid_timestamp", "{reason}", {"reason": reason})


def format_timestamp(value: datetime) -> str:
    """ISO 8601 in UTC with a ``Z``, microseconds only where there are any."""
    return value.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _check_name(value: object) -> object:
    return check_text(value) if isinstance(value, str) else value


Timestamp = Annotated[
    datetime,
    BeforeValidator(parse_timestamp),
    PlainSerializer(format_timestamp, return_type=str, when_used="json"),
    WithJsonSchema({"type": "string", "format": "date-time"}),
]
Name = Annotated[
    str,
    BeforeValidator(_check_name),
    StringConstraints(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$"),
]
Content = Annotated[JsonObject, BeforeValidator(_parse_content)]
Metadata = Annotated[JsonObject, BeforeValidator(_parse_json_object)]


Where = Annotated[JsonObject | None, Field(examples=[{"user": "ada", "tokens": {"$gte": 10}}])]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class NewEvent(_Frozen):
    """An event as a client gives it; what is missing is filled in when it is stored."""

    content: Content = Field(description="Any JSON object; a plain string means {'text': …}.")
    namespace: Name = Field(DEFAULT_NAMESPACE, description="Isolation scope.")
    session: Name | None = Field(None, description="Thread inside the namespace.")
    timestamp: Timestamp | None = Field(None, description="When it happened. Default: now.")
    metadata: Metadata = Field(default_factory=dict, description="What filters look at.")
    id: UUID | None = Field(None, description="A client's own id makes a retry safe.")


class Event(_Frozen):
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


class TimeRange(_Frozen):
    """A half-open span of event time, ``since <= timestamp < until``."""

    since: Timestamp | None = Field(None, description="Earliest timestamp, included.")
    until: Timestamp | None = Field(None, description="Latest timestamp, excluded.")

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.since and self.until and self.since > self.until:
            raise PydanticCustomError("invalid_range", "since lies after until")
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


Mode = Literal["hybrid", "vector", "text"]
Arm = Literal["vector", "text"]


class SearchOptions(Scope):
    """What to look for, and how."""

    q: str = Field("", max_length=MAX_QUERY_CHARACTERS, description="The question or the words.")
    mode: Mode = Field("hybrid", description="Which arms look for candidates.")
    limit: int = Field(10, ge=1, le=MAX_SEARCH_LIMIT, description="Hits to return.")
    min_similarity: float | None = Field(
        None, ge=0, le=1, description="Leave out hits that are less similar than this."
    )
    explain: bool = Field(False, description="Whether each hit says why it stands there.")

    @field_validator("q")
    @classmethod
    def _q_is_text(cls, value: str) -> str:
        return check_text(value)


class SearchQuery(SearchOptions):
    """A search with a filter, or by a vector of the client's own."""

    where: Where = Field(None, description="Filter on metadata and content.")
    vector: list[FiniteFloat] | None = Field(
        None, min_length=1, max_length=16_000, description="Used in place of q's own embedding."
    )

    @model_validator(mode="after")
    def _has_something_to_look_for(self) -> Self:
        if not self.q.strip() and (self.vector is None or self.mode == "text"):
            raise PydanticCustomError("invalid_query", "q is empty: nothing to look for")
        return self


class Passage(_Frozen):
    """The part of an event's text that is nearest to the query."""

    text: str
    start: int = Field(description="First character, from 0.")
    end: int = Field(description="Behind the last character.")


class TermExplanation(_Frozen):
    """A word of the query that the event has."""

    idf: float = Field(description="How much the word weighs, being rare.")
    documents: int = Field(description="Events of the namespace that have it.")
    frequency: int = Field(description="How often this event has it, up to 32.")


class ArmExplanation(_Frozen):
    """What one arm gave to a hit."""

    own: float = Field(description="Of the event itself: cosine or BM25, less for its length.")
    score: float = Field(description="With its neighbours, as it was added to the fused score.")


class Explanation(_Frozen):
    """Why a hit stands where it stands: score = (vector.score + text.score) * boost."""

    vector: ArmExplanation
    text: ArmExplanation
    boost: float = Field(description="Above 1 when the question names the speaker.")
    words: int = Field(description="Words of the event, without stop words.")
    terms: dict[str, TermExplanation] = Field(description="The query's lexemes that it has.")


class Hit(Event):
    """An event found by a search, with its scores."""

    score: float = Field(description="Fused score; only its order within one answer has meaning.")
    distance: float | None = Field(description="Cosine distance to the query; null if unknown.")
    similarity: float | None = Field(description="max(0, cosine), in [0, 1]; null if unknown.")
    text_score: float | None = Field(description="BM25 of its words; null if none matched.")
    ranks: dict[Arm, int | None] = Field(
        description="1-based rank in each arm that ran; null if only its neighbours led to it."
    )
    passage: Passage | None = Field(description="The nearest part of its text; null if unknown.")
    explanation: Explanation | None = Field(description="With `explain` only.")


class DegradedArm(_Frozen):
    """An arm that should have run and could not."""

    arm: Arm
    reason: str


class Plan(_Frozen):
    """How the vector arm found its candidates."""

    vector: Literal["exact", "hnsw"]
    estimated_rows: int | None = Field(
        description="Events that pass the filters, as far as counted; null where it cannot matter."
    )
    estimate_is_lower_bound: bool = Field(description="Whether the count stopped at its limit.")


class SearchMeta(_Frozen):
    """What a search did, so that nobody has to guess."""

    mode: Mode
    arms: list[Arm] = Field(description="The arms that ran.")
    degraded: list[DegradedArm] = Field(description="The arms that should have run, and why not.")
    plan: Plan | None = Field(description="How vectors were searched; null without that arm.")
    space: int | None = Field(description="The embedding space searched; null without vectors.")
    pending: int = Field(description="Events of the namespace that have no embedding yet.")
    pending_is_lower_bound: bool = Field(description="Whether that count stopped at its limit.")
    count: int = Field(description="Hits in this answer.")


class SearchResult(_Frozen):
    """The hits of one search, best first, and what it did."""

    data: list[Hit]
    meta: SearchMeta


class CountMeta(_Frozen):
    """How many items an answer holds."""

    count: int


class BatchMeta(_Frozen):
    """What became of a batch."""

    count: int = Field(description="Events in the batch.")
    created: int = Field(description="Those of them that were not stored before.")


class PageMeta(_Frozen):
    """Where the next page begins."""

    next_cursor: str | None = Field(description="Pass as cursor to go on; null at the end.")
    count: int = Field(description="Events in this page.")


class EventPage(_Frozen):
    """One page of events."""

    data: list[Event]
    meta: PageMeta


class Namespace(_Frozen):
    """An isolation scope and what it holds."""

    name: str
    language: str = Field(description="Text-search language of its events.")
    events: int
    first_timestamp: Timestamp | None
    last_timestamp: Timestamp | None


class Space(_Frozen):
    """One embedding model as used; its vectors are never mixed with another's."""

    id: int
    provider: str
    model: str
    revision: str
    dimension: int
    query_prefix: str
    document_prefix: str
    pooling: str
    normalisation: str
    template: str
    max_tokens: int
    digest: str
    status: Literal["active", "building", "retired"]
    created_at: Timestamp
    activated_at: Timestamp | None

    @property
    def table(self) -> str:
        """The table that holds its vectors."""
        return f"embeddings_{self.id}"

    @property
    def hnsw_index(self) -> str:
        """The index on them, once the table is large enough to have one."""
        return f"{self.table}_hnsw_idx"


class QueueState(_Frozen):
    """The embedding queue of the active space."""

    pending: int = Field(description="Events whose text has no embedding yet.")
    parked: int = Field(description="Those of them that failed too often to be tried again.")
    oldest_pending_seconds: float | None = Field(description="Age of the oldest pending event.")
    errors: list[str] = Field(description="Distinct errors of parked events, at most ten.")

    @property
    def due(self) -> int:
        """Pending events that a worker will still try."""
        return self.pending - self.parked


class Stats(_Frozen):
    """The state of the memory in figures."""

    events: int
    embeddings: int
    namespaces: int
    database_bytes: int
    queue: QueueState
    space: Space | None
    cache: dict[str, int] = Field(description="Query cache: hits, misses, evictions, bytes.")
    resident_bytes: int = Field(description="Memory of this process.")


class Check(_Frozen):
    """One thing that must work for the service to be ready."""

    ok: bool
    detail: str


class Health(_Frozen):
    """Whether the service is ready, part by part."""

    status: Literal["ok", "not_ready"]
    version: str
    checks: dict[str, Check]
