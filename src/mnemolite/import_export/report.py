"""What became of an import: how much was stored, what was left out and why."""

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

# Only so many bad lines are remembered; all are counted.
MAX_REMEMBERED = 1000


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line (or conversation, by the format's unit) that was left out, and why."""

    number: int
    reason: str


@dataclass(slots=True)
class ImportReport:
    """What became of what was read."""

    format: str = "jsonl"
    unit: str = "line"  # what bad_lines count
    stored: int = 0
    already_there: int = 0
    vectors: int = 0  # events whose vectors came with them
    bad: int = 0
    bad_lines: list[BadLine] = field(default_factory=list)
    zoneless: int = 0  # timestamps that were read in the default zone
    kept_in_metadata: set[str] = field(default_factory=set)
    skipped: Counter[str] = field(default_factory=Counter)  # what holds nothing to remember
    kept_as_data: Counter[str] = field(default_factory=Counter)  # parts that are no text, by kind
    notes: list[str] = field(default_factory=list)

    def told(self) -> dict[str, Any]:
        """All of it as JSON."""
        return asdict(self) | {"kept_in_metadata": sorted(self.kept_in_metadata)}

    def reject(self, bad: BadLine) -> None:
        self.bad += 1
        if len(self.bad_lines) < MAX_REMEMBERED:
            self.bad_lines.append(bad)
