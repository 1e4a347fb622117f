"""Spans of time as conditions by which PostgreSQL prunes partitions while it plans."""

from collections.abc import Iterable, Sequence

from psycopg import sql

from mnemolite.partitions.ranges import Range


def joined(ranges: Iterable[Range]) -> list[Range]:
    """Ranges in order of time, those that adjoin as one."""
    spans: list[Range] = []
    for one in ranges:
        if spans and spans[-1].until == one.since:
            spans[-1] = Range(spans[-1].since, one.until)
        else:
            spans.append(one)
    return spans


def rest(spans: Sequence[Range]) -> list[Range]:
    """All of time but the spans, which are in order and apart."""
    left: list[Range] = []
    reached = None
    for span in spans:
        if span.since is not None and span.since != reached:
            left.append(Range(reached, span.since))
        if span.until is None:
            return left
        reached = span.until
    return [*left, Range(reached, None)]


def within(spans: Sequence[Range], column: sql.Composable) -> sql.Composable:
    """The condition that a time lies in one of the spans; true for all of time."""
    return sql.SQL("({})").format(sql.SQL(" OR ").join(_inside(span, column) for span in spans))


def _inside(span: Range, column: sql.Composable) -> sql.Composable:
    bounds = [
        sql.SQL("{} {} {}").format(column, sql.SQL(sign), sql.Literal(bound))
        for sign, bound in ((">=", span.since), ("<", span.until))
        if bound is not None
    ]
    return sql.SQL("({})").format(sql.SQL(" AND ").join(bounds)) if bounds else sql.SQL("true")
