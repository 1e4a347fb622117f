"""The layout of a new space's vectors: like that of the spaces beside it, or as the plan says."""

from collections.abc import Iterable, Iterator, Sequence

from psycopg import sql

from mnemolite.database import Connection
from mnemolite.partitions.catalog import EVENTS, Leaf, is_partitioned, leaves
from mnemolite.partitions.exchange import bound_of
from mnemolite.partitions.plan import Part, current_time, parts_of, premade, read_plan
from mnemolite.partitions.ranges import Interval, Range, following, start_of
from mnemolite.sql import load

_queries = load("relayout")


async def parts_beside(connection: Connection, table: str) -> list[Part] | None:
    """The partitions of a space's table that is made in this transaction; None: it has none.

    Those of a space that is partitioned already, for all spaces hold the same events; where there
    is no such space, the intervals that the events' partitions lie in, and the next ones.
    """
    plan = await read_plan(connection, keep=True)
    interval = plan.interval_of(table) if plan else None
    if plan is None or interval is None:
        return None
    for row in await (await connection.execute(_queries["spaces"])).fetchall():
        other = row["name"]
        if other != table and await is_partitioned(connection, other):
            found = await leaves(connection, other)
            # Bounds are read, names are made: another manager names its partitions otherwise.
            spans = [leaf.range for leaf in found if leaf.range is not None]
            legacy = [Part("legacy", span) for span in spans if span.since is None]
            return [*legacy, *parts_of([span for span in spans if span.since is not None])]
    ahead = premade(interval, current_time(), count=plan.premake)
    return _parts_over(await leaves(connection, EVENTS), ahead, interval=interval)


def _parts_over(
    events: Sequence[Leaf], ahead: Iterable[Range], *, interval: Interval
) -> list[Part]:
    """The partitions of vectors that the events' partitions want, and those made ahead."""
    spans = [leaf.range for leaf in events if leaf.range is not None]
    starts = {start_of(span.since, interval) for span in spans if span.since is not None}
    starts |= {span.since for span in ahead if span.since is not None}
    parts = parts_of([Range(start, following(start, interval)) for start in sorted(starts)])
    if any(span.since is None for span in spans):
        return [Part("legacy", Range(None, min(starts))), *parts]
    return parts


def form_of(parts: Sequence[Part] | None) -> sql.Composable:
    """What stands behind the columns of the table."""
    return sql.SQL("") if parts is None else sql.SQL(" ") + _queries["by_range"]


def create_parts(table: str, parts: Sequence[Part] | None) -> Iterator[sql.Composed]:
    """Make the partitions of a new table."""
    for part in parts or ():
        yield _queries["create_part"].format(
            part=sql.Identifier(f"{table}_{part.suffix}"),
            parent=sql.Identifier(table),
            bound=bound_of(part.range),
            form=sql.SQL(""),
        )
