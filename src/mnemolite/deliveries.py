"""The store of deliveries: changes of the feed become deliveries, one webhook at a time.

Whoever delivers to a webhook holds it by a lease, so that its order is kept and nobody else sends
the same. A change becomes a delivery in the transaction that moves the webhook's position on; it
ends when the target has taken it, so whatever dies in between, it is told at least once.
"""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import structlog

from mnemolite.changes import ChangeStore, Position, Selection, Told
from mnemolite.cursors import decode_cursor, encode_cursor
from mnemolite.database import LATEST, Connection, Database
from mnemolite.errors import CursorGoneError
from mnemolite.ids import new_event_id
from mnemolite.models import (
    Delivery,
    DeliveryPage,
    DeliveryQuery,
    DeliveryStatus,
    Event,
    FeedQuery,
    PageMeta,
    format_timestamp,
)
from mnemolite.settings.webhooks import WebhookSettings
from mnemolite.sql import load

_queries = load("deliveries")
log = structlog.get_logger(__name__)

_PURGE_STEP = 5000
_BATCH_BYTES = 8 * 1024 * 1024  # of events, as stored, which is compressed
_LAST_ID = UUID(int=2**128 - 1)
_ORDER = "deliveries"
# Beyond the longest request: time to write down what came of it.
_LEASE_MARGIN_SECONDS = 2.0
_LONGEST_DOUBLINGS = 30


@dataclass(frozen=True, slots=True)
class Due:
    """A delivery that is to be made now; without an event there is nothing left to tell."""

    id: UUID
    cursor: str
    kind: str
    changed_at: datetime
    attempts: int
    data: str | None  # JSON: of a deleted event its id, namespace and timestamp


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a try."""

    delivery: UUID
    status: DeliveryStatus
    tried: bool = True
    wait_seconds: float = 0.0
    milliseconds: int | None = None
    response_status: int | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Round:
    """What came of all requests that were made at the same time."""

    outcomes: Sequence[Outcome]
    failures: int  # rounds without a success up to this one
    pause_seconds: float
    succeeded: bool
    gone: bool  # the target wants to be told nothing any more
    error: str | None


class Deliveries:
    """SQL in, models out."""

    def __init__(
        self, database: Database, changes: ChangeStore, *, settings: WebhookSettings
    ) -> None:
        self._database = database
        self._changes = changes
        self._settings = settings

    async def page(self, webhook: UUID, query: DeliveryQuery) -> DeliveryPage:
        """What was, and is to be, told to a webhook, the newest first."""
        before: tuple[datetime | str, UUID] = (LATEST, _LAST_ID)
        if query.cursor is not None:
            before = decode_cursor(query.cursor, order=_ORDER)
        parameters = {
            "webhook": webhook,
            "status": query.status,
            "before": before[0],
            "before_id": before[1],
            "limit": query.limit + 1,
        }
        async with self._database.connection() as connection:
            cursor = await connection.execute(_queries["page"], parameters)
            rows = [Delivery.model_validate(row) async for row in cursor]
        shown, following = rows[: query.limit], None
        if len(rows) > len(shown):
            following = encode_cursor((shown[-1].created_at, shown[-1].id), order=_ORDER)
        return DeliveryPage(data=shown, meta=PageMeta(next_cursor=following, count=len(shown)))

    async def retry(self, webhook: UUID, delivery: UUID | None = None) -> int:
        """Give dead letters, all of a webhook's or one, another round of tries; how many."""
        parameters = {"webhook": webhook, "delivery": delivery}
        async with self._database.connection() as connection:
            row = await (await connection.execute(_queries["retry"], parameters)).fetchone()
        return 0 if row is None else int(row["retried"])

    async def purge(self) -> int:
        """Forget some of what has ended long ago; how many."""
        parameters = {
            "log_days": self._settings.log_days,
            "dead_days": self._settings.dead_days,
            "step": _PURGE_STEP,
        }
        async with self._database.connection() as connection:
            return (await connection.execute(_queries["purge"], parameters)).rowcount

    async def claim(self, by: UUID) -> "Turn | None":
        """The webhook that has waited longest of those that something waits for, if any."""
        parameters = {"by": by, "lease": self.lease_seconds}
        async with self._database.connection() as connection:
            row = await (await connection.execute(_queries["claim"], parameters)).fetchone()
        return None if row is None else Turn(self, row, by=by)

    @property
    def lease_seconds(self) -> float:
        """Silence after which somebody else may deliver to a webhook."""
        return 2 * self._settings.timeout_seconds + _LEASE_MARGIN_SECONDS

    @property
    def database(self) -> Database:
        return self._database

    @property
    def changes(self) -> ChangeStore:
        return self._changes


class Turn:
    """One webhook in the hands of one deliverer."""

    def __init__(self, deliveries: Deliveries, row: dict[str, Any], *, by: UUID) -> None:
        self.webhook: UUID = row["id"]
        self.url: str = row["url"]
        self.secret: str = row["secret"]
        self._database = deliveries.database
        self._changes = deliveries.changes
        self._selection = Selection.of(FeedQuery.model_validate(row["query"]))
        self._epoch: str = row["epoch"]
        self._position = Position(int(row["xid"]), row["n"])
        self._held = {"webhook": row["id"], "by": by, "lease": deliveries.lease_seconds}

    async def collect(self) -> bool:
        """Turn one page of the feed into deliveries; whether there was anything to read."""
        try:
            look = await self._changes.look(self._position, epoch=self._epoch)
        except CursorGoneError:
            return await self._begin_anew()
        if not look.ready:
            return False
        told, reached = await self._changes.read(look, self._selection)
        return await self._move(self._epoch, reached, told=told)

    async def due(self, limit: int) -> "tuple[list[Due], int] | None":
        """What is to be delivered now, and after how many failed rounds; None: the turn is over.

        After a failure one request goes first, to see whether the target is back.
        """
        async with self._database.connection() as connection:
            hook = await (await connection.execute(_queries["hold"], self._held)).fetchone()
            if hook is None or hook["url"] != self.url:
                return None
            if not hook["due"]:
                return [], hook["failures"]
            parameters = {
                "webhook": self.webhook,
                "limit": 1 if hook["failures"] else limit,
                "bytes": _BATCH_BYTES,
            }
            statement = _queries["due"].format(where=self._selection.where.to_sql("e"))
            rows = await (await connection.execute(statement, parameters)).fetchall()
        return [_due(row) for row in rows], hook["failures"]

    async def record(self, round_: Round) -> None:
        """Write down what came of a round."""
        outcomes = round_.outcomes
        results = {
            "ids": [one.delivery for one in outcomes],
            "statuses": [one.status for one in outcomes],
            "tries": [int(one.tried) for one in outcomes],
            "waits": [one.wait_seconds for one in outcomes],
            "milliseconds": [one.milliseconds for one in outcomes],
            "responses": [one.response_status for one in outcomes],
            "errors": [one.error for one in outcomes],
        }
        async with self._database.transaction() as connection:
            # Not removed meanwhile, which would wait for this transaction, and this one for it.
            if any(one.tried for one in outcomes):
                await self._tell(connection, round_)
            await connection.execute(_queries["record"], results)

    async def release(self, rest_seconds: float) -> None:
        """Let others have the webhook, after a rest."""
        parameters = {**self._held, "rest": rest_seconds}
        async with self._database.connection() as connection:
            await connection.execute(_queries["release"], parameters)

    async def _tell(self, connection: Connection, round_: Round) -> None:
        parameters = {
            "webhook": self.webhook,
            "failures": round_.failures,
            "pause": round_.pause_seconds,
            "succeeded": round_.succeeded,
            "gone": round_.gone,
            "error": round_.error,
        }
        await connection.execute(_queries["tell"], parameters)

    async def _begin_anew(self) -> bool:
        """Go on with the oldest change that is kept, and leave a mark that some may be missing."""
        epoch, position = await self._changes.start("start")
        log.warning("webhook_has_gap", webhook=str(self.webhook))
        return await self._move(epoch, position, gap=True)

    async def _move(
        self, epoch: str, to: Position, *, told: Sequence[Told] = (), gap: bool = False
    ) -> bool:
        place = {**self._held, "epoch": epoch, "xid": str(to.xid), "n": to.n, "gap": gap}
        now = datetime.now(UTC)
        changes = [one.change for one in told]
        rows = {
            "webhook": self.webhook,
            "ids": [new_event_id(now) for _ in changes],
            "cursors": [change.cursor for change in changes],
            "kinds": [change.kind for change in changes],
            "changed_at": [change.at for change in changes],
            "event_ids": [change.id for change in changes],
            "timestamps": [change.timestamp for change in changes],
            "namespaces": [change.namespace for change in changes],
        }
        async with self._database.transaction() as connection:
            moved = (await connection.execute(_queries["move"], place)).rowcount
            if moved and told:
                await connection.execute(_queries["add"], rows)
        self._epoch, self._position = epoch, to
        return bool(moved)


def wait_seconds(attempt: int, settings: WebhookSettings) -> float:
    """How long to wait after that many failed tries: it doubles, and differs for each caller."""
    doublings = min(max(attempt - 1, 0), _LONGEST_DOUBLINGS)
    longest = min(settings.retry_seconds * 2.0**doublings, settings.retry_max_seconds)
    return random.uniform(longest / 2, longest)


def _due(row: dict[str, Any]) -> Due:
    return Due(
        id=row["delivery"],
        cursor=row["cursor"],
        kind=row["kind"],
        changed_at=row["changed_at"],
        attempts=row["attempts"],
        data=_data(row),
    )


def _data(row: dict[str, Any]) -> str | None:
    """What is told of the event, as it is now; None if it is gone, or matches no more."""
    place = {"namespace": row["namespace"], "timestamp": row["timestamp"]}
    if row["kind"] == "deleted":
        return json.dumps({"id": str(row["event_id"]), **place}, default=format_timestamp)
    if not row["fits"]:
        return None
    event = Event(
        id=row["event_id"],
        session=row["session"],
        created_at=row["created_at"],
        content=row["content"],
        metadata=row["metadata"],
        text=row["text"],
        pending=row["pending"],
        **place,
    )
    return event.model_dump_json()
