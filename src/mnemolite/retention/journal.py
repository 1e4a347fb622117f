"""The log of what went: a line for each partition, each run of a rule, each erasure."""

import platform
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal

from mnemolite.database import Connection
from mnemolite.models import RetentionEntry
from mnemolite.sql import load

_queries = load("retention")

Kind = Literal["partition", "rule", "forget"]
HOST = platform.node()


async def entries(
    connection: Connection, *, limit: int, unfinished: bool = False
) -> list[RetentionEntry]:
    """The newest lines first; with ``unfinished`` only those of partitions on their way out."""
    parameters = {"limit": limit, "unfinished": unfinished}
    cursor = await connection.execute(_queries["entries"], parameters)
    return [RetentionEntry.model_validate(row) async for row in cursor]


async def begin(connection: Connection, kind: Kind, *, rule: str, **values: Any) -> int:
    """Open a line; its number. ``values`` are columns of the log."""
    columns = ("namespace", "partition_name", "since", "until", "archive", "kept_as")
    given = {name: values.get(name) for name in columns}
    given |= {"kind": kind, "rule": rule, "host": HOST, "step": values.get("step", "deleting")}
    row = await (await connection.execute(_queries["begin"], given)).fetchone()
    return int(row["id"]) if row else 0


async def begin_or_resume(
    connection: Connection,
    kind: Kind,
    *,
    rule: str,
    namespace: str | None,
    until: datetime | None,
) -> int:
    """The line that a crash has left open, or a new one."""
    place = {"kind": kind, "rule": rule, "namespace": namespace}
    row = await (await connection.execute(_queries["resume"], place)).fetchone()
    if row is not None:
        return int(row["id"])
    return await begin(connection, kind, rule=rule, namespace=namespace, until=until)


async def count(connection: Connection, line: int, *, events: int) -> None:
    """Add to the number of events, in the transaction that deletes them."""
    await connection.execute(_queries["add_events"], {"id": line, "events": events})


async def advance(
    connection: Connection,
    line: int,
    *,
    step: str,
    events: int | None = None,
    error: str | None = None,
) -> None:
    """Write down how far it has come."""
    finished = step in ("done", "put back")
    values = {"id": line, "step": step, "events": events, "error": error, "finished": finished}
    await connection.execute(_queries["advance"], values)


async def close(connection: Connection, line: int) -> None:
    """End a line; one that tells of nothing is taken out."""
    if not (await connection.execute(_queries["discard"], {"id": line})).rowcount:
        await advance(connection, line, step="done")


async def kept_tables(connection: Connection) -> Sequence[str]:
    """The tables apart from the memory that still hold events of dropped partitions."""
    cursor = await connection.execute(_queries["kept_tables"])
    return [row["name"] async for row in cursor]
