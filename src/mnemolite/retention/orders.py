"""What is to go now: rules and the policy of the partitions, with the moment they come down to."""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, cast

from mnemolite.database import LATEST, Connection
from mnemolite.errors import RetentionNotFoundError
from mnemolite.filters import And, parse
from mnemolite.models import RetentionRule, parse_age
from mnemolite.partitions import EVENTS, Interval, Leaf, leaves, start_of
from mnemolite.retention.batches import Wanted
from mnemolite.retention.rules import OLDER_THAN, PARTITIONS, rules
from mnemolite.sql import load

_queries, _partitions = load("retention"), load("partitions")


@dataclass(frozen=True, slots=True)
class Options:
    """What a run is for, and what becomes of partitions.

    ``rule`` is the only one to apply, ``older_than`` an age in place of all rules. ``archive`` is
    the folder that partitions are written to before they are dropped; with ``keep`` they stay as
    tables apart from the memory.
    """

    rule: str | None = None
    older_than: str | None = None
    archive: Path | None = None
    keep: bool = False

    @property
    def whole_only(self) -> bool:
        """Whether what goes by its age alone must go as a whole partition, or stay."""
        return self.archive is not None or self.keep


@dataclass(frozen=True, slots=True)
class Order:
    """What a rule comes down to at this moment."""

    rule: str
    until: datetime | None  # events from before are old enough; None: age does not count
    takes_all: bool  # nothing but age decides
    wanted: Wanted


async def orders(connection: Connection, options: Options) -> list[Order]:
    """What is to be done. Raises RetentionNotFoundError for a rule that there is not."""
    if options.older_than is not None:
        rule = RetentionRule(name=OLDER_THAN, max_age=parse_age(options.older_than))
        return [await _order(connection, rule)]
    policy = await _policy(connection)
    if options.rule is None:
        given = [rule for rule in await rules(connection) if rule.enabled]
        return policy + [await _order(connection, rule) for rule in given]
    if options.rule == PARTITIONS and policy:
        return policy
    for rule in await rules(connection):
        if rule.name == options.rule:
            return [await _order(connection, rule)]
    raise RetentionNotFoundError(
        f"There is no rule {options.rule!r}.",
        field="rule",
        remedy="`mnemolite retention list` shows them.",
    )


async def expired(connection: Connection, order: Order) -> list[Leaf]:
    """The partitions of events whose time is over as a whole, oldest first."""
    if not order.takes_all or order.until is None:
        return []
    return [leaf for leaf in await leaves(connection, EVENTS) if _is_over(leaf, order.until)]


def _is_over(leaf: Leaf, until: datetime) -> bool:
    end = leaf.range.until if leaf.is_partition and leaf.range is not None else None
    return end is not None and end <= until


async def plan(connection: Connection) -> dict[str, Any] | None:
    """How the events are partitioned; None: they are not."""
    return await (await connection.execute(_partitions["plan"])).fetchone()


async def _policy(connection: Connection) -> list[Order]:
    """The age of the partitions, rounded down to the beginning of one."""
    row = await plan(connection)
    if row is None or row["retention"] is None:
        return []
    moment = await _before(connection, row["retention"])
    until = start_of(moment, cast("Interval", row["events_interval"]))
    return [Order(PARTITIONS, until, takes_all=True, wanted=Wanted(And(()), until=until))]


async def _order(connection: Connection, rule: RetentionRule) -> Order:
    until = None if rule.max_age is None else await _before(connection, rule.max_age)
    wanted = Wanted(
        parse(rule.where),
        rule.namespace,
        until=LATEST if until is None else until,
        keep_last=rule.keep_last,
        keep_per=rule.keep_per,
    )
    return Order(rule.name, until, takes_all=rule.takes_all, wanted=wanted)


async def _before(connection: Connection, age: str) -> datetime:
    row = await (await connection.execute(_queries["before"], {"age": age})).fetchone()
    assert row is not None
    moment = row["moment"]
    assert isinstance(moment, datetime)
    return moment
