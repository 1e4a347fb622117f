"""Partitions as they are shown: what each holds, what is watched, advised and done."""

from typing import Literal

from pydantic import Field

from mnemolite.models.values import Frozen, Timestamp

Layout = Literal["unpartitioned", "partitioned"]
IndexState = Literal["none", "needed", "invalid", "valid"]
ManagerName = Literal["native", "pg_partman"]
Verdict = Literal["stay", "optional", "enable", "keep", "disable"]


class Concern(Frozen):
    """Something about the partitions that wants to be looked at."""

    about: Literal["size", "default", "ahead", "change", "manager"]
    urgent: bool = Field(description="Whether it does harm already.")
    detail: str
    remedy: str


class PartitionWatch(Frozen):
    """What is watched of the partitions, read cheaply."""

    mode: Layout
    estimated_events: int = Field(description="By PostgreSQL's own statistics.")
    threshold: int = Field(description="Events from which partitions are advised.")
    default_rows: int = Field(
        description="Rows in default partitions, of each counted up to 10,000."
    )
    missing: int = Field(description="Partitions ahead, the current ones included, that are not.")
    change: str | None = Field(description="A change of the layout that is not finished.")
    detail: str
    concerns: list[Concern]


class PartitionState(Frozen):
    """A table that holds rows: a partition, or a whole table where there are none."""

    table: str = Field(description="events, or the embeddings of a space.")
    name: str
    since: Timestamp | None = Field(description="Null: no bound.")
    until: Timestamp | None = Field(description="Excluded. Null: no bound.")
    is_default: bool = Field(description="Whether it holds what no other partition does.")
    rows: int = Field(description="Exact for events, an estimate for embeddings.")
    bytes: int = Field(description="With its indexes.")
    index: IndexState | None = Field(
        description="Of its HNSW index. needed: a worker builds it. Null: events have none."
    )
    cache_hit_rate: float | None = Field(
        description="Share of blocks found in PostgreSQL's memory, 0 to 1; null: none was read."
    )


class PartitionLayout(Frozen):
    """How events and embeddings are laid out in time; null where they are not."""

    mode: Layout
    events: int = Field(description="All of them, counted.")
    interval: str | None = Field(description="What a partition of events holds.")
    embeddings_interval: str | None
    premake: int | None = Field(description="Partitions that are made ahead.")
    retention: str | None = Field(description="How long events are kept; null: for ever.")
    manager: ManagerName | None
    manager_version: str | None = Field(description="Of pg_partman, where it is the manager.")
    watch: PartitionWatch


class PartitionReport(PartitionLayout):
    """The same with every partition."""

    partitions: list[PartitionState]


class PartitionFigures(Frozen):
    """What an advice is made of."""

    mode: Layout
    events: int = Field(description="Estimated.")
    threshold: int
    events_per_month: int = Field(description="Events of the last 30 days, from a sample.")
    first_timestamp: Timestamp | None = Field(description="Of a sample.")
    last_timestamp: Timestamp | None = Field(description="Of a sample.")
    searches: int = Field(description="Explained searches on record.")
    bounded_searches: int = Field(description="Those of them with bounds of time.")
    interval: str | None
    retention: str | None


class PartitionAdvice(Frozen):
    """What the rule of thumb says of this database, and why."""

    verdict: Verdict
    reasons: list[str]
    command: str | None = Field(description="What to run; null: nothing.")
    figures: PartitionFigures


class MovedRange(Frozen):
    """A partition that was made, and the rows that it took from the default partition."""

    table: str
    name: str
    since: Timestamp
    until: Timestamp
    rows: int


class HeldBack(Frozen):
    """Rows that stay in a default partition."""

    table: str
    since: Timestamp | None = Field(description="Of the oldest of them.")
    until: Timestamp | None = Field(description="Behind the newest of them.")
    rows: int
    reason: str


class Maintained(Frozen):
    """What a round of maintenance or a drain did, or with ``dry_run`` would do."""

    mode: Layout
    manager: ManagerName | None
    dry_run: bool
    created: list[MovedRange]
    held_back: list[HeldBack]
    skipped: str | None = Field(None, description="Why nothing was looked at; null: it was.")
