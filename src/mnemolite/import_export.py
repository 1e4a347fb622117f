"""Import: JSON lines become events, batch by batch; bad lines are reported and left out."""

import gzip
import io
import json
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, tzinfo
from pathlib import Path
from typing import IO, Any, cast
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import ValidationError

from mnemolite.errors import (
    EventConflictError,
    InvalidFileError,
    InvalidInputError,
    PayloadTooLargeError,
)
from mnemolite.memory import Memory
from mnemolite.models import NewEvent

BATCH_SIZE = 1000
MAX_LINE_BYTES = 16 * 1024 * 1024
# Only so many bad lines are remembered; all are counted.
MAX_REMEMBERED = 1000

_EVENT_KEYS = frozenset(NewEvent.model_fields)
# The words of the vocabulary that live inside an event's content.
_CONTENT_KEYS = frozenset({"text", "speaker", "role", "name"})
_ROOTS = ("content", "metadata")


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line that was left out, and why."""

    number: int
    reason: str


@dataclass(slots=True)
class ImportReport:
    """What became of the lines."""

    stored: int = 0
    already_there: int = 0
    bad: int = 0
    bad_lines: list[BadLine] = field(default_factory=list)
    zoneless: int = 0  # timestamps that were read in the default zone
    kept_in_metadata: set[str] = field(default_factory=set)

    def reject(self, bad: BadLine) -> None:
        self.bad += 1
        if len(self.bad_lines) < MAX_REMEMBERED:
            self.bad_lines.append(bad)


@dataclass(frozen=True, slots=True)
class LineMapping:
    """Where the keys of a line go, and what holds for lines that do not say."""

    targets: Mapping[str, str] = field(default_factory=dict)
    namespace: str | None = None
    zone: tzinfo = UTC

    @classmethod
    def parse(
        cls, pairs: Sequence[str], *, namespace: str | None = None, zone: str = "UTC"
    ) -> "LineMapping":
        """Read ``key=target`` pairs. Raises InvalidInputError that names the pair at fault."""
        targets = dict(_parse_pair(pair) for pair in pairs)
        try:
            return cls(targets, namespace, ZoneInfo(zone))
        except (ZoneInfoNotFoundError, ValueError, OSError):  # "Europe" is a folder of zones
            raise InvalidInputError(
                f"{zone!r} is not a time zone.", field="--timezone", remedy="Use Europe/Paris, say."
            ) from None

    def to_event(self, row: Mapping[str, Any], report: ImportReport) -> NewEvent:
        """Sort a row's keys into an event; keys nobody asked for are kept in its metadata."""
        fields: dict[str, Any] = {}
        for key, value in row.items():
            target = self.targets.get(key) or _natural_target(key)
            if target.startswith("metadata.") and key not in self.targets:
                report.kept_in_metadata.add(key)
            _put(fields, target, value=value)
        if fields.get("namespace") is None:
            fields.pop("namespace", None)
            fields |= {"namespace": self.namespace} if self.namespace else {}
        if type(fields.get("session")) is int:  # a bool is none
            fields["session"] = str(fields["session"])
        if isinstance(stamp := fields.get("timestamp"), str):
            fields["timestamp"] = self._with_zone(stamp, report)
        return NewEvent.model_validate(fields)

    def _with_zone(self, stamp: str, report: ImportReport) -> str | datetime:
        """A time of day without a zone is one in the mapping's zone; a date is its midnight."""
        try:
            moment = datetime.fromisoformat(stamp)
        except ValueError:
            return stamp  # the model says what is wrong with it
        if moment.utcoffset() is not None:
            return moment
        report.zoneless += 1
        return moment.replace(tzinfo=self.zone)


@contextmanager
def open_lines(path: str) -> Iterator[IO[bytes]]:
    """A file of lines, plain or gzip whatever its name; ``-`` is standard input."""
    try:
        with sys.stdin.buffer if path == "-" else Path(path).open("rb") as raw:
            buffered = cast("io.BufferedReader", raw)
            if buffered.peek(2)[:2] == b"\x1f\x8b":
                with gzip.open(buffered) as unpacked:
                    yield cast("IO[bytes]", unpacked)
            else:
                yield buffered
    except (OSError, EOFError, zlib.error) as error:
        raise InvalidFileError(f"{path}: {error}.", field="file") from error


async def import_lines(
    memory: Memory,
    lines: IO[bytes],
    *,
    mapping: LineMapping,
    strict: bool = False,
    on_progress: Callable[[int, ImportReport], None] = lambda _bytes, _report: None,
) -> ImportReport:
    """Store the events of JSON lines in their order, a thousand to a transaction.

    A bad line is left out and reported; with ``strict`` it ends the import with InvalidInputError,
    and what came before it is stored. ``on_progress`` gets the bytes read since the last call.
    """
    report = ImportReport()
    batch: list[tuple[int, NewEvent]] = []
    unreported = 0
    for number, line in _numbered(lines):
        unreported += len(line)
        try:
            event = _read_line(line, number, mapping=mapping, report=report, strict=strict)
        except InvalidInputError:
            await _store(memory, batch, report=report, strict=strict)
            raise
        if event is not None:
            batch.append((number, event))
        if len(batch) >= BATCH_SIZE:
            full, batch = batch, []
            await _store(memory, full, report=report, strict=strict)
            on_progress(unreported, report)
            unreported = 0
    await _store(memory, batch, report=report, strict=strict)
    on_progress(unreported, report)
    return report


def _numbered(lines: IO[bytes]) -> Iterator[tuple[int, bytes]]:
    """Lines with their numbers from 1; one that is too long comes cut, and is then refused."""
    number = 0
    while line := lines.readline(MAX_LINE_BYTES + 1):
        number += 1
        yield number, line
        while len(line) > MAX_LINE_BYTES and not line.endswith(b"\n"):
            line = lines.readline(MAX_LINE_BYTES + 1)


def _read_line(
    line: bytes, number: int, *, mapping: LineMapping, report: ImportReport, strict: bool
) -> NewEvent | None:
    if not line.strip():
        return None
    try:
        return mapping.to_event(_parse_row(line), report)
    except ValidationError as error:
        reason = "; ".join(_describe(fault) for fault in error.errors())
    except (ValueError, RecursionError) as error:
        reason = str(error)
    _reject(report, BadLine(number, reason), strict=strict)
    return None


def _parse_row(line: bytes) -> dict[str, Any]:
    if len(line) > MAX_LINE_BYTES:
        raise ValueError(f"the line is longer than {MAX_LINE_BYTES:,} bytes")
    row = json.loads(line.decode("utf-8-sig"), parse_constant=_refuse_constant)
    if not isinstance(row, dict):
        raise ValueError("the line is not a JSON object")
    return row


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _describe(fault: Any) -> str:
    name = ".".join(str(part) for part in fault["loc"])
    return f"{name}: {fault['msg']}" if name else str(fault["msg"])


def _reject(report: ImportReport, bad: BadLine, *, strict: bool) -> None:
    if strict:
        raise InvalidInputError(f"{bad.reason}.", field=f"line {bad.number}")
    report.reject(bad)


async def _store(
    memory: Memory, batch: Sequence[tuple[int, NewEvent]], *, report: ImportReport, strict: bool
) -> None:
    """Store a batch at once; if an event of it is refused, one by one to find which."""
    if not batch:
        return
    try:
        created = await memory.count_added([event for _, event in batch])
    except (InvalidInputError, PayloadTooLargeError, EventConflictError) as error:
        if len(batch) == 1:
            _reject(report, BadLine(batch[0][0], str(error)), strict=strict)
            return
        for numbered in batch:
            await _store(memory, [numbered], report=report, strict=strict)
        return
    report.stored += created
    report.already_there += len(batch) - created


def _natural_target(key: str) -> str:
    """Where a key goes that no mapping names."""
    if key in _EVENT_KEYS:
        return key
    return f"content.{key}" if key in _CONTENT_KEYS else f"metadata.{key}"


def _parse_pair(pair: str) -> tuple[str, str]:
    key, separator, target = pair.partition("=")
    root, _, rest = target.partition(".")
    valid = target in _EVENT_KEYS or (root in _ROOTS and rest)
    if not separator or not key or not valid:
        raise InvalidInputError(
            f"{pair!r} does not say where a key goes.",
            field="--map",
            remedy="Write key=target with a target such as namespace, session, timestamp, id, "
            "content.text or metadata.doc_id.",
        )
    return key, target


def _put(fields: dict[str, Any], target: str, *, value: Any) -> None:
    """Set ``content.text`` and the like; a whole ``content`` or ``metadata`` is merged in.

    Raises ValueError when two keys go to one place: one of them would be lost.
    """
    if target == "content" and isinstance(value, str):
        target = "content.text"  # what a string means as content; a speaker beside it stays
    elif target == "content" and isinstance(value, list):
        target = "content.content"  # a message of several parts
    root, _, rest = target.partition(".")
    if root not in _ROOTS:
        _put_one(fields, root, value=value)
        return
    place = fields.setdefault(root, {})
    if rest and isinstance(place, dict):
        _put_one(place, rest, value=value)
    elif isinstance(value, dict) and isinstance(place, dict):
        for key, inner in value.items():
            _put_one(place, key, value=inner)
    else:
        fields[root] = value


def _put_one(place: dict[str, Any], key: str, *, value: Any) -> None:
    if key in place:
        raise ValueError(f"two keys go to {key!r}: name a place for one of them with --map")
    place[key] = value
