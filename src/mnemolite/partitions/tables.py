"""The tables that are partitioned, and what is under way with them."""

from dataclasses import dataclass

from mnemolite.database import Connection
from mnemolite.partitions.catalog import EVENTS, Leaf, is_partitioned, leaves
from mnemolite.partitions.plan import Plan
from mnemolite.partitions.ranges import Interval, Range
from mnemolite.sql import load

_queries = load("maintenance")


@dataclass(frozen=True, slots=True)
class Partitioned:
    """A partitioned table and the interval of its partitions."""

    name: str
    interval: Interval
    leaves: list[Leaf]

    @property
    def ranges(self) -> list[Range]:
        """What the partitions hold, the default one left out."""
        return [leaf.range for leaf in self.leaves if leaf.range is not None]

    @property
    def default(self) -> Leaf | None:
        """The default partition."""
        return next((leaf for leaf in self.leaves if leaf.range is None), None)


async def tables(connection: Connection) -> list[str]:
    """The events, and the embeddings of each space, partitioned or not."""
    cursor = await connection.execute(_queries["spaces"])
    return [EVENTS, *[f"embeddings_{row['id']}" async for row in cursor]]


async def partitioned_tables(connection: Connection, plan: Plan) -> list[Partitioned]:
    """Those that are partitioned, the events first."""
    found = []
    for name in await tables(connection):
        interval = plan.interval_of(name)
        if interval is not None and await is_partitioned(connection, name):
            found.append(Partitioned(name, interval, await leaves(connection, name)))
    return found


async def unfinished_change(connection: Connection) -> str | None:
    """A change of the layout that is under way or was broken off, in words."""
    cursor = await connection.execute(_queries["changes"])
    said = [
        f"{row['operation']} of {row['source']} (step {row['step']}, {row['rows_copied']:,} of "
        f"about {row['rows_total']:,} rows copied)"
        async for row in cursor
    ]
    return ", ".join(said) or None
