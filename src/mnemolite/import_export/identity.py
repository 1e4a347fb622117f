"""Which id a draft gets: one that a second run of the same source gives it again.

- A draft with an id of its own keeps it.
- One with a timestamp is known by namespace, session, timestamp, content, and by its place among
  the drafts of the same namespace, session and timestamp: so two equal lines are two events, and
  turns that share a timestamp keep their order.
- One without a timestamp is known by namespace, session, content, and by how often the same was
  read before. Its time is the time of the import, a microsecond after the one before it.
- One that its source calls by a key is known by that key and its content, wherever it stands.
"""

import hashlib
import sqlite3
from datetime import UTC, datetime, timedelta
from uuid import UUID

from mnemolite import exact_json
from mnemolite.ids import derived_event_id, time_of, timeless_id
from mnemolite.import_export.formats.contract import Draft
from mnemolite.intake import Incoming

_MICROSECOND = timedelta(microseconds=1)
_CACHE_KIBIBYTES = 16 * 1024


class Occurrences:
    """How often something was met before: exactly, and in bounded memory, for files of any size."""

    def __init__(self) -> None:
        # A private database that SQLite keeps in memory up to its cache, and beyond it in a
        # temporary file. Threads use it one after the other.
        self._known = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        for pragma in (f"cache_size = -{_CACHE_KIBIBYTES}", "journal_mode = OFF"):
            self._known.execute(f"PRAGMA {pragma}")
        self._known.execute("CREATE TABLE known (key INTEGER PRIMARY KEY, times INTEGER NOT NULL)")
        self._known.execute("BEGIN")

    def count(self, digest: bytes) -> int:
        """How often this was counted before; 0 for the first time."""
        row = self._known.execute(
            "INSERT INTO known VALUES (?, 0) ON CONFLICT DO UPDATE SET times = times + 1 "
            "RETURNING times",
            [int.from_bytes(digest[:8], signed=True)],
        ).fetchone()
        return int(row[0])

    def close(self) -> None:
        """Give the memory and the temporary file back."""
        self._known.close()


class Identities:
    """Settles id and time of the drafts of one source, in their order."""

    def __init__(self) -> None:
        self._occurrences = Occurrences()
        self._latest = datetime.min.replace(tzinfo=UTC)

    def settle(self, draft: Draft) -> Incoming:
        """The event as it is to be stored."""
        event = draft.event
        told = event.timestamp or (time_of(event.id) if event.id else None)
        return Incoming(
            id=event.id or self._derived_id(draft, told),
            timestamp=told or self._now(),
            event=event,
            dated=told is not None,
            # A derived id with a time is its event's alone.
            shared_id=event.id is not None or told is None,
            created_at=draft.created_at,
            passages=draft.passages,
        )

    def close(self) -> None:
        """Forget what was met."""
        self._occurrences.close()

    def _derived_id(self, draft: Draft, told: datetime | None) -> UUID:
        event = draft.event
        stamp = told.isoformat() if told else None
        place = [event.namespace, event.session, stamp]
        what = [*place, draft.key, event.content]
        if draft.key is not None:
            digest = _digest(what)
            return derived_event_id(told, digest) if told else timeless_id(digest)
        if told is None:
            return timeless_id(_digest([*what, self._occurrences.count(_digest(what))]))
        position = self._occurrences.count(_digest(place))
        return derived_event_id(told, _digest([*what, position]), place=position)

    def _now(self) -> datetime:
        self._latest = max(datetime.now(UTC), self._latest + _MICROSECOND)
        return self._latest


def _digest(value: object) -> bytes:
    return hashlib.sha256(exact_json.dumps(value, sort_keys=True).encode()).digest()
