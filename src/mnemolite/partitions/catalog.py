"""What PostgreSQL's catalog says of partitions: names and bounds, never guessed from names."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime

from mnemolite.database import Connection
from mnemolite.partitions.ranges import Range
from mnemolite.sql import load

_queries = load("partitions")

EVENTS = "events"
_BOUND = re.compile(r"FOR VALUES FROM \((?:MINVALUE|'([^']+)')\) TO \((?:MAXVALUE|'([^']+)')\)")


@dataclass(frozen=True, slots=True)
class Leaf:
    """A table that holds rows: a partition, or a table that is not partitioned.

    ``range`` is None for the default partition, which holds what no other does.
    """

    name: str
    schema: str
    range: Range | None
    row_estimate: int
    is_partition: bool


async def leaves(connection: Connection, parent: str) -> list[Leaf]:
    """The tables that hold a parent's rows, oldest first and the default partition last."""
    cursor = await connection.execute(_queries["leaves"], {"parent": parent})
    found = [
        Leaf(
            row["name"],
            row["schema"],
            range=_range(row["bound"]),
            row_estimate=row["row_estimate"],
            is_partition=row["bound"] is not None,
        )
        async for row in cursor
    ]
    return sorted(found, key=_age)


async def is_partitioned(connection: Connection, table: str) -> bool:
    """Whether the table is the parent of partitions."""
    row = await (await connection.execute(_queries["is_partitioned"], {"table": table})).fetchone()
    return bool(row and row["found"])


def _range(bound: str | None) -> Range | None:
    """The bounds as PostgreSQL writes them in a session whose time zone is UTC."""
    if bound is None:
        return Range(None, None)
    match = _BOUND.fullmatch(bound)
    if match is None:
        return None
    since, until = (_moment(text) for text in match.groups())
    return Range(since, until)


def _moment(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text).astimezone(UTC)


def _age(leaf: Leaf) -> tuple[bool, datetime]:
    first = datetime.min.replace(tzinfo=UTC)
    return leaf.range is None, (leaf.range and leaf.range.since) or first
