"""Spans of time that partitions hold, on the calendar of UTC; no I/O."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from mnemolite.models import PartitionInterval

Interval = PartitionInterval

_MONTHS: dict[str, int] = {"month": 1, "quarter": 3, "year": 12}
_DAYS: dict[str, int] = {"day": 1, "week": 7}


@dataclass(frozen=True, slots=True)
class Range:
    """A half-open span; None is no bound."""

    since: datetime | None
    until: datetime | None

    def holds(self, moment: datetime) -> bool:
        """Whether the moment lies in the span."""
        return (self.since is None or self.since <= moment) and (
            self.until is None or moment < self.until
        )

    def meets(self, other: "Range") -> bool:
        """Whether the two spans have a moment in common."""
        starts_in_time = self.since is None or other.until is None or self.since < other.until
        ends_in_time = self.until is None or other.since is None or other.since < self.until
        return starts_in_time and ends_in_time


def start_of(moment: datetime, interval: Interval) -> datetime:
    """The beginning of the interval that holds the moment; weeks begin on Monday."""
    day = moment.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    if interval == "day":
        return day
    if interval == "week":
        return day - timedelta(days=day.weekday())
    months = _MONTHS[interval]
    return day.replace(month=(day.month - 1) // months * months + 1, day=1)


def following(start: datetime, interval: Interval, *, steps: int = 1) -> datetime:
    """The beginning of the interval so many steps after (or, negative, before) that of ``start``.

    Raises OverflowError beyond the years 1 to 9999.
    """
    begin = start_of(start, interval)
    if interval in _DAYS:
        return begin + timedelta(days=_DAYS[interval] * steps)
    month = begin.year * 12 + begin.month - 1 + _MONTHS[interval] * steps
    try:
        return begin.replace(year=month // 12, month=month % 12 + 1)
    except ValueError as error:
        raise OverflowError(f"no {interval} {steps} steps from {start:%Y-%m-%d}") from error


def ranges(since: datetime, until: datetime, *, by: Interval) -> Iterator[Range]:
    """The intervals that hold any moment of the half-open span, oldest first."""
    start = start_of(since, by) if since < until else until
    while start < until:
        end = following(start, by)
        yield Range(start, end)
        start = end


def partition_name(parent: str, start: datetime) -> str:
    """The name of a partition that begins then."""
    return f"{parent}_p{start:%Y%m%d}"
