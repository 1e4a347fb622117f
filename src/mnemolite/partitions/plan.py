"""The plan: by which intervals a database is partitioned, and which partitions follow from it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, Protocol

from mnemolite.database import Connection
from mnemolite.partitions.ranges import Interval, Range, following, partition_name, ranges, start_of
from mnemolite.sql import load

_queries = load("partitions")

ManagerName = Literal["native", "pg_partman"]
# Clocks differ, so what is written in the first minutes of an interval may come before it.
_CLOCK_SLACK = timedelta(hours=1)
_DEFAULT, _LEGACY = "default", "legacy"


@dataclass(frozen=True, slots=True)
class Plan:
    """The row of ``partitioning``. ``embeddings_interval`` "none": vectors are not partitioned."""

    events_interval: Interval = "month"
    embeddings_interval: Interval | Literal["none"] = "year"
    premake: int = 4
    retention: str | None = None
    manager: ManagerName = "native"

    def interval_of(self, table: str) -> Interval | None:
        """The interval of the events, or of a space's vectors; None: it stays one table."""
        if table == "events":
            return self.events_interval
        return None if self.embeddings_interval == "none" else self.embeddings_interval


class Manager(Protocol):
    """Who makes later partitions and drops expired ones."""

    async def adopt(self, connection: Connection, plan: Plan, *, table: str) -> None:
        """Look after a table that has just been partitioned, or laid out anew, once or more."""

    async def release(self, connection: Connection, table: str) -> None:
        """Leave a table alone that is about to be one table again."""


@dataclass(frozen=True, slots=True)
class Part:
    """A partition to be: its name after that of its table, and its range; None: the default."""

    suffix: str
    range: Range | None

    def as_json(self) -> dict[str, Any]:
        """The part as it is stored; see ``of``."""
        since, until = (self.range.since, self.range.until) if self.range else (None, None)
        return {
            "suffix": self.suffix,
            "default": self.range is None,
            "since": since and since.isoformat(),
            "until": until and until.isoformat(),
        }

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> "Part":
        """The part that was stored."""
        if stored["default"]:
            return cls(stored["suffix"], None)
        bounds = [stored[name] and datetime.fromisoformat(stored[name]) for name in _BOUNDS]
        return cls(stored["suffix"], Range(*bounds))


_BOUNDS = ("since", "until")
DEFAULT = Part(_DEFAULT, None)


async def read_plan(connection: Connection, *, keep: bool = False) -> Plan | None:
    """The plan, None while nothing is partitioned. With ``keep`` it stays until the commit."""
    query = "plan_kept" if keep else "plan"
    row = await (await connection.execute(_queries[query])).fetchone()
    if row is None:
        return None
    return Plan(**{name: row[name] for name in Plan.__dataclass_fields__})


async def forget_plan(connection: Connection) -> None:
    """Forget the plan in this transaction, once nothing is partitioned and nothing is to be.

    Whoever makes a space keeps the plan until the commit, so its table is seen after the lock.
    """
    await connection.execute(_queries["lock_plan"])
    await connection.execute(_queries["forget_plan"])


def parts_of(spans: Sequence[Range]) -> list[Part]:
    """Partitions of these spans, with the default partition behind them."""
    parts = [Part(partition_name("", s.since).lstrip("_"), s) for s in spans if s.since is not None]
    return [*parts, DEFAULT]


def premade(interval: Interval, now: datetime, *, count: int) -> list[Range]:
    """The current interval and those that follow it."""
    return list(ranges(now, following(now, interval, steps=count + 1), by=interval))


def attached(
    interval: Interval, now: datetime, *, latest: datetime | None, premake: int
) -> list[Part]:
    """The old table as the partition up to the next interval, or past its latest row."""
    known = max(now + _CLOCK_SLACK, latest or now)
    try:
        bound = following(known, interval)
    except OverflowError:  # an event of the year 9999: no interval follows
        return [Part(_LEGACY, Range(None, None)), DEFAULT]
    later = ranges(bound, following(now, interval, steps=premake + 1), by=interval)
    return [Part(_LEGACY, Range(None, bound)), *parts_of(list(later))]


def divided(
    interval: Interval, now: datetime, *, filled: Sequence[datetime], premake: int, at_most: int
) -> list[Part]:
    """A partition for each interval that holds rows, the newest of them, and those made ahead.

    ``filled`` are beginnings of intervals. What is older than ``at_most`` partitions reach, and
    what lies beyond the interval that is made ahead, stays in the default partition.
    """
    ahead = premade(interval, now, count=premake)
    first = start_of(now, interval)
    older = sorted(start for start in filled if start < first)
    kept = older[-(at_most - len(ahead)) :] if at_most > len(ahead) else []
    spans = [Range(start, following(start, interval)) for start in kept]
    return parts_of([*spans, *ahead])


def current_time() -> datetime:
    """The clock; partitions are of UTC."""
    return datetime.now(UTC)
