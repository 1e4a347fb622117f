"""What is watched: size, default partitions, partitions ahead, changes that are not finished."""

from mnemolite.database import Connection
from mnemolite.errors import LayoutRefusedError
from mnemolite.models import Concern, PartitionWatch
from mnemolite.partitions.carve import Carver
from mnemolite.partitions.maintenance import missing
from mnemolite.partitions.management import manager_of
from mnemolite.partitions.plan import Plan, read_plan
from mnemolite.partitions.ranges import Range
from mnemolite.partitions.tables import partitioned_tables, unfinished_change
from mnemolite.sql import load

_queries = load("partition_state")
_clock = load("maintenance")

# A default partition holds nothing or a few rows; how many more is for `status` to say.
_COUNTED = 10_000


async def estimated_events(connection: Connection) -> int:
    """How many events there are, by PostgreSQL's statistics."""
    row = await (await connection.execute(_queries["estimate"])).fetchone()
    return int(row["events"]) if row else 0


async def watch(connection: Connection, threshold: int) -> PartitionWatch:
    """What is to be said of the partitions; reads statistics and small tables only."""
    events = await estimated_events(connection)
    plan = await read_plan(connection)
    change = await unfinished_change(connection)
    concerns = [_unfinished(change)] if change else []
    default_rows, absent = 0, 0
    if plan is None:
        concerns += _size(events, threshold)
    else:
        plan, books = await _settled(connection, plan)
        concerns += books
        default_rows, absent = await _count(connection, plan)
        concerns += _kept(default_rows, absent)
    return PartitionWatch(
        mode="unpartitioned" if plan is None else "partitioned",
        estimated_events=events,
        threshold=threshold,
        default_rows=default_rows,
        missing=absent,
        change=change,
        detail=_detail(events, threshold, plan=plan, concerns=concerns),
        concerns=concerns,
    )


async def _settled(connection: Connection, plan: Plan) -> tuple[Plan, list[Concern]]:
    """The plan as its manager has it, and what is wrong with the manager."""
    try:
        manager = await manager_of(connection, plan.manager)
        settled = await manager.settle(connection, plan)
        said = await manager.concern(connection)
    except LayoutRefusedError as error:
        return plan, [_manager(error.detail, error.remedy or "", urgent=True)]
    if said is None:
        return settled, []
    remedy = "Set it back in part_config; `mnemolite retention` is what drops events."
    return settled, [_manager(said, remedy, urgent=False)]


async def _count(connection: Connection, plan: Plan) -> tuple[int, int]:
    """Rows in default partitions, and partitions that are missing."""
    row = await (await connection.execute(_clock["clock"])).fetchone()
    rows = absent = 0
    for table in await partitioned_tables(connection, plan):
        carver = await Carver.of(connection, table.name)
        rows += await carver.count(Range(None, None), at_most=_COUNTED)
        absent += missing(row["now"], table, premake=plan.premake) if row else 0
    return rows, absent


def _detail(events: int, threshold: int, *, plan: Plan | None, concerns: list[Concern]) -> str:
    if concerns:
        return "; ".join(concern.detail for concern in concerns)
    if plan is None:
        return f"unpartitioned, fine: about {events:,} events, below the threshold of {threshold:,}"
    return f"partitioned by {plan.events_interval}, managed by {plan.manager}, nothing is missing"


def _size(events: int, threshold: int) -> list[Concern]:
    if events < threshold:
        return []
    return [
        Concern(
            about="size",
            urgent=False,
            detail=f"unpartitioned, and about {events:,} events, past {threshold:,}",
            remedy="`mnemolite partitions advise` says whether and how to partition.",
        )
    ]


def _kept(default_rows: int, absent: int) -> list[Concern]:
    concerns = []
    if default_rows:
        more = " or more" if default_rows >= _COUNTED else ""
        concerns.append(
            Concern(
                about="default",
                urgent=False,
                detail=f"{default_rows:,}{more} rows lie in default partitions",
                remedy="`mnemolite partitions drain` gives those within its reach partitions.",
            )
        )
    if absent:
        concerns.append(
            Concern(
                about="ahead",
                urgent=True,
                detail=f"{absent} partitions that should be made ahead are missing",
                remedy="`mnemolite partitions maintain` makes them; a running worker does so.",
            )
        )
    return concerns


def _unfinished(change: str) -> Concern:
    return Concern(
        about="change",
        urgent=False,
        detail=f"a change of the layout is not finished: {change}",
        remedy="A running worker goes on with it, and so does the same command again.",
    )


def _manager(detail: str, remedy: str, *, urgent: bool) -> Concern:
    return Concern(about="manager", urgent=urgent, detail=detail, remedy=remedy)
