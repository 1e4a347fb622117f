"""What an export says about itself: its first line, its namespaces, and its last line."""

from typing import Any, Literal

from pydantic import ConfigDict, Field

from mnemolite.models import Frozen, Timestamp

# Lines with this key are about the export; all others are events.
KEY = "mnemolite"
VERSION = 1


class _Line(Frozen):
    model_config = ConfigDict(frozen=True, extra="ignore")  # what later versions add


class ExportHeader(_Line):
    """The first line."""

    mnemolite: Literal["export"] = "export"
    version: int = VERSION
    schema_revision: str
    exported_at: Timestamp
    filters: dict[str, Any] = Field(default_factory=dict)
    # The identity of the space that the vectors are of; none: there are no vectors.
    space: dict[str, Any] | None = None

    @property
    def digest(self) -> str | None:
        """Which space the vectors are of."""
        return str(self.space["digest"]) if self.space and "digest" in self.space else None


class NamespaceLine(_Line):
    """A namespace, before its first event."""

    mnemolite: Literal["namespace"] = "namespace"
    name: str
    language: str


class EndLine(_Line):
    """The last line: without it, an export was cut off."""

    mnemolite: Literal["end"] = "end"
    events: int
