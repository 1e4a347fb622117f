"""Files of lines: opened, unpacked, and cut into lines of bounded length."""

import gzip
import io
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

from mnemolite.errors import InvalidFileError

MAX_LINE_BYTES = 16 * 1024 * 1024
_GZIP = b"\x1f\x8b"
_BUFFER_BYTES = 64 * 1024


@contextmanager
def open_lines(path: str) -> Iterator[IO[bytes]]:
    """A file of lines, plain or gzip whatever its name; ``-`` is standard input."""
    with (
        faults_of(path),
        sys.stdin.buffer if path == "-" else Path(path).open("rb") as raw,
    ):
        yield unpacked(raw)


@contextmanager
def faults_of(name: str) -> Iterator[None]:
    """Tell what is wrong with a file, by its name."""
    try:
        yield
    except (OSError, EOFError, zlib.error) as error:
        raise InvalidFileError(f"{name}: {error}.", field="file") from error


def unpacked(raw: IO[bytes]) -> IO[bytes]:
    """The bytes themselves, or what gzip made them of."""
    head = raw.read(len(_GZIP))
    whole = cast("IO[bytes]", io.BufferedReader(_Rejoined(head, raw), buffer_size=_BUFFER_BYTES))
    return cast("IO[bytes]", gzip.open(whole)) if head == _GZIP else whole


class _Rejoined(io.RawIOBase):
    """A source whose first bytes were read already."""

    def __init__(self, head: bytes, rest: IO[bytes]) -> None:
        self._head = head
        self._rest = rest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        chunk = self._head or self._rest.read1(len(buffer))  # type: ignore[attr-defined]
        self._head = b""
        buffer[: len(chunk)] = chunk
        return len(chunk)


class Counted:
    """A source that counts what was read of it, and lets its beginning be looked at."""

    def __init__(self, source: IO[bytes]) -> None:
        self._source = source
        self._head = b""
        self.bytes_read = 0

    def peek(self, size: int) -> bytes:
        """The first bytes, ``size`` of them if there are so many; before anything is read."""
        while len(self._head) < size and (more := self._source.read(size - len(self._head))):
            self._head += more
        return self._head

    def readline(self, limit: int) -> bytes:
        """One line, or its first ``limit`` bytes."""
        if self._head:
            end = self._head.find(b"\n", 0, limit) + 1
            if not end and len(self._head) < limit:
                line = self._head + self._source.readline(limit - len(self._head))
                self._head = b""
            else:
                line, self._head = self._head[: end or limit], self._head[end or limit :]
        else:
            line = self._source.readline(limit)
        self.bytes_read += len(line)
        return line

    def read(self, size: int) -> bytes:
        """Up to ``size`` bytes; none at the end."""
        if self._head:
            chunk, self._head = self._head[:size], self._head[size:]
        else:
            chunk = self._source.read(size)
        self.bytes_read += len(chunk)
        return chunk


def numbered(source: Counted) -> Iterator[tuple[int, bytes]]:
    """Lines with their numbers from 1; one that is too long comes cut, and is then refused."""
    number = 0
    while line := source.readline(MAX_LINE_BYTES + 1):
        number += 1
        yield number, line
        while len(line) > MAX_LINE_BYTES and not line.endswith(b"\n"):
            line = source.readline(MAX_LINE_BYTES + 1)
