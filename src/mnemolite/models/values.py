"""What the models are made of: checked text, JSON and timestamps, and their frozen base."""

import math
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    StringConstraints,
    TypeAdapter,
    ValidationError,
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


_SHORT_DURATION = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)\s?([hdw])")
_HOURS = {"h": 1, "d": 24, "w": 24 * 7}
_ISO_DURATION: TypeAdapter[timedelta] = TypeAdapter(timedelta)
_SHORTEST, _LONGEST = timedelta(minutes=1), timedelta(days=36_500)


def parse_duration(value: object) -> timedelta:
    """Read a length of time: ``12h``, ``30d``, ``2w`` or ISO 8601 such as ``P30D``.

    A bare number is refused, for it could be seconds or days. ISO's months are 30 days and its
    years 365. It must lie between a minute and 36,500 days.
    """
    length = _read_duration(value.strip()) if isinstance(value, str) else value
    if not isinstance(length, timedelta):
        raise PydanticCustomError(
            "invalid_duration", "must be a duration with its unit, such as 12h, 30d, 2w or P30D"
        )
    if not _SHORTEST <= length <= _LONGEST:
        raise PydanticCustomError(
            "invalid_duration", "must lie between one minute (PT1M) and 36500d"
        )
    return length


def _read_duration(text: str) -> timedelta | None:
    short = _SHORT_DURATION.fullmatch(text)
    try:
        if short:
            return timedelta(hours=float(short[1]) * _HOURS[short[2]])
        return _ISO_DURATION.validate_python(text) if text.startswith("P") else None
    except (OverflowError, ValidationError):
        return None


def format_duration(value: timedelta) -> str:
    """ISO 8601, which ``parse_duration`` reads."""
    return str(_ISO_DURATION.dump_python(value, mode="json"))


def _check_name(value: object) -> object:
    return check_text(value) if isinstance(value, str) else value


Timestamp = Annotated[
    datetime,
    BeforeValidator(parse_timestamp),
    PlainSerializer(format_timestamp, return_type=str, when_used="json"),
    WithJsonSchema({"type": "string", "format": "date-time"}),
]
Duration = Annotated[
    timedelta,
    BeforeValidator(parse_duration),
    PlainSerializer(format_duration, return_type=str, when_used="json"),
    WithJsonSchema({"type": "string", "examples": ["30d", "12h", "P30D"]}),
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
