"""The server's log: bounded, quoted in errors, and watched as the sign of life of a slow start."""

import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import structlog

from mnemolite.errors import LocalPostgresError
from mnemolite.local_postgres.machine import FIELD

logger = structlog.get_logger(__name__)

LIMIT = 8 * 2**20  # bytes; a longer log is put aside at the next start, and one such is kept
START_TIMEOUT = 60.0  # seconds without a sign of life
REPORT_EVERY = 5.0


@dataclass(frozen=True, slots=True)
class ServerLog:
    """What PostgreSQL writes about itself."""

    path: Path

    def open(self) -> int:
        """A descriptor for the server to write to."""
        if self.size() > LIMIT:
            self.path.replace(self.path.with_suffix(".log.1"))
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.open(self.path, flags, 0o600)

    def size(self) -> int:
        try:
            return self.path.stat().st_size
        except FileNotFoundError:
            return 0

    def tail(self, mark: int = 0, *, lines: int = 12) -> str:
        """The last lines, none of them from before the mark."""
        with suppress(FileNotFoundError), self.path.open("rb") as file:
            file.seek(max(mark, self.size() - 16384))
            return "\n".join(file.read().decode(errors="replace").splitlines()[-lines:])
        return ""


class Patience:
    """The time-out of a start, which begins again whenever the server tells of some progress."""

    def __init__(self, log: ServerLog) -> None:
        self._log = log
        self._size = log.size()
        self._report = time.monotonic() + REPORT_EVERY
        self._until = time.monotonic() + START_TIMEOUT

    def spend(self, problem: str, *, starting: bool) -> None:
        """Raise when time is up; tell from time to time what is going on."""
        now = time.monotonic()
        # A running server's log grows with every refusal of ours: that is no progress.
        if starting and self._size != (size := self._log.size()):
            self._size, self._until = size, now + START_TIMEOUT
        if now > self._until:
            raise LocalPostgresError(
                f"PostgreSQL does not answer: {problem}. Its log ends:\n{self._log.tail()}\n",
                field=FIELD,
                remedy="Look at what it is doing; end it with kill -INT, and try again.",
            )
        if now > self._report:
            self._report = now + REPORT_EVERY
            logger.info("local_postgres.waiting", reason=problem, log=self._log.tail(lines=1))
