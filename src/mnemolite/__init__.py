"""MnemoLite: a long-term memory for LLM agents on PostgreSQL alone."""

from typing import TYPE_CHECKING

from mnemolite.errors import MnemoliteError
from mnemolite.models import Event, EventQuery, Hit, NewEvent, SearchQuery, SearchResult
from mnemolite.settings import Settings

if TYPE_CHECKING:
    from mnemolite.memory import Memory

__version__ = "0.1.0"

__all__ = [
    "Event",
    "EventQuery",
    "Hit",
    "Memory",
    "MnemoliteError",
    "NewEvent",
    "SearchQuery",
    "SearchResult",
    "Settings",
]


def __getattr__(name: str) -> object:
    """Import Memory at its first use: it brings the database and the model's libraries along."""
    if name != "Memory":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from mnemolite.memory import Memory

    return Memory
