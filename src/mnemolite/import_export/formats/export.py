"""MnemoLite's own export: events with all that they are, namespaces, and perhaps vectors."""

import base64
import binascii
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from pydantic import ValidationError

from mnemolite.import_export.formats.contract import (
    Draft,
    Format,
    Reading,
    describe,
    draft_of,
    parse_line,
)
from mnemolite.import_export.header import KEY, VERSION, EndLine, ExportHeader, NamespaceLine
from mnemolite.import_export.lines import Counted, numbered
from mnemolite.import_export.report import BadLine
from mnemolite.intake import GivenPassage
from mnemolite.models import JsonObject, parse_timestamp

_PASSAGE_PARTS = 3


def _read(source: Counted, reading: Reading) -> Iterator[Draft | BadLine]:
    number, events, told = 0, 0, None
    for number, line in numbered(source):
        if not line.strip():
            continue
        try:
            row = parse_line(line)
            if KEY not in row:
                events += 1
                yield _draft(row, number)
            elif isinstance(about := _about(row), EndLine):
                told = about.events
            else:
                _note(about, reading)
        except ValidationError as error:
            yield BadLine(number, describe(error))
        except (ValueError, RecursionError) as error:
            yield BadLine(number, str(error))
    if told != events:
        expected = (
            "the line that ends an export is missing" if told is None else f"{told} were told"
        )
        yield BadLine(number + 1, f"the export is not whole: {events} events, {expected}")


def _about(row: JsonObject) -> ExportHeader | NamespaceLine | EndLine:
    match row[KEY]:
        case "export":
            return ExportHeader.model_validate(row)
        case "namespace":
            return NamespaceLine.model_validate(row)
        case "end":
            return EndLine.model_validate(row)
        case other:
            raise ValueError(f"{other!r} is not a kind of line that this version knows")


def _note(about: ExportHeader | NamespaceLine, reading: Reading) -> None:
    if isinstance(about, NamespaceLine):
        reading.languages[about.name] = about.language
        return
    if about.version > VERSION:
        reading.report.notes.append(
            f"The export is of version {about.version}, this program knows version {VERSION}."
        )
    reading.digest = about.digest


def _draft(row: JsonObject, number: int) -> Draft | BadLine:
    # The REST interface's own fields, which follow from the others, may stand there too.
    fields = {name: value for name, value in row.items() if name not in _DERIVED}
    created_at = fields.pop("created_at", None)
    passages = [_passage(given) for given in fields.pop("vectors", None) or ()]
    draft = draft_of(fields, number)
    if isinstance(draft, BadLine):
        return draft
    stored = parse_timestamp(created_at) if created_at is not None else None
    return replace(draft, created_at=stored, passages=passages)


_DERIVED = frozenset({"text", "pending"})


def _passage(given: Any) -> GivenPassage:
    """``[start, end, base64 of big-endian float32]``. Raises ValueError."""
    if not isinstance(given, list) or len(given) != _PASSAGE_PARTS:
        raise ValueError("vectors: each must be [start, end, base64]")
    start, end, packed = given
    if type(start) is not int or type(end) is not int or not 0 <= start < end < 2**31:
        raise ValueError("vectors: start and end must be a span of the text")
    try:
        raw = base64.b64decode(packed, validate=True)
        vector = np.frombuffer(raw, dtype=">f4").astype(np.float32)
    except (binascii.Error, TypeError, ValueError):
        raise ValueError("vectors: this is not the base64 of 4-byte floats") from None
    if not np.isfinite(vector).all():
        raise ValueError("vectors: not every number is finite")
    return GivenPassage(start, end, vector)


def _recognises(head: bytes) -> bool:
    return head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b'{"mnemolite"')


EXPORT = Format("mnemolite", unit="line", recognises=_recognises, read=_read)
