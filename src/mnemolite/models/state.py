"""The state of a memory: namespaces, spaces, the queue, statistics, health."""

from typing import Literal
from uuid import UUID

from pydantic import Field

from mnemolite.models.partitions import PartitionWatch
from mnemolite.models.values import Frozen, Timestamp
from mnemolite.models.webhooks import WebhookState


class Namespace(Frozen):
    """An isolation scope and what it holds."""

    name: str
    language: str = Field(description="Text-search language of its events.")
    events: int
    first_timestamp: Timestamp | None
    last_timestamp: Timestamp | None


SpaceStatus = Literal["active", "building", "retired", "dropping", "adopted"]
Phase = Literal["queueing", "embedding", "complete", "dropping"]


class Space(Frozen):
    """One embedding model as used; its vectors are never mixed with another's."""

    id: int
    provider: str
    model: str
    revision: str
    dimension: int
    query_prefix: str
    document_prefix: str
    pooling: str
    normalisation: str
    template: str
    max_tokens: int
    digest: str
    status: SpaceStatus
    created_at: Timestamp
    filled_at: Timestamp | None = Field(description="When all older events stood in its queue.")
    activated_at: Timestamp | None

    @property
    def table(self) -> str:
        """The table that holds its vectors."""
        return f"embeddings_{self.id}"

    @property
    def hnsw_index(self) -> str:
        """The index on them, once the table is large enough to have one."""
        return f"{self.table}_hnsw_idx"


class Progress(Frozen):
    """How far a space is filled."""

    phase: Phase = Field(
        description="queueing: older events are being put into its queue. embedding: events wait."
    )
    embedded: int = Field(description="Events that have vectors in it.")
    pending: int = Field(description="Events in its queue.")
    parked: int = Field(description="Those of them that failed too often to be tried again.")
    share: float = Field(description="Embedded of all known events with text, 0 to 1.")
    events_per_second: float | None = Field(
        description="Since the space was made; null unless it is being filled."
    )
    seconds_left: float | None = Field(description="At that rate; null where none is known.")


class SpaceState(Space):
    """A space, how far it is filled, and who uses it."""

    progress: Progress
    searched_by: int = Field(description="Processes that search it at this moment.")


class Comparison(Frozen):
    """A space held against the active one."""

    space: int
    active: int
    embedded: int = Field(description="Events that have vectors in the space.")
    active_embedded: int = Field(description="Events that have vectors in the active space.")
    missing: int = Field(description="Events found today that the space neither has nor awaits.")
    behind: int = Field(description="Events found today that wait in the space's queue.")
    parked: int = Field(description="Events that the space's model failed on too often.")
    orphans: int = Field(description="Events with vectors in the space that exist no more.")
    indexed: bool = Field(description="Whether the space has the HNSW index that its size wants.")
    samples: int = Field(description="Events whose neighbours were looked up in both spaces.")
    overlap: float | None = Field(description="Mean share of the ten nearest that both agree on.")
    least_overlap: float | None


class QueueState(Frozen):
    """The embedding queue of the active space."""

    pending: int = Field(description="Events whose text has no embedding yet.")
    parked: int = Field(description="Those of them that failed too often to be tried again.")
    oldest_pending_seconds: float | None = Field(description="Age of the oldest pending event.")
    errors: list[str] = Field(description="Distinct errors of parked events, at most ten.")

    @property
    def due(self) -> int:
        """Pending events that a worker will still try."""
        return self.pending - self.parked


class WorkerState(Frozen):
    """A worker, on whatever machine, as it was heard of last."""

    id: UUID
    space: int = Field(description="The embedding space that it fills.")
    host: str
    pid: int
    started_at: Timestamp
    seen_at: Timestamp
    last_success_at: Timestamp | None = Field(description="When it last stored vectors.")
    claimed: int = Field(description="Events that it holds at the moment.")
    events_per_second: float = Field(description="Embedded lately.")


class Stats(Frozen):
    """The state of the memory in figures."""

    events: int
    embeddings: int
    namespaces: int
    database_bytes: int
    queue: QueueState
    workers: list[WorkerState] = Field(description="Those heard of lately, on all machines.")
    webhooks: WebhookState
    space: Space | None
    partitions: PartitionWatch
    cache: dict[str, int] = Field(
        description="Query cache: hits, misses, evictions, bytes; shared_… of Redis, if used."
    )
    resident_bytes: int = Field(description="Memory of this process.")
    model_bytes: int = Field(
        description="What of it came with loading the model; 0: no model here."
    )


class Check(Frozen):
    """One thing that must work for the service to be ready."""

    ok: bool
    detail: str


class Health(Frozen):
    """Whether the service is ready, part by part."""

    status: Literal["ok", "not_ready"]
    version: str
    checks: dict[str, Check]
