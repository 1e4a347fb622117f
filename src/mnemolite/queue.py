"""The embedding queue: what is pending in a space, and the leases on which workers claim it."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import numpy as np
import structlog
from numpy.typing import NDArray
from pgvector import Vector
from psycopg import sql
from psycopg.types.json import Jsonb

from mnemolite.database import Connection, Database
from mnemolite.errors import DatabaseError, EmbeddingAbandonedError, MnemoliteError
from mnemolite.models import JsonObject, QueueState, Space
from mnemolite.sql import load

log = structlog.get_logger(__name__)

_queries = load("queue")

Key = tuple[UUID, datetime, str]


@dataclass(frozen=True, slots=True)
class PendingEvent:
    """An event claimed for embedding; ``text`` is None when it was deleted meanwhile."""

    event_id: UUID
    timestamp: datetime
    namespace: str
    attempts: int
    due_since: datetime
    text: str | None
    speaker: str | None

    @property
    def key(self) -> Key:
        """The event's primary key."""
        return self.event_id, self.timestamp, self.namespace


@dataclass(frozen=True, slots=True)
class EmbeddedPassage:
    """One vector of an event: the passage's number, its span in the text, and the vector."""

    event: PendingEvent
    passage: int
    span: tuple[int, int]
    vector: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Lease:
    """On what terms a worker holds what it claims.

    After ``seconds`` without an extension others may take it over, and after as many tries as
    ``max_attempts`` nobody tries it any more.
    """

    worker: UUID
    seconds: float
    max_attempts: int


class EmbeddingQueue:
    """What waits to be embedded, and the claims on it."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @asynccontextmanager
    async def claim(self, space: Space, lease: Lease, *, limit: int) -> AsyncIterator["Claim"]:
        """Some due events, nobody else's for the time of the lease.

        No transaction is open inside the block. What is neither stored nor failed when it ends is
        given back. An event that has failed, or that another worker left behind, comes alone.
        """
        claim = Claim(self._database, space, lease=lease)
        await claim.take(limit)
        try:
            yield claim
        except (MnemoliteError, asyncio.CancelledError):
            await claim.give_back()
            raise
        # Any other error is taken for the death of the worker: the lease ends by itself, and each
        # event is then tried alone, so that the one at fault is found.
        await claim.give_back()

    async def state(self, space: Space) -> QueueState:
        """What waits to be embedded, and what was given up."""
        async with self._database.connection() as connection:
            cursor = await connection.execute(_queries["state"], {"space": space.id})
            return QueueState.model_validate(await cursor.fetchone())

    async def retry_parked(self, space: Space) -> int:
        """Make the parked events of a space due again, with all their tries; how many."""
        async with self._database.connection() as connection:
            cursor = await connection.execute(_queries["retry_parked"], {"space": space.id})
            return cursor.rowcount

    async def pending(self, space: Space, *, at_most: int) -> int:
        """How many events a worker will still try; a count that stops there costs no more."""
        values = {"space": space.id, "at_most": at_most}
        async with self._database.connection() as connection:
            row = await (await connection.execute(_queries["pending"], values)).fetchone()
        return int(row["events"]) if row else 0

    async def brings_text(self, contents: Sequence[JsonObject]) -> bool:
        """Whether any event of these contents would be queued."""
        values = {"contents": [Jsonb(content) for content in contents]}
        async with self._database.connection() as connection:
            row = await (await connection.execute(_queries["brings_text"], values)).fetchone()
        return bool(row and row["found"])

    async def pending_of_ids(self, space: Space, ids: Sequence[UUID]) -> int:
        """How many of these events are still to be embedded; parked ones do not count."""
        parameters = {"space": space.id, "ids": list(ids)}
        async with self._database.connection() as connection:
            row = await (
                await connection.execute(_queries["pending_of_ids"], parameters)
            ).fetchone()
        return int(row["pending"]) if row else 0


class Claim:
    """Events that a worker holds, and the ways to be done with them.

    Each way is one short transaction that touches only what the worker still holds: an event that
    was deleted, or taken over after the lease, is left alone.
    """

    def __init__(self, database: Database, space: Space, *, lease: Lease) -> None:
        self._database = database
        self._space = space
        self._lease = lease
        self._open: dict[Key, PendingEvent] = {}
        self._held_at = time.monotonic()
        self.events: list[PendingEvent] = []
        self.parked: list[PendingEvent] = []
        """What was given up at the claim: its workers died too often."""
        self.taken_over = 0

    async def take(self, limit: int) -> None:
        """Claim up to ``limit`` due events."""
        values = {
            **self._terms,
            "limit": limit,
            "max_attempts": self._lease.max_attempts,
            "abandoned": _ABANDONED,
        }
        async with self._database.connection() as connection:
            row = await (await connection.execute(_queries["next"], values)).fetchone()
            if row is None:
                return
            values |= row | ({"limit": 1} if row["suspect"] else {})
            cursor = await connection.execute(_queries["claim"], values)
            async for row in cursor:
                self.taken_over += row.pop("abandoned")
                found = self.parked if row.pop("parked") else self.events
                found.append(PendingEvent(**row))
        self._open = {event.key: event for event in self.events}

    @property
    def open(self) -> int:
        """How many events are neither done nor given back."""
        return len(self._open)

    @property
    def oldest(self) -> datetime | None:
        """Since when the oldest of these has been due."""
        return min((event.due_since for event in self._open.values()), default=None)

    async def extend_when_due(self) -> None:
        """Once a third of the lease is over, hold what is still open for a whole one more."""
        now = time.monotonic()
        if not self._open or now - self._held_at < self._lease.seconds / 3:
            return
        values = {**self._terms, **_keys(list(self._open.values()))}
        async with self._database.connection() as connection:
            await connection.execute(_queries["extend"], values)
        self._held_at = now

    async def store(
        self, events: Sequence[PendingEvent], passages: Sequence[EmbeddedPassage]
    ) -> int:
        """Take events off the queue and write their vectors; how many were still held."""
        async with self._database.transaction() as connection:
            held = await self.finish(connection, events)
            await self._write(connection, [each for each in passages if each.event.key in held])
        self._close(events)
        return len(held)

    async def finish(self, connection: Connection, events: Sequence[PendingEvent]) -> set[Key]:
        """Take events off the queue inside a transaction; the keys of those that were held."""
        cursor = await connection.execute(_queries["finish"], {**self._terms, **_keys(events)})
        return {(row["event_id"], row["timestamp"], row["namespace"]) async for row in cursor}

    async def fail(self, event: PendingEvent, error: str, *, retry_seconds: float) -> bool:
        """Put the event back for later with its error. True: it is parked for good."""
        values = {
            **self._terms,
            "event_id": event.event_id,
            "timestamp": event.timestamp,
            "namespace": event.namespace,
            "error": error,
            "max_attempts": self._lease.max_attempts,
            "retry_seconds": retry_seconds,
        }
        async with self._database.connection() as connection:
            row = await (await connection.execute(_queries["fail"], values)).fetchone()
        self._close([event])
        return bool(row and row["parked"])

    async def give_back(self) -> None:
        """Let others have what is still open, at once; no try is counted.

        If the database does not answer, the leases end by themselves.
        """
        if not self._open:
            return
        events = list(self._open.values())
        due_since = [event.due_since for event in events]
        values = {**self._terms, **_keys(events), "due_since": due_since}
        try:
            async with self._database.connection() as connection:
                await connection.execute(_queries["give_back"], values)
        except DatabaseError as error:
            log.warning("claims_not_given_back", events=len(events), error=str(error))
        self._close(events)

    async def _write(self, connection: Connection, passages: Sequence[EmbeddedPassage]) -> None:
        """Write the vectors, in place of those that the events may have."""
        if not passages:
            return
        table = sql.Identifier(self._space.table)
        keys = _keys([passage.event for passage in passages])
        await connection.execute(_queries["clear"].format(table=table), keys)
        # Binary COPY: as text, a vector takes longer to write and read than to look up.
        cursor = connection.cursor()
        async with cursor.copy(_queries["store"].format(table=table)) as copy:
            copy.set_types(_PASSAGE_TYPES)
            for passage in passages:
                await copy.write_row(_as_row(passage))

    @property
    def _terms(self) -> dict[str, object]:
        return {
            "space": self._space.id,
            "worker": self._lease.worker,
            "lease": self._lease.seconds,
        }

    def _close(self, events: Sequence[PendingEvent]) -> None:
        for event in events:
            self._open.pop(event.key, None)


_ABANDONED = f"{EmbeddingAbandonedError.code}: {EmbeddingAbandonedError.__doc__}"
_PASSAGE_TYPES = ("uuid", "timestamptz", "int2", "text", "int4", "int4", "vector")


def _as_row(passage: EmbeddedPassage) -> tuple[object, ...]:
    event = passage.event
    key = event.event_id, event.timestamp, passage.passage, event.namespace
    return *key, *passage.span, Vector(passage.vector)


def _keys(events: Sequence[PendingEvent]) -> dict[str, object]:
    return {
        "event_ids": [event.event_id for event in events],
        "timestamps": [event.timestamp for event in events],
        "namespaces": [event.namespace for event in events],
    }
