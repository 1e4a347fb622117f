"""A partition of events on its way out: detached, written to a file, emptied, dropped.

Each step is one short transaction that is written down with it, so that whoever comes next goes on
where a crash has left it. From the first step on the partition is apart from the memory and does
not change any more. It is put back when its file cannot be written, or when it is under a hold.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import structlog
from psycopg import errors, sql

from mnemolite.database import EARLIEST, LATEST, Connection, Database
from mnemolite.errors import DatabaseTimeoutError, InvalidFileError
from mnemolite.lexicon import COUNT_LOCK
from mnemolite.models import PartitionOutcome, RetentionEntry
from mnemolite.partitions import EVENTS, Leaf, leaves
from mnemolite.retention import journal, words
from mnemolite.retention.archive import free_path, write_archive
from mnemolite.retention.batches import count_table
from mnemolite.retention.vectors import delete_vectors
from mnemolite.sql import load

_queries = load("drops")
_retention = load("retention")
log = structlog.get_logger(__name__)

# Who wants the events meanwhile waits no longer than this for the change of the layout.
_LOCK_MILLISECONDS = 300
_TRIES = 60
_PAUSE_SECONDS = 1.0
_MANY = 1000

_ALL = Callable[[Connection], Awaitable[None]]


@asynccontextmanager
async def steady_connection(database: Database) -> AsyncIterator[Connection]:
    """A connection without a time-out, for statements that read a whole partition."""
    async with database.own_connection() as connection:
        await connection.execute("SELECT set_config('timezone', 'UTC', false)")
        yield connection


async def drop(
    connection: Connection, leaf: Leaf, *, rule: str, archive: Path | None, keep: bool
) -> PartitionOutcome:
    """Take a partition of events out of the memory, with all that was derived from them."""
    assert leaf.range is not None
    values: dict[str, Any] = {
        "rule": rule,
        "partition_name": leaf.name,
        "since": leaf.range.since,
        "until": leaf.range.until,
        "archive": await free_path(connection, archive, partition=leaf.name) if archive else None,
        "kept_as": await _free_name(connection, leaf.name) if keep else None,
        "step": "detached",
    }

    async def detach(connection: Connection) -> None:
        await connection.execute(_queries["hold_count"], {"key": COUNT_LOCK})
        await connection.execute(_named("detach", leaf.name))
        await connection.execute(_named("count_rest", leaf.name), _span(leaf.range))
        await journal.begin(connection, "partition", **values)

    await _in_a_short_lock(connection, detach)
    (entry,) = [e for e in await unfinished(connection) if e.partition_name == leaf.name]
    log.info("partition_detached", partition=leaf.name, rule=rule)
    return await carry_on(connection, entry)


async def unfinished(connection: Connection) -> list[RetentionEntry]:
    """Partitions that are on their way out."""
    return await journal.entries(connection, limit=_MANY, unfinished=True)


async def carry_on(connection: Connection, entry: RetentionEntry) -> PartitionOutcome:
    """Take the steps that are left."""
    name = _partition(entry)
    row = await _one(connection, _retention["table_exists"], table=name)
    if not row["found"]:
        why = "Its table was gone."
        await journal.advance(connection, entry.id, step="done", error=why)
        return _outcome(entry, error=why)
    if entry.step == "detached" and entry.archive is not None:
        try:
            await _archive(connection, entry)
        except InvalidFileError as error:
            return await put_back(connection, entry, reason=str(error))
    if entry.step != "emptied" and not await _empty(connection, entry):
        return await put_back(connection, entry, reason="A hold keeps some of its events.")
    events = await _finish(connection, entry)
    if events is None:
        return await put_back(connection, entry, reason="A hold keeps some of its events.")
    log.info("partition_dropped", partition=name, events=events, kept_as=entry.kept_as)
    return _outcome(entry, events=events)


async def put_back(
    connection: Connection, entry: RetentionEntry, *, reason: str
) -> PartitionOutcome:
    """Make the partition part of the memory again, with what came for its time meanwhile."""
    name = _partition(entry)

    async def attach(connection: Connection) -> None:
        for leaf in await leaves(connection, EVENTS):
            if leaf.range is None:
                default = {"default": sql.Identifier(leaf.name)}
                statement = _queries["move_back"].format(partition=sql.Identifier(name), **default)
                await connection.execute(statement, _span(entry))
        bounds = (entry.since, "MINVALUE"), (entry.until, "MAXVALUE")
        since, until = (
            sql.Literal(at) if at is not None else sql.SQL(open_) for at, open_ in bounds
        )
        await connection.execute(_named("attach", name, since=since, until=until))
        for space in await _spaces(connection):
            if space["status"] != "dropping":
                vectors = sql.Identifier(space["vectors"])
                statement = _named("queue_again", name, vectors=vectors)
                await connection.execute(statement, {"space": space["id"]})
        await journal.advance(connection, entry.id, step="put back", error=reason)

    await _in_a_short_lock(connection, attach)
    log.warning("partition_put_back", partition=name, reason=reason)
    return _outcome(entry, error=reason)


async def _archive(connection: Connection, entry: RetentionEntry) -> None:
    if entry.host != journal.HOST:
        raise InvalidFileError(f"Its archive was to be written on {entry.host}.", field="archive")
    await write_archive(connection, entry)
    await journal.advance(connection, entry.id, step="archived")


async def _empty(connection: Connection, entry: RetentionEntry) -> bool:
    """Delete the vectors, and what waits for some; False: a hold keeps the partition."""
    name = _partition(entry)
    async with connection.transaction():
        if await _is_held(connection, name):
            return False
        await connection.execute(_named("unqueue", name), _span(entry))
    for space in await _spaces(connection):
        await delete_vectors(connection, space["vectors"], entry=entry)
    await journal.advance(connection, entry.id, step="emptied")
    return True


async def _finish(connection: Connection, entry: RetentionEntry) -> int | None:
    """Take the events out of all statistics, tell of it, drop them: how many; None: a hold came."""
    name = _partition(entry)
    async with words.gathered(connection, name), connection.transaction():
        if await _is_held(connection, name):
            return None
        events, _ = await count_table(connection, name)
        await connection.execute(_queries["hold_count"], {"key": COUNT_LOCK})
        await words.discount(connection, name)
        for query in ("blank_keys", "tell"):
            await connection.execute(_named(query, name))
        if entry.kept_as is None:
            await connection.execute(_queries["drop"].format(table=sql.Identifier(name)))
        else:
            names = {"table": sql.Identifier(name), "kept": sql.Identifier(entry.kept_as)}
            await connection.execute(_queries["set_aside"].format(**names))
        await journal.advance(connection, entry.id, step="done", events=events)
    return events


async def _is_held(connection: Connection, table: str) -> bool:
    """Whether a hold keeps any of it; until the transaction ends, none is added."""
    await connection.execute(_retention["keep_holds"])
    return bool((await count_table(connection, table))[1])


async def _in_a_short_lock(connection: Connection, change: _ALL) -> None:
    """Make a change that locks the events, in a transaction that gives up soon and tries again."""
    for _ in range(_TRIES):
        try:
            async with connection.transaction():
                patience = {"milliseconds": _LOCK_MILLISECONDS}
                await connection.execute(_queries["be_patient"], patience)
                await change(connection)
        except (errors.LockNotAvailable, errors.DeadlockDetected):
            await asyncio.sleep(_PAUSE_SECONDS)
        else:
            return
    raise DatabaseTimeoutError(
        f"The events were in use all the time, in {_TRIES} tries.",
        remedy="Look for long transactions in pg_stat_activity, then run it again.",
    )


async def _free_name(connection: Connection, partition: str) -> str:
    number = 1
    while True:
        name = f"kept_{partition}" if number == 1 else f"kept_{partition}_{number}"
        if not (await _one(connection, _retention["table_exists"], table=name))["found"]:
            return name
        number += 1


async def _spaces(connection: Connection) -> list[dict[str, Any]]:
    return await (await connection.execute(_queries["spaces"])).fetchall()


def _named(query: str, partition: str, **names: sql.Composable) -> sql.Composed:
    return _queries[query].format(
        parent=sql.Identifier(EVENTS), partition=sql.Identifier(partition), **names
    )


def _span(of: Any) -> dict[str, Any]:
    return {"since": of.since or EARLIEST, "until": of.until or LATEST}


def _partition(entry: RetentionEntry) -> str:
    assert entry.partition_name is not None
    return entry.partition_name


def _outcome(
    entry: RetentionEntry, *, events: int = 0, error: str | None = None
) -> PartitionOutcome:
    return PartitionOutcome(
        name=_partition(entry),
        since=entry.since,
        until=entry.until,
        events=events,
        archive=None if error else entry.archive,
        kept_as=None if error else entry.kept_as,
        error=error,
    )


async def _one(connection: Connection, query: sql.SQL, **parameters: Any) -> dict[str, Any]:
    row = await (await connection.execute(query, parameters)).fetchone()
    assert row is not None
    return row
