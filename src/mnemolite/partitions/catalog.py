"""What PostgreSQL's catalog says of partitions: names and bounds, never guessed from names."""

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from mnemolite.database import Connection, Database
from mnemolite.partitions.ranges import Range
from mnemolite.sql import load

_queries = load("partitions")

EVENTS = "events"
# What is read takes a millisecond or, of many partitions, more; so searches share it for so long.
_REMEMBERED_SECONDS = 1.0
_BOUND = re.compile(r"FOR VALUES FROM \((?:MINVALUE|'([^']+)')\) TO \((?:MAXVALUE|'([^']+)')\)")


@dataclass(frozen=True, slots=True)
class Leaf:
    """A table that holds rows: a partition, or a table that is not partitioned.

    ``range`` is None for the default partition, which holds what no other does. Rows and pages are
    estimates of the last vacuum; ``indexed`` says that a valid HNSW index stands on it.
    """

    name: str
    schema: str
    range: Range | None
    row_estimate: int
    is_partition: bool
    pages: int = 0
    indexed: bool = False

    @property
    def hnsw_index(self) -> str:
        """The name of its HNSW index, whether there is one or not."""
        return f"{self.name}_hnsw_idx"


class Catalog:
    """The leaves of tables for those who only plan by them.

    What is known of partitions may be a moment old: statements name the parent, so they are right
    whatever has changed since, and only their plans can be worse.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._known: dict[str, tuple[float, list[Leaf]]] = {}

    async def leaves(self, *parents: str) -> list[list[Leaf]]:
        """The leaves of each parent."""
        now = time.monotonic()
        fresh = {parent: those for parent, (until, those) in self._known.items() if now < until}
        if wanted := [parent for parent in parents if parent not in fresh]:
            async with self._database.connection() as connection:
                fresh |= await leaves_of(connection, wanted)
            until = time.monotonic() + _REMEMBERED_SECONDS
            self._known |= {parent: (until, fresh[parent]) for parent in wanted}
        return [fresh[parent] for parent in parents]


async def leaves(connection: Connection, parent: str) -> list[Leaf]:
    """The tables that hold a parent's rows, oldest first and the default partition last."""
    return (await leaves_of(connection, [parent]))[parent]


async def leaves_of(connection: Connection, parents: Sequence[str]) -> dict[str, list[Leaf]]:
    """The same for several parents, in one statement."""
    cursor = await connection.execute(_queries["leaves"], {"parents": list(parents)})
    found: dict[str, list[Leaf]] = {parent: [] for parent in parents}
    async for row in cursor:
        leaf = Leaf(
            row["name"],
            row["schema"],
            range=_range(row["bound"]),
            row_estimate=row["row_estimate"],
            is_partition=row["bound"] is not None,
            pages=row["pages"],
            indexed=row["indexed"],
        )
        found[row["parent"]].append(leaf)
    return {parent: sorted(those, key=_age) for parent, those in found.items()}


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
