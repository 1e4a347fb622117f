"""Making a partition out of the default one: the table, the rows of its range, one moment of locks.

A partition cannot be attached while the default one holds rows of its range, and whoever began to
read before it was attached would miss what was moved into it. So the rows are copied into a table
beside, and only the last step, which makes up for what has changed since, keeps everybody else out:
a reader sees them all in the default partition, or all in the new one.
"""

import asyncio
from dataclasses import dataclass
from datetime import datetime

from psycopg import errors, sql

from mnemolite.database import EARLIEST, LATEST, Connection
from mnemolite.errors import DatabaseTimeoutError
from mnemolite.partitions.catalog import leaves
from mnemolite.partitions.locking import NotNowError, refuse_old_snapshots
from mnemolite.partitions.ranges import Interval, Range
from mnemolite.sql import load

_queries = load("carve")

# Longer than deadlock_timeout's default, after which an autovacuum in the way is ended.
_LOCK_MILLISECONDS = 1200
_TRIES = 5
_PAUSE_SECONDS = 0.25


@dataclass(frozen=True, slots=True)
class Spread:
    """The rows of a default partition that belong to one interval."""

    start: datetime
    rows: int
    first: datetime
    last: datetime


class Carver:
    """Makes partitions of one table, on a connection that has the turn."""

    def __init__(
        self, connection: Connection, parent: str, *, schema: str, default: str | None
    ) -> None:
        self._connection = connection
        self._parent = parent
        self._schema = schema
        self._default = default

    @classmethod
    async def of(cls, connection: Connection, parent: str) -> "Carver":
        """For a partitioned table."""
        found = await leaves(connection, parent)
        default = next((leaf.name for leaf in found if leaf.range is None), None)
        return cls(connection, parent, schema=found[0].schema, default=default)

    async def count(self, span: Range, *, at_most: int) -> int:
        """Rows of the range in the default partition; the count stops at ``at_most``."""
        if self._default is None:
            return 0
        statement = _queries["count"].format(**self._names(span), at_most=sql.Literal(at_most))
        row = await (await self._connection.execute(statement)).fetchone()
        return int(row["rows"]) if row else 0

    async def spread(self, by: Interval) -> list[Spread]:
        """What the default partition holds, oldest first."""
        if self._default is None:
            return []
        statement = _queries["spread"].format(
            default_partition=self._table(self._default), interval=sql.Literal(by)
        )
        return [Spread(**row) async for row in await self._connection.execute(statement)]

    async def is_taken(self, name: str) -> bool:
        """Whether there is a table of that name."""
        qualified = self._table(name).as_string(self._connection)
        cursor = await self._connection.execute(_queries["exists"], {"name": qualified})
        row = await cursor.fetchone()
        return bool(row and row["found"])

    async def carve(self, span: Range, name: str) -> int:
        """Make the partition with that name; how many rows it took from the default one.

        Everything happens in one transaction, or nothing. Raises DatabaseTimeoutError when others
        hold the table for too long.
        """
        names = {**self._names(span), **await self._columns(), "new": self._table(name)}
        async with self._connection.transaction():
            # Nobody else waits behind this: the new table is not known to anybody yet.
            await self._connection.execute(_queries["create"].format(**names))
            if self._default is not None:
                await self._connection.execute(_queries["take"].format(**names))
                await self._connection.execute(_queries["fill"].format(**names))
            moved = await self._swap(names)
        if moved:
            await self._connection.execute(_queries["analyze"].format(**names))
        return moved

    async def _swap(self, names: dict[str, sql.Composable]) -> int:
        """The last step, tried again while others hold the table; what was copied stays."""
        fault: Exception | None = None
        for _ in range(_TRIES):
            try:
                async with self._connection.transaction():
                    return await self._attach(names)
            except (errors.LockNotAvailable, NotNowError) as error:
                fault = error
                await asyncio.sleep(_PAUSE_SECONDS)
        raise DatabaseTimeoutError(
            f"{self._parent} is held by others.",
            remedy="Nothing was changed. pg_stat_activity shows long transactions; try again.",
        ) from fault

    async def _attach(self, names: dict[str, sql.Composable]) -> int:
        patience = {"milliseconds": str(_LOCK_MILLISECONDS)}
        await self._connection.execute(_queries["patience"], patience)
        # Of the parent first, as readers do; who waits here plans anew once the partition is there.
        await self._connection.execute(_queries["lock"].format(**names))
        await refuse_old_snapshots(self._connection)
        moved = 0
        if self._default is not None:
            await self._connection.execute(_queries["remove_changed"].format(**names))
            await self._connection.execute(_queries["add_changed"].format(**names))
            moved = (await self._connection.execute(_queries["clear"].format(**names))).rowcount
        await self._connection.execute(_queries["attach"].format(**names))
        return moved

    async def _columns(self) -> dict[str, sql.Composable]:
        columns, key = await self._column_names("columns"), await self._column_names("key")
        return {
            "columns": sql.SQL(", ").join([sql.Identifier(name) for name in columns]),
            "new_key": _listed("n", key),
            "carved_key": _listed("c", key),
        }

    async def _column_names(self, which: str) -> list[str]:
        table = self._table(self._parent).as_string(self._connection)
        cursor = await self._connection.execute(_queries[which], {"table": table})
        return [row["name"] async for row in cursor]

    def _names(self, span: Range) -> dict[str, sql.Composable]:
        return {
            "parent": self._table(self._parent),
            "default_partition": self._table(self._default or self._parent),
            "since": sql.Literal(span.since or EARLIEST),
            "until": sql.Literal(span.until or LATEST),
        }

    def _table(self, name: str) -> sql.Identifier:
        return sql.Identifier(self._schema, name)


def _listed(alias: str, names: list[str]) -> sql.Composed:
    return sql.SQL(", ").join(sql.Identifier(alias, name) for name in names)
