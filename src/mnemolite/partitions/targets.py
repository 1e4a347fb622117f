"""Targets: into which partitions a table is to be laid out, seen from the rows that it holds."""

from datetime import UTC, datetime
from typing import Any

from mnemolite.database import Connection
from mnemolite.partitions.blueprint import Blueprint
from mnemolite.partitions.plan import Part, Plan, attached, current_time, divided
from mnemolite.sql import load

_queries = load("relayout")


async def target_of(
    connection: Connection, found: Blueprint, *, operation: str, plan: Plan
) -> list[Part] | None:
    """The partitions that an operation makes of a table; None: one plain table."""
    interval = plan.interval_of(found.name)
    if operation == "disable" or interval is None:
        return None
    if operation == "split":
        return divided(
            interval,
            current_time(),
            filled=await _filled(connection, found, interval=interval),
            premake=plan.premake,
            at_most=await most_parts(connection),
        )
    latest = await latest_of(connection, found) if operation == "enable" else None
    return attached(interval, current_time(), latest=latest, premake=plan.premake)


async def most_parts(connection: Connection) -> int:
    """How many partitions a table may have, by the locks that this server has room for."""
    return int((await _one(connection, "most_parts"))["parts"])


async def latest_of(connection: Connection, found: Blueprint) -> datetime | None:
    """The time of the latest row."""
    statement = _queries["latest"].format(table=found.identifier())
    row = await (await connection.execute(statement)).fetchone()
    latest: datetime | None = row["latest"] if row else None
    return None if latest is None else latest.astimezone(UTC)


async def _filled(connection: Connection, found: Blueprint, *, interval: str) -> list[datetime]:
    statement = _queries["filled"].format(table=found.identifier())
    cursor = await connection.execute(statement, {"interval": interval})
    return [row["start"].astimezone(UTC) async for row in cursor]


async def _one(connection: Connection, query: str) -> dict[str, Any]:
    return await (await connection.execute(_queries[query])).fetchone() or {}
