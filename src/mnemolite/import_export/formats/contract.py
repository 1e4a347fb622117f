"""What every format of an import promises: drafts of events, and what is wrong with the others."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from pydantic import ValidationError

from mnemolite import exact_json
from mnemolite.import_export.lines import MAX_LINE_BYTES, Counted
from mnemolite.import_export.mapping import LineMapping
from mnemolite.import_export.report import BadLine, ImportReport
from mnemolite.intake import GivenPassage
from mnemolite.models import JsonObject, NewEvent


@dataclass(frozen=True, slots=True)
class Draft:
    """An event as a source tells it.

    ``number`` is the line (or other unit) it came from. ``key`` is what the source calls it, for
    events without an id of ours: the same key and content mean the same event.
    """

    event: NewEvent
    number: int
    key: str | None = None
    created_at: datetime | None = None
    passages: Sequence[GivenPassage] = ()


@dataclass(slots=True)
class Reading:
    """What holds for a whole source: how it is to be read, and what is told about it."""

    mapping: LineMapping
    report: ImportReport
    languages: dict[str, str] = field(default_factory=dict)  # of namespaces, if the source tells
    digest: str | None = None  # of the space whose vectors the source brings

    @property
    def namespace(self) -> str | None:
        """Where events go that name no place."""
        return self.mapping.namespace


@dataclass(frozen=True, slots=True)
class Format:
    """One kind of source.

    ``recognises`` looks at the first 64 KiB. ``read`` never raises for what a source holds: what
    it cannot use is a BadLine, or counted in the report as skipped.
    """

    name: str
    unit: str
    recognises: Callable[[bytes], bool]
    read: Callable[[Counted, Reading], Iterator[Draft | BadLine]]


def draft_of(fields: dict[str, Any], number: int, *, key: str | None = None) -> Draft | BadLine:
    """The draft of an event's fields, or what is wrong with them."""
    try:
        return Draft(NewEvent.model_validate(fields), number, key=key)
    except ValidationError as error:
        return BadLine(number, describe(error))


def parse_line(line: bytes) -> JsonObject:
    """A line's JSON object. Raises ValueError, and RecursionError for what is nested too deep."""
    if len(line) > MAX_LINE_BYTES:
        raise ValueError(f"the line is longer than {MAX_LINE_BYTES:,} bytes")
    row = exact_json.loads(line.decode("utf-8-sig"))
    if not isinstance(row, dict):
        raise ValueError("the line is not a JSON object")
    return row


def describe(error: ValidationError) -> str:
    """All faults of a model in one line, each by its field."""
    return "; ".join(_describe(fault) for fault in error.errors(include_url=False))


def _describe(fault: Any) -> str:
    name = ".".join(str(part) for part in fault["loc"])
    return f"{name}: {fault['msg']}" if name else str(fault["msg"])


def text_or_none(value: object) -> str | None:
    """A string that says something."""
    return value if isinstance(value, str) and value.strip() else None
