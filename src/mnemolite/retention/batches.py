"""Deleting events in small batches, each one transaction, oldest first, and none that is held."""

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from psycopg import sql

from mnemolite.database import EARLIEST, LATEST, Connection, Database
from mnemolite.filters import Filter
from mnemolite.models import Per
from mnemolite.retention import journal
from mnemolite.retention.rules import holds
from mnemolite.retention.selection import Condition, Portion, any_of
from mnemolite.sql import load

_queries = load("retention")

BATCH = 1000
_FIRST_ID = UUID(int=0)
_EVENTS = "events"

OnDeleted = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to go, over all namespaces or one."""

    where: Filter
    namespace: str | None = None
    session: str | None = None
    since: datetime | str = EARLIEST
    until: datetime | str = LATEST
    keep_last: int | None = None
    keep_per: Per = "namespace"


@dataclass(frozen=True, slots=True)
class Gone:
    """The events of a batch."""

    namespace: str
    ids: Sequence[UUID]


async def portions(
    connection: Connection, wanted: Wanted, *, table: str = _EVENTS
) -> AsyncIterator[Portion]:
    """What is to go, namespace by namespace."""
    for namespace in [wanted.namespace] if wanted.namespace else await _all(connection, table):
        if wanted.keep_last is None or wanted.keep_per == "namespace":
            sessions: list[str | None] = [wanted.session]
        else:
            cursor = await connection.execute(_queries["sessions"], {"namespace": namespace})
            sessions = [row["session"] async for row in cursor]
        for session in sessions:
            portion = Portion(
                namespace, session, wanted.since, until=wanted.until, where=wanted.where
            )
            if wanted.keep_last is None:
                yield portion
            elif before := await _first_kept(connection, portion, keep_last=wanted.keep_last):
                yield Portion(namespace, session, wanted.since, wanted.until, before, wanted.where)


async def count(connection: Connection, wanted: Wanted, *, table: str = _EVENTS) -> tuple[int, int]:
    """How many events are meant, and how many of them are held."""
    held = any_of(await holds(connection))
    events = kept = 0
    async for portion in portions(connection, wanted, table=table):
        row = await _one(connection, _statement("count", table, portion=portion, held=held))
        events, kept = events + row["events"], kept + row["held"]
    return events, kept


async def count_table(connection: Connection, table: str) -> tuple[int, int]:
    """How many events a partition has, and how many of them are held."""
    held = any_of(await holds(connection))
    statement = _queries["count_held"].format(table=sql.Identifier(table), held=held.text)
    row = await _one(connection, (statement, held.values))
    return row["events"], row["held"]


async def delete(
    database: Database,
    wanted: Wanted,
    *,
    line: int,
    table: str = _EVENTS,
    override_holds: bool = False,
) -> AsyncIterator[Gone]:
    """Delete what is meant; each batch is told of once it is committed.

    ``line`` is that of the log. What was derived from the events goes along by the triggers.
    """
    async with database.connection() as connection:
        found = [portion async for portion in portions(connection, wanted, table=table)]
    for portion in found:
        after: tuple[datetime | str, UUID] = (EARLIEST, _FIRST_ID)
        while True:
            async with database.transaction() as connection:
                await connection.execute(_queries["take_time"])
                await connection.execute(_queries["keep_holds"])
                held = any_of([] if override_holds else await holds(connection))
                rows = await _batch(connection, table, portion=portion, after=after, held=held)
                if rows:
                    await _delete(connection, table, rows=rows, namespace=portion.namespace)
                    await journal.count(connection, line, events=len(rows))
            if rows:
                yield Gone(portion.namespace, [row["id"] for row in rows])
                after = max((row["timestamp"], row["id"]) for row in rows)
            if len(rows) < BATCH:
                break


async def names_of_holders(
    connection: Connection, wanted: Wanted, *, table: str = _EVENTS
) -> set[str]:
    """The holds that keep some of what is meant."""
    names = set()
    for hold in await holds(connection):
        held = any_of([hold])
        async for portion in portions(connection, wanted, table=table):
            if (await _one(connection, _statement("held_by", table, portion=portion, held=held)))[
                "found"
            ]:
                names.add(hold.name)
    return names


async def _all(connection: Connection, table: str) -> list[str]:
    statement = _queries["namespaces"].format(table=sql.Identifier(table))
    return [row["namespace"] async for row in await connection.execute(statement)]


async def _first_kept(
    connection: Connection, portion: Portion, *, keep_last: int
) -> tuple[datetime, UUID] | None:
    statement = _queries["first_kept"].format(where=portion.where.to_sql("e"))
    values = {
        "namespace": portion.namespace,
        "session": portion.session,
        "keep_last": keep_last,
    }
    row = await (await connection.execute(statement, values)).fetchone()
    return (row["timestamp"], row["id"]) if row else None


async def _batch(
    connection: Connection,
    table: str,
    *,
    portion: Portion,
    after: tuple[datetime | str, UUID],
    held: Condition,
) -> list[dict[str, Any]]:
    statement, values = _statement("batch", table, portion=portion, held=held)
    place = {"after_timestamp": after[0], "after_id": after[1], "limit": BATCH}
    if after[0] != EARLIEST:
        place["since"] = after[0]  # so that partitions behind it are left out
    return await (await connection.execute(statement, values | place)).fetchall()


async def _delete(
    connection: Connection, table: str, *, rows: list[dict[str, Any]], namespace: str
) -> None:
    timestamps = [row["timestamp"] for row in rows]
    await connection.execute(
        _queries["delete"].format(table=sql.Identifier(table)),
        {
            "ids": [row["id"] for row in rows],
            "timestamps": timestamps,
            "namespace": namespace,
            "first": min(timestamps),
            "last": max(timestamps),
        },
    )


def _statement(
    query: str, table: str, *, portion: Portion, held: Condition
) -> tuple[sql.Composed, dict[str, object]]:
    meant = portion.condition()
    statement = _queries[query].format(
        table=sql.Identifier(table), portion=meant.text, held=held.text
    )
    return statement, meant.values | held.values


async def _one(
    connection: Connection, query: tuple[sql.Composed, dict[str, object]]
) -> dict[str, Any]:
    row = await (await connection.execute(*query)).fetchone()
    assert row is not None
    return row
