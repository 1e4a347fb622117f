"""The vectors of a partition of events that goes: whole partitions of them, or batch by batch."""

from typing import Any
from uuid import UUID

import structlog
from psycopg import errors, sql

from mnemolite.database import EARLIEST, LATEST, Connection
from mnemolite.models import RetentionEntry
from mnemolite.partitions import Leaf, Range, leaves
from mnemolite.sql import load

_queries = load("drops")
log = structlog.get_logger(__name__)

_BATCH = 2000
_LOCK_MILLISECONDS = 300


async def delete_vectors(connection: Connection, vectors: str, *, entry: RetentionEntry) -> None:
    """Delete what a table of vectors holds of a detached partition of events."""
    gone = Range(entry.since, entry.until)
    rest = False
    for leaf in await leaves(connection, vectors):
        if leaf.range is not None and not leaf.range.meets(gone):
            continue
        if not (_is_past(leaf, entry) and await _drop_whole(connection, leaf)):
            rest = True
    if rest:
        await _delete_batches(connection, vectors, entry=entry)


def _is_past(leaf: Leaf, entry: RetentionEntry) -> bool:
    """Whether it is a partition that no new event belongs to."""
    until = leaf.range.until if leaf.range is not None and leaf.is_partition else None
    return until is not None and until <= entry.started_at


async def _drop_whole(connection: Connection, leaf: Leaf) -> bool:
    """Drop a partition of vectors if no event is left in its time; whether it is gone.

    A vector is stored after its event is, so behind the lock none can be of an event unseen.
    """
    if leaf.range is None or await _any_events(connection, leaf.range):
        return False
    names = {"vectors": sql.Identifier(leaf.name), "table": sql.Identifier(leaf.name)}
    try:
        async with connection.transaction():
            await connection.execute(_queries["be_patient"], {"milliseconds": _LOCK_MILLISECONDS})
            await connection.execute(_queries["lock_vectors"].format(**names))
            if await _any_events(connection, leaf.range):
                return False
            await connection.execute(_queries["drop"].format(**names))
    except errors.LockNotAvailable:  # in use: its rows go one by one, the empty table next time
        return False
    log.info("vectors_dropped", partition=leaf.name)
    return True


async def _any_events(connection: Connection, span: Range) -> bool:
    parameters = {"since": span.since or EARLIEST, "until": span.until or LATEST}
    row = await (await connection.execute(_queries["any_events"], parameters)).fetchone()
    return bool(row and row["found"])


async def _delete_batches(connection: Connection, vectors: str, *, entry: RetentionEntry) -> None:
    assert entry.partition_name is not None
    statement = _queries["delete_vectors"].format(
        partition=sql.Identifier(entry.partition_name), vectors=sql.Identifier(vectors)
    )
    last: dict[str, Any] | None = {"id": UUID(int=0), "timestamp": EARLIEST, "namespace": ""}
    span = {"since": entry.since or EARLIEST, "until": entry.until or LATEST, "limit": _BATCH}
    while last is not None:
        last = await (await connection.execute(statement, last | span)).fetchone()
