"""What is said of an adoption: how a foreign table is taken over, and how far that has come."""

from typing import Literal

from pydantic import Field, field_validator, model_validator

from mnemolite.models.values import DEFAULT_NAMESPACE, Frozen, Name, Timestamp

AdoptionPhase = Literal["copying", "copied", "cut over", "rolling back", "given back", "finishing"]
_MAX_BATCH = 100_000


class AdoptionPlan(Frozen):
    """How a foreign table is taken over."""

    table: Name = Field("events", description="The table, with its schema or without.")
    online: bool = Field(False, description="The source is written to meanwhile.")
    namespace: Name = Field(DEFAULT_NAMESPACE, description="Of rows that name none.")
    namespace_key: Name | None = Field(None, description="Such as metadata.user: names it.")
    session_key: Name | None = Field(None, description="Such as metadata.session: names it.")
    language: Name = Field("english", description="Text-search language of new namespaces.")
    space: Name | None = Field(None, description="The model that made the vectors.")
    vectors: bool = Field(True, description="Whether vectors are taken over.")
    skip_bad: bool = Field(False, description="Leave out what cannot be stored, and report it.")
    leave_columns: bool = Field(False, description="Leave the other columns of the table.")
    batch: int = Field(5000, ge=1, le=_MAX_BATCH, description="Rows to a transaction.")

    @field_validator("namespace_key", "session_key")
    @classmethod
    def _check_key(cls, value: str | None) -> str | None:
        if value is not None:
            column, *path = value.split(".")
            if column not in ("metadata", "content") or not path or not all(path):
                raise ValueError("must be metadata.KEY or content.KEY")
        return value

    @model_validator(mode="after")
    def _check_space(self) -> "AdoptionPlan":
        if self.space is not None and not self.vectors:
            raise ValueError("a space is named, and no vectors are to be taken over")
        return self

    def differences(self, other: "AdoptionPlan") -> list[str]:
        """Options that say something else, but for those that may change between two runs."""
        free = {"skip_bad", "batch"}
        return [
            name
            for name in type(self).model_fields
            if name not in free and getattr(self, name) != getattr(other, name)
        ]


class Checksums(Frozen):
    """What tells one set of rows from another, in whatever order they stand."""

    rows: int
    vectors: int
    events_sum: str = Field(description="Of id, timestamp, content and metadata.")
    vectors_sum: str = Field(description="Of id, timestamp and vector.")


class Refusal(Frozen):
    """A row that cannot be stored as it is."""

    id: str
    timestamp: str | None
    reason: str


class AdoptionState(Frozen):
    """How far an adoption has come."""

    source: str = Field(description="Host, database and table.")
    phase: AdoptionPhase
    plan: AdoptionPlan
    space: int | None
    adopted: int = Field(description="Rows of the source that are events here.")
    total: int = Field(description="Rows of the source when it began.")
    refused: int = Field(description="Rows that were left out.")
    changes: int = Field(description="Changes here since the cut-over, not brought back.")
    started_at: Timestamp
    changed_at: Timestamp


class AdoptionReport(Frozen):
    """What an adoption has done, or, before it begins, what it would do."""

    state: AdoptionState | None
    source: Checksums | None = None
    target: Checksums | None = None
    refusals: list[Refusal] = Field(default_factory=list)
    notes: list[str] = Field(default_factory=list)
