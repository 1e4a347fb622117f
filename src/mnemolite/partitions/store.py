"""The store of partitions: what they are, what is watched and advised, and how they are kept."""

from collections.abc import Awaitable, Callable

import structlog
from psycopg import sql

from mnemolite.database import Connection, Database
from mnemolite.errors import LayoutBusyError, LayoutRefusedError
from mnemolite.models import (
    IndexState,
    Maintained,
    PartitionAdvice,
    PartitionFigures,
    PartitionReport,
    PartitionState,
    PartitionWatch,
)
from mnemolite.partitions.advice import advise
from mnemolite.partitions.catalog import EVENTS, Leaf, leaves
from mnemolite.partitions.maintenance import MAX_ROWS, Round
from mnemolite.partitions.management import manager_of
from mnemolite.partitions.plan import Plan, read_plan
from mnemolite.partitions.tables import (
    Partitioned,
    partitioned_tables,
    tables,
)
from mnemolite.partitions.turn import taking_turn
from mnemolite.partitions.watch import estimated_events, watch
from mnemolite.settings.partitions import PartitionSettings
from mnemolite.sql import load

log = structlog.get_logger(__name__)

_queries = load("partition_state")
_clock = load("maintenance")

_SAMPLE_ROWS = 20_000

Step = Callable[[Round, Partitioned], Awaitable[None]]


class PartitionStore:
    """The partitions of a database; every method is its own transaction or several."""

    def __init__(
        self, database: Database, settings: PartitionSettings, *, hnsw_min_rows: int
    ) -> None:
        self._database = database
        self._threshold = settings.advice_events
        self._hnsw_min_rows = hnsw_min_rows

    # --- Look -----------------------------------------------------------------------------------

    async def watch(self) -> PartitionWatch:
        """What wants to be looked at, read cheaply."""
        async with self._database.transaction() as connection:
            return await watch(connection, self._threshold)

    async def advise(self) -> PartitionAdvice:
        """The rule of thumb, applied to the figures of this database."""
        async with self._database.transaction() as connection:
            return advise(await self._figures(connection))

    async def report(self) -> PartitionReport:
        """Every partition, and the layout as a whole; counts the events."""
        async with self._database.transaction() as connection:
            plan = await read_plan(connection)
            states = await self._states(connection)
            version = None
            watched = await watch(connection, self._threshold)
            if plan is not None and not any(c.about == "manager" for c in watched.concerns):
                manager = await manager_of(connection, plan.manager)
                plan, version = await manager.settle(connection, plan), manager.version
        return PartitionReport(
            mode=watched.mode,
            events=sum(state.rows for state in states if state.table == EVENTS),
            interval=plan and plan.events_interval,
            embeddings_interval=plan and plan.embeddings_interval,
            premake=plan and plan.premake,
            retention=plan and plan.retention,
            manager=plan and plan.manager,
            manager_version=version,
            watch=watched,
            partitions=states,
        )

    async def _states(self, connection: Connection) -> list[PartitionState]:
        states = []
        for table in await tables(connection):
            await connection.execute(_queries["hold"].format(table=sql.Identifier(table)))
            found = await leaves(connection, table)
            counts = await self._count(connection, found) if table == EVENTS else {}
            states += [
                await self._state(connection, table, leaf=leaf, rows=counts.get(leaf.name))
                for leaf in found
            ]
        return states

    async def _count(self, connection: Connection, found: list[Leaf]) -> dict[str, int]:
        """The rows of each, all in one snapshot."""
        parts = [
            _queries["count_leaf"].format(
                name=sql.Literal(leaf.name), table=sql.Identifier(leaf.schema, leaf.name)
            )
            for leaf in found
        ]
        cursor = await connection.execute(sql.SQL(" UNION ALL ").join(parts))
        return {row["name"]: row["rows"] async for row in cursor}

    async def _state(
        self, connection: Connection, table: str, *, leaf: Leaf, rows: int | None
    ) -> PartitionState:
        name = sql.Identifier(leaf.schema, leaf.name).as_string(connection)
        values = {"name": name, "index": f"{leaf.name}_hnsw_idx"}
        row = await (await connection.execute(_queries["leaf"], values)).fetchone() or {}
        rows = row["rows"] if rows is None else rows
        index: IndexState | None = None
        if table != EVENTS:
            index = self._index_state(row["index_valid"], rows)
        looked = row["hits"] + row["reads"]
        return PartitionState(
            table=table,
            name=leaf.name,
            since=leaf.range and leaf.range.since,
            until=leaf.range and leaf.range.until,
            is_default=leaf.range is None,
            rows=rows,
            bytes=row["bytes"],
            index=index,
            cache_hit_rate=float(row["hits"] / looked) if looked else None,
        )

    def _index_state(self, valid: bool | None, rows: int) -> IndexState:
        if valid is None:
            return "needed" if rows >= self._hnsw_min_rows else "none"
        return "valid" if valid else "invalid"

    async def _figures(self, connection: Connection) -> PartitionFigures:
        plan = await read_plan(connection)
        events = await estimated_events(connection)
        values = {"rows": _SAMPLE_ROWS, "events": events}
        row = await (await connection.execute(_queries["sample"], values)).fetchone() or {}
        searches = await (await connection.execute(_queries["searches"])).fetchone() or {}
        if events <= _SAMPLE_ROWS:  # the sample is all of them, and statistics come late
            events = row["sampled"]
        scale = events / row["sampled"] if row["sampled"] else 0
        return PartitionFigures(
            mode="unpartitioned" if plan is None else "partitioned",
            events=events,
            threshold=self._threshold,
            events_per_month=round(row["recent"] * scale),
            first_timestamp=row["first_timestamp"],
            last_timestamp=row["last_timestamp"],
            searches=searches["searches"],
            bounded_searches=searches["bounded"],
            interval=plan and plan.events_interval,
            retention=plan and plan.retention,
        )

    # --- Keep -----------------------------------------------------------------------------------

    async def maintain(self, *, dry_run: bool = False, max_rows: int = MAX_ROWS) -> Maintained:
        """Make the partitions ahead; with ``dry_run`` only say which.

        Rows of the default partition that belong there come along, up to ``max_rows`` for each.
        Does nothing, and says so, while another process is at it, or a change of the layout is not
        finished.
        """
        try:
            return await self._round(Round.make_ahead, dry_run=dry_run, max_rows=max_rows)
        except LayoutBusyError as error:
            async with self._database.connection() as connection:
                plan = await read_plan(connection)
            return _maintained(plan, dry_run=dry_run, skipped=error.detail)

    async def drain(self, *, dry_run: bool = False, max_rows: int = MAX_ROWS) -> Maintained:
        """Give the rows of default partitions partitions of their own, up to ``max_rows`` each.

        Raises LayoutRefusedError where there are no partitions, and LayoutBusyError while another
        process is at it, or a change of the layout is not finished.
        """
        done = await self._round(Round.drain, dry_run=dry_run, max_rows=max_rows)
        if done.mode == "unpartitioned":
            raise LayoutRefusedError(
                "The events are not partitioned.",
                remedy="`mnemolite partitions advise` says whether they should be.",
            )
        return done

    async def _round(self, step: Step, *, dry_run: bool, max_rows: int) -> Maintained:
        async with taking_turn(self._database) as connection:
            plan = await read_plan(connection)
            if plan is None:
                return _maintained(None, dry_run=dry_run)
            manager = await manager_of(connection, plan.manager)
            plan = await manager.settle(connection, plan)
            row = await (await connection.execute(_clock["clock"])).fetchone() or {}
            made = Round(
                connection, manager, plan=plan, now=row["now"], max_rows=max_rows, dry_run=dry_run
            )
            for table in await partitioned_tables(connection, plan):
                await step(made, table)
        for each in () if dry_run else made.created:
            log.info("partition_created", partition=each.name, rows_moved=each.rows)
        return _maintained(plan, dry_run=dry_run, done=made)


def _maintained(
    plan: Plan | None, *, dry_run: bool, done: Round | None = None, skipped: str | None = None
) -> Maintained:
    return Maintained(
        mode="unpartitioned" if plan is None else "partitioned",
        manager=plan and plan.manager,
        dry_run=dry_run,
        created=done.created if done else [],
        held_back=done.held_back if done else [],
        skipped=skipped,
    )
