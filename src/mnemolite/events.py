"""The event store: add, list, change the metadata of, and delete events."""

import json
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import MAXYEAR, UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from psycopg import sql

from mnemolite.cursors import decode_cursor, encode_cursor
from mnemolite.database import EARLIEST, LATEST, Connection, Database
from mnemolite.errors import (
    DatabaseConflictError,
    EventConflictError,
    EventNotFoundError,
    InvalidInputError,
    PayloadTooLargeError,
)
from mnemolite.filters import parse
from mnemolite.idempotency import Answer, IdempotencyKeys, KeyedRequest, gone
from mnemolite.ids import new_event_id, time_of
from mnemolite.models import (
    MAX_TEXT_BYTES,
    Event,
    EventPage,
    EventQuery,
    JsonObject,
    Namespace,
    NewEvent,
    PageMeta,
)
from mnemolite.sql import load

_queries = load("events")

_FIRST_ID, _LAST_ID = UUID(int=0), UUID(int=2**128 - 1)


@dataclass(frozen=True, slots=True)
class Stored:
    """What became of new events: as they are stored, in the order of the request."""

    events: list[Event]
    created: int  # the others were there already, from an earlier try with the same ids
    replayed: bool = False  # the answer of an earlier try with the same idempotency key


class EventStore:
    """SQL in, models out."""

    def __init__(self, database: Database, keys: IdempotencyKeys, *, default_language: str) -> None:
        self._database = database
        self._keys = keys
        self._language = default_language
        self._known_namespaces: set[str] = set()

    async def add(
        self, new_events: Sequence[NewEvent], *, request: KeyedRequest | None = None
    ) -> Stored:
        """Store the events in one transaction, all or none.

        A ``request`` that was answered before is answered alike. Raises EventConflictError when a
        client's id belongs to an event of other content, and what IdempotencyKeys raises.
        """
        async with self._adding(new_events) as connection:
            if request and (answer := await self._keys.answer(connection, request)):
                return await self._replayed(connection, request, answer=answer)
            rows, created = await self._store(connection, new_events)
            found = await self._by_ids(connection, [row.id for row in rows])
            stored = Stored([found[row.id] for row in rows], created)
            if request:
                await self._keys.record(connection, request, answer=_answer_of(stored))
        return stored

    async def answered(self, request: KeyedRequest) -> Stored | None:
        """What an earlier try with the same key was answered, if there was one."""
        async with self._database.transaction() as connection:
            answer = await self._keys.answer(connection, request)
            return await self._replayed(connection, request, answer=answer) if answer else None

    async def count_added(self, new_events: Sequence[NewEvent]) -> int:
        """The same for those who do not want them back: only how many are new."""
        async with self._adding(new_events) as connection:
            _, created = await self._store(connection, new_events)
        return created

    @asynccontextmanager
    async def _adding(self, new_events: Sequence[NewEvent]) -> AsyncIterator[Connection]:
        async with self._database.transaction() as connection:
            yield connection
        # Only now: what a transaction that failed has added does not exist.
        self._known_namespaces |= {event.namespace for event in new_events}

    async def _store(
        self, connection: Connection, new_events: Sequence[NewEvent]
    ) -> tuple[list["_Row"], int]:
        """Insert what is new; all rows, and how many were inserted."""
        await self._add_namespaces(connection, {event.namespace for event in new_events})
        kept = await self._already_stored(connection, new_events)
        await _check_text_sizes(connection, new_events)
        rows = [_Row.of(event, kept.get(index)) for index, event in enumerate(new_events)]
        fresh = _first_of_each_id(rows, kept)
        await self._insert(connection, fresh)
        return rows, len(fresh)

    async def _replayed(
        self, connection: Connection, request: KeyedRequest, *, answer: Answer
    ) -> Stored:
        """The answer of an earlier try, from the events as they are."""
        found = await self._by_ids(connection, answer.event_ids)
        if not found.keys() >= set(answer.event_ids):  # dropped with their partition
            raise gone(request)
        events = [
            found[event_id].model_copy(update={"pending": pending})
            for event_id, pending in zip(answer.event_ids, answer.pending, strict=True)
        ]
        return Stored(events, answer.created, replayed=True)

    async def get(self, event_id: UUID) -> Event:
        """The event of that id, in whatever namespace. Raises EventNotFoundError."""
        async with self._database.connection() as connection:
            found = await self._by_ids(connection, [event_id])
        if event_id not in found:
            raise EventNotFoundError(f"No event has the id {event_id}.", field="id")
        return found[event_id]

    async def page(self, query: EventQuery) -> EventPage:
        """One page of a namespace's events."""
        newest = query.order == "newest"
        after_timestamp, after_id = _after(query)
        statement = _queries["page"].format(
            where=parse(query.where).to_sql("e"),
            beyond=sql.SQL("<" if newest else ">"),
            direction=sql.SQL("DESC" if newest else "ASC"),
        )
        parameters = {
            "namespace": query.namespace,
            "session": query.session,
            "since": query.since or EARLIEST,
            "until": query.until or LATEST,
            "after_timestamp": after_timestamp,
            "after_id": after_id,
            "limit": query.limit + 1,
        }
        async with self._database.connection() as connection:
            cursor = await connection.execute(statement, parameters)
            events = [Event.model_validate(row) async for row in cursor]
        return _page_of(events, query)

    async def merge_metadata(self, event_id: UUID, patch: JsonObject) -> Event:
        """Apply a JSON merge patch (RFC 7396) to an event's metadata."""
        async with self._database.transaction() as connection:
            row = await self._lock(connection, event_id)
            merged = merge_patch(row["metadata"], patch)
            parameters = {**row, "metadata": _dump(merged)}
            await connection.execute(_queries["update_metadata"], parameters)
            return (await self._by_ids(connection, [event_id]))[event_id]

    async def delete(self, event_id: UUID) -> None:
        """Delete the event and all that was derived from it. Raises EventNotFoundError."""
        async with self._database.transaction() as connection:
            for earliest, latest in _time_bounds(event_id):
                cursor = await connection.execute(
                    _queries["delete"], {"id": event_id, "earliest": earliest, "latest": latest}
                )
                if cursor.rowcount:
                    return
        raise EventNotFoundError(f"No event has the id {event_id}.", field="id")

    async def namespaces(self) -> list[Namespace]:
        """Every namespace with what it holds, by name."""
        async with self._database.connection() as connection:
            cursor = await connection.execute(_queries["namespaces"])
            return [Namespace.model_validate(row) async for row in cursor]

    async def counts(self) -> dict[str, int]:
        """Events, namespaces, and bytes of the database."""
        async with self._database.connection() as connection:
            cursor = await connection.execute(_queries["counts"])
            return await cursor.fetchone() or {}

    async def database_facts(self) -> dict[str, str]:
        """The versions of the server, its extensions and the schema."""
        async with self._database.connection() as connection:
            cursor = await connection.execute(_queries["database_facts"])
            return {row["name"]: row["version"] async for row in cursor}

    async def analyze(self) -> None:
        """Let PostgreSQL's planner look at what the tables hold."""
        async with self._database.own_connection() as connection:
            await connection.execute("ANALYZE")

    async def add_namespaces(self, names: Iterable[str], language: str | None = None) -> None:
        """Make sure that the namespaces exist; ``language`` is for those that do not yet."""
        async with self._database.transaction() as connection:
            await self._add_namespaces(connection, set(names), language=language)

    async def _add_namespaces(
        self, connection: Connection, names: set[str], *, language: str | None = None
    ) -> None:
        unknown = names - self._known_namespaces
        if not unknown:
            return
        language = language or self._language
        cursor = await connection.execute(
            _queries["language_exists"], {"name": f"mnemo_{language}"}
        )
        if not (await cursor.fetchone() or {}).get("found"):
            raise InvalidInputError(
                f"PostgreSQL has no text-search language {language!r}.",
                field="language",
                remedy="Use one that `SELECT cfgname FROM pg_ts_config` lists, or simple.",
            )
        await connection.execute(
            _queries["add_namespaces"], {"names": list(unknown), "language": f"mnemo_{language}"}
        )

    async def _already_stored(
        self, connection: Connection, new_events: Sequence[NewEvent]
    ) -> dict[int, UUID]:
        """The positions whose id is stored already; conflicts are raised."""
        given = [(index, event) for index, event in enumerate(new_events) if event.id]
        if not given:
            return {}
        parameters = {
            "ids": [event.id for _, event in given],
            "namespaces": [event.namespace for _, event in given],
            "sessions": [event.session for _, event in given],
            "timestamps": [_given_timestamp(event) for _, event in given],
            "contents": [_dump(event.content) for _, event in given],
        }
        # Across partitions an id alone cannot be unique, so its users take turns.
        await connection.execute(_queries["lock_ids"], {"ids": parameters["ids"]})
        cursor = await connection.execute(_queries["existing"], parameters)
        kept: dict[int, UUID] = {}
        async for row in cursor:
            index = given[row["position"] - 1][0]
            if not row["same"]:
                raise _conflict(index, row["id"], batch_size=len(new_events))
            kept[index] = row["id"]
        return kept

    async def _insert(self, connection: Connection, rows: Sequence["_Row"]) -> None:
        if not rows:
            return
        parameters = {
            "ids": [row.id for row in rows],
            "namespaces": [row.event.namespace for row in rows],
            "sessions": [row.event.session for row in rows],
            "timestamps": [row.timestamp for row in rows],
            "contents": [row.content for row in rows],
            "metadata": [_dump(row.event.metadata) for row in rows],
        }
        cursor = await connection.execute(_queries["insert"], parameters)
        if cursor.rowcount != len(rows):
            self._known_namespaces.clear()
            raise DatabaseConflictError("Not every event could be inserted; none was.")

    async def _by_ids(self, connection: Connection, ids: Sequence[UUID]) -> dict[UUID, Event]:
        """Look in the span of time that the ids tell; then everywhere for those not found."""
        found: dict[UUID, Event] = {}
        for earliest, latest in _time_bounds(*ids):
            missing = [event_id for event_id in ids if event_id not in found]
            if not missing:
                break
            cursor = await connection.execute(
                _queries["by_ids"], {"ids": missing, "earliest": earliest, "latest": latest}
            )
            found |= {row["id"]: Event.model_validate(row) async for row in cursor}
        return found

    async def _lock(self, connection: Connection, event_id: UUID) -> dict[str, Any]:
        for earliest, latest in _time_bounds(event_id):
            cursor = await connection.execute(
                _queries["lock"], {"id": event_id, "earliest": earliest, "latest": latest}
            )
            if row := await cursor.fetchone():
                return row
        raise EventNotFoundError(f"No event has the id {event_id}.", field="id")


@dataclass(frozen=True, slots=True)
class _Row:
    """A new event with everything filled in."""

    id: UUID
    timestamp: datetime
    event: NewEvent
    content: str

    @classmethod
    def of(cls, event: NewEvent, kept: UUID | None) -> "_Row":
        timestamp = _given_timestamp(event) or datetime.now(UTC)
        content = _dump(event.content)
        return cls(kept or event.id or new_event_id(timestamp), timestamp, event, content)

    def repeats(self, first: "_Row") -> bool:
        """Whether it is the same event once more, by what counts for stored ones too."""
        mine, other = self.event, first.event
        return (
            (mine.namespace, mine.session) == (other.namespace, other.session)
            and (_given_timestamp(mine) or first.timestamp) == first.timestamp
            and json.dumps(mine.content, sort_keys=True)
            == json.dumps(other.content, sort_keys=True)
        )


def _answer_of(stored: Stored) -> Answer:
    events = stored.events
    return Answer([one.id for one in events], [one.pending for one in events], stored.created)


def merge_patch(target: Any, patch: Any) -> Any:
    """RFC 7396: objects merge, null removes, everything else replaces."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = merge_patch(merged.get(key), value)
    return merged


def _given_timestamp(event: NewEvent) -> datetime | None:
    """The client's timestamp, or the one inside its UUIDv7."""
    if event.timestamp is not None or event.id is None:
        return event.timestamp
    return time_of(event.id)


def _first_of_each_id(rows: Sequence[_Row], kept: dict[int, UUID]) -> list[_Row]:
    """The rows to insert: not stored yet, and one for each id."""
    fresh: dict[UUID, _Row] = {}
    for index, row in enumerate(rows):
        if index in kept:
            continue
        first = fresh.setdefault(row.id, row)
        if first is not row and not row.repeats(first):
            raise _conflict(index, row.id, batch_size=len(rows))
    return list(fresh.values())


def _conflict(index: int, event_id: UUID, *, batch_size: int) -> EventConflictError:
    return EventConflictError(
        f"The id {event_id} belongs to an event of other content.",
        field="id" if batch_size == 1 else f"events[{index}].id",
        remedy="Send the same event again, or leave the id out for a new one.",
    )


def _time_bounds(*ids: UUID) -> list[tuple[datetime | str, datetime | str]]:
    """Where to look for the ids: first by the time they carry, then everywhere."""
    times = [time for time in map(time_of, ids) if time]
    everywhere: list[tuple[datetime | str, datetime | str]] = [(EARLIEST, LATEST)]
    if not times or max(times).year == MAXYEAR:
        return everywhere
    return [(min(times), max(times) + timedelta(milliseconds=1)), *everywhere]


def _dump(value: JsonObject) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _after(query: EventQuery) -> tuple[datetime | str, UUID]:
    """Where the page begins: behind the last event of the page before, or at the very end."""
    if query.cursor is not None:
        return decode_cursor(query.cursor, order=query.order)
    return (LATEST, _LAST_ID) if query.order == "newest" else (EARLIEST, _FIRST_ID)


def _page_of(events: list[Event], query: EventQuery) -> EventPage:
    shown = events[: query.limit]
    cursor = None
    if len(events) > len(shown):
        cursor = encode_cursor((shown[-1].timestamp, shown[-1].id), order=query.order)
    return EventPage(data=shown, meta=PageMeta(next_cursor=cursor, count=len(shown)))


async def _check_text_sizes(connection: Connection, new_events: Sequence[NewEvent]) -> None:
    """Refuse texts whose words would not fit into a tsvector, naming the event."""
    # A text is never longer than the JSON it is taken from.
    contents = {i: _dump(event.content) for i, event in enumerate(new_events)}
    large = {i: text for i, text in contents.items() if len(text.encode()) > MAX_TEXT_BYTES}
    if not large:
        return
    cursor = await connection.execute(_queries["text_sizes"], {"contents": list(large.values())})
    for index, row in zip(large, await cursor.fetchall(), strict=True):
        if row["bytes"] > MAX_TEXT_BYTES:
            raise PayloadTooLargeError(
                f"The text has {row['bytes']:,} bytes; at most {MAX_TEXT_BYTES:,} are searchable.",
                field="content" if len(new_events) == 1 else f"events[{index}].content",
                remedy="Split it into several events of one session.",
            )
