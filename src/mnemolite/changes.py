"""The store of changes: what became of the events, in an order in which readers miss nothing.

The order is that of the transactions' ids, and a reader takes only what is older than every
transaction that still runs. A slow one is waited for: nothing is skipped, nothing comes twice.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from functools import cached_property
from typing import Any, NamedTuple

import structlog

from mnemolite.database import Connection, Database
from mnemolite.errors import CursorGoneError, DatabaseReadOnlyError
from mnemolite.filters import And, Filter, parse
from mnemolite.models import CURSOR, ChangeKind, Event, EventChange, FeedQuery
from mnemolite.sql import load

_queries = load("changes")
log = structlog.get_logger(__name__)

PAGE_CHANGES = 500
_PAGE_BYTES = 8 * 1024 * 1024  # as stored, which is compressed
_PURGE_STEP = 5000
_GONE_REMEDY = "Begin anew with after=now or after=start; GET /v1/events lists what is stored."


class Position(NamedTuple):
    """A place between two changes: after this transaction's change of that number."""

    xid: int
    n: int


@dataclass(frozen=True, slots=True)
class Selection:
    """Which changes are told. ``None`` for a namespace or session: all of them."""

    namespace: str | None
    session: str | None
    kinds: Sequence[ChangeKind]
    where: Filter

    @classmethod
    def of(cls, query: FeedQuery) -> "Selection":
        """What a query asks for. Raises InvalidFilterError."""
        return cls(
            namespace=None if query.all_namespaces else query.namespace,
            session=query.session,
            kinds=query.kinds,
            where=parse(query.where),
        )

    def takes(self, told: "Told") -> bool:
        """Whether a change belongs to it, just as ``read`` decides."""
        change, event = told.change, told.change.event
        if self.namespace not in (None, change.namespace) or change.kind not in self.kinds:
            return False
        if event is None:  # what it held is gone, so only its place can be asked for
            return True
        return self.session in (None, event.session) and self.where.holds(told.documents)


EVERYTHING = Selection(None, None, ("added", "changed", "deleted"), And(()))


@dataclass(frozen=True)
class Told:
    """A change with its place, as all readers of a process share it."""

    position: Position
    change: EventChange
    bytes: int
    _content: str | None = field(repr=False)
    _metadata: str | None = field(repr=False)

    @cached_property
    def documents(self) -> dict[str, dict[str, object]]:
        """Content and metadata with their numbers exact, as filters compare them."""
        return {
            "content": json.loads(self._content or "{}", parse_float=Decimal),
            "metadata": json.loads(self._metadata or "{}", parse_float=Decimal),
        }

    @cached_property
    def data(self) -> str:
        """The event as JSON; of a deleted one its id, namespace and timestamp."""
        if self.change.event is not None:
            return self.change.event.model_dump_json()
        return self.change.model_dump_json(include={"id", "namespace", "timestamp"})


@dataclass(frozen=True, slots=True)
class Look:
    """What there is behind a position: a span to read."""

    epoch: str
    begin: Position
    end: Position
    ready: bool  # the span holds changes
    more: bool  # there are others behind the span that can be read at once
    held: bool  # there are others that wait for a transaction to end
    oldest: datetime | None  # when the first of them all was made

    @property
    def lag_seconds(self) -> float:
        """How long the oldest change has been waiting to be told."""
        return max(0.0, (datetime.now(UTC) - self.oldest).total_seconds()) if self.oldest else 0.0


class ChangeStore:
    """SQL in, models out."""

    def __init__(self, database: Database, *, hours: float) -> None:
        self._database = database
        self._hours = hours

    async def settle(self) -> None:
        """Begin a new epoch if the rows were written elsewhere, as after a restore from a dump."""
        async with self._database.connection() as connection:
            if not (await _row(connection, "settle"))["foreign"]:
                return
        try:
            async with self._database.transaction() as connection:
                await connection.execute(_queries["lock"])  # others may be doing the same
                if (await _row(connection, "settle"))["foreign"]:
                    await connection.execute(_queries["clear"])
                    await connection.execute(_queries["begin_epoch"])
                    log.info("feed_epoch_begun")
        except DatabaseReadOnlyError:
            log.warning("feed_epoch_not_begun")  # the first process that can write does it

    async def start(self, after: datetime | str) -> tuple[str, Position]:
        """The epoch, and the position that ``after`` means. Raises CursorGoneError."""
        async with self._database.connection() as connection:
            row = await self._look_row(connection, Position(0, 0))
            epoch, purged = row["epoch"], _purged(row)
            last = _last(row, purged)
            if isinstance(after, datetime):
                first = (await _row(connection, "since", at=after))["xid"]
                return epoch, last if first is None else Position(first, 0)
        if after in ("now", "start"):
            return epoch, last if after == "now" else purged
        horizon = Position(int(row["horizon_xid"]), 0)
        return epoch, _checked(after, epoch=epoch, first=purged, last=horizon)

    async def look(self, after: Position, *, epoch: str) -> Look:
        """What there is behind a position. Raises CursorGoneError if that was purged."""
        async with self._database.connection() as connection:
            row = await self._look_row(connection, after)
        if row["epoch"] != epoch or after < _purged(row):
            raise CursorGoneError(remedy=_GONE_REMEDY)
        more = row["stop_n"] is not None
        end = Position(int(row["stop_xid"]), row["stop_n"]) if more else _last(row, after)
        return Look(
            epoch=epoch,
            begin=after,
            end=end,
            ready=row["ready_at"] is not None,
            more=more,
            held=row["held_at"] is not None,
            oldest=row["ready_at"] or row["held_at"],
        )

    async def read(
        self, look: Look, selection: Selection = EVERYTHING
    ) -> tuple[list[Told], Position]:
        """The changes of a span that belong to the selection, and the position behind them.

        That lies before the end of the span where the events are too large for one page.
        """
        parameters = {
            "xid": str(look.begin.xid),
            "n": look.begin.n,
            "stop_xid": str(look.end.xid),
            "stop_n": look.end.n,
            "limit": PAGE_CHANGES,
            "bytes": _PAGE_BYTES,
            "namespace": selection.namespace,
            "session": selection.session,
            "kinds": list(selection.kinds),
        }
        statement = _queries["read"].format(where=selection.where.to_sql("e"))
        async with self._database.connection() as connection:
            rows = await (await connection.execute(statement, parameters)).fetchall()
        told = [_told(row, look.epoch) for row in rows]
        whole = not rows or rows[0]["total"] == len(rows)
        return told, look.end if whole else told[-1].position

    async def purge(self) -> int:
        """Forget some of what is too old; how many."""
        parameters = {"hours": self._hours, "step": _PURGE_STEP}
        async with self._database.connection() as connection:
            row = await (await connection.execute(_queries["purge"], parameters)).fetchone()
        return 0 if row is None else int(row["purged"])

    async def _look_row(self, connection: Connection, after: Position) -> dict[str, Any]:
        return await _row(connection, "look", xid=str(after.xid), n=after.n, limit=PAGE_CHANGES)


def cursor_of(epoch: str, position: Position) -> str:
    """What a client sends to go on from a position."""
    return f"{epoch}-{position.xid}-{position.n}"


async def _row(connection: Connection, query: str, **parameters: Any) -> dict[str, Any]:
    row = await (await connection.execute(_queries[query], parameters)).fetchone()
    assert row is not None, query
    return row


def _purged(row: dict[str, Any]) -> Position:
    return Position(int(row["purged_xid"]), row["purged_n"])


def _last(row: dict[str, Any], otherwise: Position) -> Position:
    """The last change that can be told.

    Not the horizon itself: transactions that leave no change behind, or that do not wait for the
    disk, raise it to numbers that a crash of the server hands out once more.
    """
    if row["last_n"] is None:
        return otherwise
    return Position(int(row["last_xid"]), row["last_n"])


def _checked(cursor: str, *, epoch: str, first: Position, last: Position) -> Position:
    """The position of a cursor that lies within what the feed holds."""
    parts = CURSOR.fullmatch(cursor)
    assert parts is not None, cursor
    position = Position(int(parts[2]), int(parts[3]))
    # Behind the end: of a database that lost its last transactions, as in a fail-over.
    if parts[1] != epoch or not first <= position or position.xid > last.xid:
        raise CursorGoneError(field="after", remedy=_GONE_REMEDY)
    return position


def _told(row: dict[str, Any], epoch: str) -> Told:
    position = Position(int(row["xid"]), row["n"])
    content, metadata = row["content"], row["metadata"]
    place = {"namespace": row["namespace"], "timestamp": row["timestamp"]}
    event = None
    if row["kind"] != "deleted":
        event = Event(
            id=row["event_id"],
            session=row["session"],
            created_at=row["created_at"],
            content=json.loads(content),
            metadata=json.loads(metadata),
            text=row["text"],
            pending=row["pending"],
            **place,
        )
    change = EventChange(
        cursor=cursor_of(epoch, position),
        kind=row["kind"],
        at=row["at"],
        id=row["event_id"],
        event=event,
        **place,
    )
    size = len(content) + len(metadata) if event else 0
    return Told(position, change, size, content, metadata)
