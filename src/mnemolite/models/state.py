"""The state of a memory: namespaces, spaces, the queue, statistics, health."""

from typing import Literal

from pydantic import Field

from mnemolite.models.values import Frozen, Timestamp


class Namespace(Frozen):
    """An isolation scope and what it holds."""

    name: str
    language: str = Field(description="Text-search language of its events.")
    events: int
    first_timestamp: Timestamp | None
    last_timestamp: Timestamp | None


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
    status: Literal["active", "building", "retired"]
    created_at: Timestamp
    activated_at: Timestamp | None

    @property
    def table(self) -> str:
        """The table that holds its vectors."""
        return f"embeddings_{self.id}"

    @property
    def hnsw_index(self) -> str:
        """The index on them, once the table is large enough to have one."""
        return f"{self.table}_hnsw_idx"


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


class Stats(Frozen):
    """The state of the memory in figures."""

    events: int
    embeddings: int
    namespaces: int
    database_bytes: int
    queue: QueueState
    space: Space | None
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
