"""Sessions: the statements that read what stands just before and after an event in its session."""

from collections.abc import Sequence
from typing import Literal

from psycopg import sql

from mnemolite.partitions import Leaf, joined, rest, within
from mnemolite.sql import load

_queries = load("sessions")

_TIME = sql.SQL("timestamp")


def beside(
    event: str, side: Literal["before", "after"], *, most: int, leaves: Sequence[Leaf]
) -> sql.Composable:
    """Ids and timestamps of up to ``most`` events, nearest first; ``event`` names a row outside.

    Partitions are read one after the other, from the event's own outwards, until there are enough.
    PostgreSQL does that only where no default partition can have its rows in between, so that one
    is read apart.
    """
    named = joined(leaf.range for leaf in leaves if leaf.range is not None)
    has_default = any(leaf.range is None for leaf in leaves)
    parts = [named, rest(named)] if has_default and named else [[]]
    scans = [
        _queries[side].format(
            event=sql.Identifier(event),
            most=sql.Literal(most),
            span=within(spans, _TIME) if spans else sql.SQL("true"),
        )
        for spans in parts
    ]
    if len(scans) == 1:
        return scans[0]
    both = sql.SQL(" UNION ALL ").join(sql.SQL("({})").format(scan) for scan in scans)
    return _queries[f"nearest_{side}"].format(parts=both, most=sql.Literal(most))
