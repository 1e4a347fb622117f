"""Retention: rules, holds, what became of them, and what is to be forgotten."""

import re
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from mnemolite.models.events import ExportQuery
from mnemolite.models.values import Frozen, Name, Timestamp, Where, check_text

_AGE = re.compile(r"([0-9]{1,7})\s*([a-z]+)")
# What a unit is in PostgreSQL's own: hours, days and months are three different lengths.
_UNITS = {
    **dict.fromkeys(("h", "hour", "hours"), (1, "hour")),
    **dict.fromkeys(("d", "day", "days"), (1, "day")),
    **dict.fromkeys(("w", "week", "weeks"), (7, "day")),
    **dict.fromkeys(("month", "months"), (1, "month")),
    **dict.fromkeys(("y", "year", "years"), (12, "month")),
}
_MOST = {"hour": 24 * 36_500, "day": 36_500, "month": 1200}


def parse_age(value: object) -> str:
    """Read an age: ``24 months``, ``90 days``, ``36 hours``, ``2 years``, or ``30d``, ``2w``.

    Months are those of the calendar. The result is an interval as PostgreSQL reads it. A bare
    number is refused, and so is an age of nothing or of more than a hundred years.
    """
    match = _AGE.fullmatch(value.strip().lower()) if isinstance(value, str) else None
    if match is None or match[2] not in _UNITS:
        raise PydanticCustomError(
            "invalid_age", "must be an age with its unit, such as '24 months', '90 days' or 12h"
        )
    times, unit = _UNITS[match[2]]
    count = int(match[1]) * times
    if not 1 <= count <= _MOST[unit]:
        raise PydanticCustomError("invalid_age", "must lie between 1 hour and 100 years")
    return f"{count} {unit}{'' if count == 1 else 's'}"


def _check_reason(value: object) -> object:
    return check_text(value) if isinstance(value, str) else value


Age = Annotated[
    str,
    BeforeValidator(parse_age),
    WithJsonSchema({"type": "string", "examples": ["24 months", "90 days", "12h"]}),
]
Per = Literal["namespace", "session"]


class RetentionRule(Frozen):
    """Which events go: those that are older than an age, those that are not among the last."""

    name: Name
    namespace: Name | None = Field(None, description="Only in this one; else in each.")
    where: Where = Field(None, description="Only of those that this filter matches.")
    max_age: Age | None = Field(None, description="Those that are older go.")
    keep_last: int | None = Field(None, ge=1, le=10**12, description="The newest ones stay.")
    keep_per: Per = Field("namespace", description="Of what the newest ones stay.")
    enabled: bool = Field(True, description="Whether workers apply it.")

    @model_validator(mode="after")
    def _says_what_goes(self) -> Self:
        if self.max_age is None and self.keep_last is None:
            raise PydanticCustomError("invalid_rule", "a rule needs max_age, keep_last or both")
        return self

    @property
    def takes_all(self) -> bool:
        """Whether age alone decides, so that a partition can go as a whole."""
        return self.namespace is None and not self.where and self.keep_last is None


class RetentionHold(Frozen):
    """Events that no rule deletes: all that the filter matches."""

    name: Name
    namespace: Name | None = Field(None, description="Only in this one; else in each.")
    where: Where = Field(None, description="Only those that this filter matches; else all.")
    reason: Annotated[str, BeforeValidator(_check_reason)] | None = Field(None, max_length=2000)


class PartitionOutcome(Frozen):
    """A partition of events that was dropped, or would be."""

    name: str
    since: Timestamp | None
    until: Timestamp | None
    events: int
    held: int = Field(0, description="Events under a hold: it does not go as a whole.")
    archive: str | None = Field(None, description="The file that its events were written to.")
    kept_as: str | None = Field(None, description="The table that its events are still in.")
    error: str | None = Field(None, description="Why it was put back.")


class RuleOutcome(Frozen):
    """What a rule has deleted, or would delete."""

    rule: str
    older_than: Timestamp | None = Field(description="Events from before are old enough.")
    partitions: list[PartitionOutcome] = Field(default_factory=list)
    deleted: int = Field(description="Events deleted one by one, in small batches.")
    held: int = Field(description="Events that a hold has kept.")
    left: int = Field(0, description="Not in a whole partition, so neither archived nor deleted.")


class RetentionEntry(Frozen):
    """A line of the log."""

    id: int
    kind: Literal["partition", "rule", "forget"]
    rule: str
    started_at: Timestamp
    finished_at: Timestamp | None
    events: int
    step: str
    namespace: str | None
    partition_name: str | None
    since: Timestamp | None
    until: Timestamp | None
    archive: str | None
    kept_as: str | None
    host: str | None
    error: str | None


class RetentionState(Frozen):
    """The rules, the holds, the policy of the partitions, and what is under way."""

    rules: list[RetentionRule]
    holds: list[RetentionHold]
    partitions_older_than: str | None = Field(description="Age at which partitions go.")
    unfinished: list[RetentionEntry]


class ForgetQuery(ExportQuery):
    """What is to be erased; at least one condition."""

    @model_validator(mode="after")
    def _has_a_condition(self) -> Self:
        given = (self.namespace, self.session, self.since, self.until, self.where)
        if not any(given):
            raise PydanticCustomError(
                "invalid_filter", "nothing says what to forget: give where, namespace or a time"
            )
        return self


class ForgetReport(Frozen):
    """What was erased, and what a second look has found."""

    dry_run: bool
    matched: int = Field(description="Events that the filter matched, wherever they lay.")
    erased: int
    held: int = Field(description="Events that holds have kept.")
    held_by: list[str] = Field(description="The names of these holds.")
    matching_left: int = Field(description="Events that match still, but for those held.")
    ids_left: dict[str, int] = Field(description="Rows of erased events, by table; should be {}.")
    searches: int = Field(description="Searches for erased texts and by their vectors.")
    found_again: int = Field(description="Erased events that these searches found.")
    vacuumed: list[str] = Field(description="Tables whose dead rows were removed.")
    elsewhere: list[str] = Field(description="Where copies may be that nobody here can erase.")

    @property
    def verified(self) -> bool:
        """Whether the second look found nothing."""
        return not (self.matching_left or self.ids_left or self.found_again)
