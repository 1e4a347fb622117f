"""Maintenance: the partitions ahead are made, and rows that the default one holds get their own."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime

from mnemolite.database import Connection
from mnemolite.models import HeldBack, MovedRange
from mnemolite.partitions.ahead import gaps, wanted
from mnemolite.partitions.carve import Carver, Spread
from mnemolite.partitions.catalog import leaves
from mnemolite.partitions.management import Manager
from mnemolite.partitions.plan import Plan
from mnemolite.partitions.ranges import Range, following
from mnemolite.partitions.tables import Partitioned
from mnemolite.partitions.targets import most_parts

# What one transaction moves; more is a matter for `split`, which copies in the background.
MAX_ROWS = 20_000
REACH_YEARS = 20


class Round:
    """One round over partitioned tables, on a connection that has the turn."""

    def __init__(
        self,
        connection: Connection,
        manager: Manager,
        *,
        plan: Plan,
        now: datetime,
        max_rows: int = MAX_ROWS,
        dry_run: bool = False,
    ) -> None:
        self._connection = connection
        self._manager = manager
        self._plan = plan
        self._now = now
        self._max_rows = max_rows
        self._dry_run = dry_run
        self.created: list[MovedRange] = []
        self.held_back: list[HeldBack] = []

    async def make_ahead(self, table: Partitioned) -> None:
        """Make the partition of this moment and those after it, as far as they are missing."""
        carver = await Carver.of(self._connection, table.name)
        if not self._dry_run and self._manager.makes(table.name, table.leaves):
            table = await self._leave_to_manager(carver, table)
        for gap in self._missing(table):
            if not any(held.since == gap.since for held in self._held_of(table)):
                rows = await carver.count(gap, at_most=self._max_rows + 1)
                await self._make(carver, table.name, gap=gap, rows=rows)

    async def drain(self, table: Partitioned) -> None:
        """Give the rows of the default partition partitions of their own, as far as they reach."""
        carver = await Carver.of(self._connection, table.name)
        most = await most_parts(self._connection)
        room = most - len(table.leaves)
        reach = Range(following(self._now, "year", steps=-REACH_YEARS), self._end(table))
        ranges = table.ranges
        for each in await carver.spread(table.interval):
            if not reach.holds(each.start):
                self._hold(table.name, each, reason="too far from now to have a partition")
            elif room <= 0:
                self._hold(table.name, each, reason=f"{most} partitions are as many as may be")
            else:
                span = Range(each.start, following(each.start, table.interval))
                for gap in gaps(span, ranges):
                    rows = await carver.count(gap, at_most=self._max_rows + 1)
                    if rows:
                        await self._make(carver, table.name, gap=gap, rows=rows)
                        room -= 1

    async def _leave_to_manager(self, carver: Carver, table: Partitioned) -> Partitioned:
        """Let the manager make them; how the table stands then.

        It stops at rows that the default partition holds, so these come first, those of the one
        that it may make beyond the others included. Holes that this leaves are not filled by it.
        """
        for gap in self._missing(table, one_more=True):
            if rows := await carver.count(gap, at_most=self._max_rows + 1):
                await self._make(carver, table.name, gap=gap, rows=rows)
        if not self._held_of(table):
            await self._run(table)
        return replace(table, leaves=await leaves(self._connection, table.name))

    def _missing(self, table: Partitioned, *, one_more: bool = False) -> Iterator[Range]:
        premake = self._plan.premake + one_more
        for span in wanted(self._now, by=table.interval, premake=premake):
            yield from gaps(span, table.ranges)

    def _held_of(self, table: Partitioned) -> list[HeldBack]:
        return [held for held in self.held_back if held.table == table.name]

    def _end(self, table: Partitioned) -> datetime | None:
        spans = wanted(self._now, by=table.interval, premake=self._plan.premake)
        return spans[-1].until if spans else None

    async def _make(self, carver: Carver, table: str, *, gap: Range, rows: int) -> None:
        assert gap.since is not None
        name = await self._manager.name_of(self._connection, table, start=gap.since)
        if rows > self._max_rows:
            reason = (
                f"more than {self._max_rows} rows: `mnemolite partitions split` moves them in the "
                "background, or --max-rows at once"
            )
        elif await carver.is_taken(name):
            reason = f"a table named {name} is in the way"
        else:
            moved = rows if self._dry_run else await carver.carve(gap, name)
            self._created(table, name, span=gap, rows=moved)
            return
        self.held_back.append(
            HeldBack(table=table, since=gap.since, until=gap.until, rows=rows, reason=reason)
        )

    async def _run(self, table: Partitioned) -> None:
        """Let the manager work, and see what it has made."""
        before = {leaf.name for leaf in await leaves(self._connection, table.name)}
        await self._manager.run(self._connection, table.name)
        for leaf in await leaves(self._connection, table.name):
            if leaf.name not in before and leaf.range is not None:
                self._created(table.name, leaf.name, span=leaf.range, rows=0)

    def _created(self, table: str, name: str, *, span: Range, rows: int) -> None:
        assert span.since is not None
        assert span.until is not None
        self.created.append(
            MovedRange(table=table, name=name, since=span.since, until=span.until, rows=rows)
        )

    def _hold(self, table: str, each: Spread, *, reason: str) -> None:
        self.held_back.append(
            HeldBack(table=table, since=each.first, until=each.last, rows=each.rows, reason=reason)
        )


def missing(now: datetime, table: Partitioned, *, premake: int) -> int:
    """How many of the partitions that there should be by now are not, or not whole."""
    spans = wanted(now, by=table.interval, premake=premake)
    return sum(any(True for _ in gaps(span, table.ranges)) for span in spans)
