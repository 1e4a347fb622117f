"""Event ids: UUIDv7 whose time is the event's timestamp and whose order is the order of arrival.

Layout (RFC 9562, version 7): 48 bits of the event's own time in milliseconds, then, across the 74
bits that the RFC leaves to the implementation, 42 bits of the time of arrival in milliseconds and
32 bits that start at random in each millisecond and grow with every id. So events that share one
timestamp, as the turns of an imported conversation often do, keep the order they came in, across
processes and restarts, and ``(timestamp, id)`` is the order of a session.
"""

import secrets
import threading
import time
from datetime import UTC, datetime, timedelta
from uuid import UUID

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MAX_MILLISECONDS = 2**48 - 1
_VERSION = 7
_VERSION_OF_DIGESTS = 8
_DIGEST_BITS = 52
_MAX_PLACE = 2**22 - 1
_SEQUENCE_BITS = 32
# Half of the range is left above the random start, at most 2**15 is used up by each id: 65,536 ids
# a millisecond at least, more than Python can make.
_START_BELOW = 2 ** (_SEQUENCE_BITS - 1)
_STEP_BELOW = 2**15


class _Arrivals:
    """A strictly growing 74-bit number: time of arrival, then a random sequence."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._millisecond = 0
        self._sequence = 0

    def next(self) -> int:
        with self._lock:
            # A clock set back must not break the order: time only moves on.
            now = max(time.time_ns() // 1_000_000, self._millisecond)
            if now > self._millisecond or self._sequence >= 2**_SEQUENCE_BITS - _STEP_BELOW:
                self._millisecond = max(now, self._millisecond + 1)
                self._sequence = secrets.randbelow(_START_BELOW)
            else:
                self._sequence += 1 + secrets.randbelow(_STEP_BELOW - 1)
            return (self._millisecond % 2**42) << _SEQUENCE_BITS | self._sequence


_arrivals = _Arrivals()


def new_event_id(timestamp: datetime) -> UUID:
    """A new id for an event of that time; times before 1970 count as 1970."""
    return _version_7(_milliseconds(timestamp), _arrivals.next())


def derived_event_id(timestamp: datetime, digest: bytes, *, place: int = 0) -> UUID:
    """The id of an event that is known by a digest of what it says: the same again and again.

    Where others have the time of arrival stands the event's ``place`` among those that share its
    timestamp (22 bits), then 52 bits of the digest.
    """
    milliseconds = _milliseconds(timestamp)
    told = int.from_bytes(digest[:8]) >> 12
    number = min(place, _MAX_PLACE) << _DIGEST_BITS | told
    return _version_7(milliseconds, number)


def timeless_id(digest: bytes) -> UUID:
    """The id (UUIDv8) of an event without a time of its own, from a digest of what it says."""
    number = int.from_bytes(digest[:16])
    number = number & ~(0xF << 76) | _VERSION_OF_DIGESTS << 76
    return UUID(int=number & ~(0b11 << 62) | 0b10 << 62)


def time_of(event_id: UUID) -> datetime | None:
    """The time inside a UUIDv7, to the millisecond; None for other UUIDs and beyond year 9999."""
    if event_id.version != _VERSION:
        return None
    try:
        return _EPOCH + timedelta(milliseconds=event_id.int >> 80)
    except OverflowError:
        return None


def _milliseconds(timestamp: datetime) -> int:
    milliseconds = (timestamp - _EPOCH) // timedelta(milliseconds=1)
    return min(max(milliseconds, 0), _MAX_MILLISECONDS)


def _version_7(milliseconds: int, number: int) -> UUID:
    high, low = number >> 62, number & (2**62 - 1)
    return UUID(int=milliseconds << 80 | _VERSION << 76 | high << 64 | 0b10 << 62 | low)
