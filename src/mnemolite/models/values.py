"""What the models are made of: checked text, JSON and timestamps, and their frozen base."""

import math
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    StringConstraints,
    WithJsonSchema,
)
from pydantic_core import PydanticCustomError

DEFAULT_NAMESPACE = "default"
MAX_BATCH = 1000
MAX_LIMIT = 1000
MAX_SEARCH_LIMIT = 200
MAX_NEIGHBOURS = 20
MAX_CONTEXT_TOKENS = 200_000
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


class Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
