"""JSON lines of any shape: keys go where the mapping sends them, or where their names belong."""

from collections.abc import Iterator

from pydantic import ValidationError

from mnemolite.import_export.formats.contract import (
    Draft,
    Format,
    Reading,
    describe,
    parse_line,
)
from mnemolite.import_export.lines import Counted, numbered
from mnemolite.import_export.report import BadLine


def _read(source: Counted, reading: Reading) -> Iterator[Draft | BadLine]:
    for number, line in numbered(source):
        if line.strip():
            yield _read_line(line, number, reading=reading)


def _read_line(line: bytes, number: int, *, reading: Reading) -> Draft | BadLine:
    try:
        return Draft(reading.mapping.to_event(parse_line(line), reading.report), number)
    except ValidationError as error:
        return BadLine(number, describe(error))
    except (ValueError, RecursionError) as error:
        return BadLine(number, str(error))


def _recognises(head: bytes) -> bool:
    # Anything else that is not refused as a whole: each bad line is told by its number.
    return not head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"[")


JSONL = Format("jsonl", unit="line", recognises=_recognises, read=_read)
