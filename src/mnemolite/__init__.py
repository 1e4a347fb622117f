"""MnemoLite: a long-term memory for LLM agents on PostgreSQL alone."""

from importlib import import_module
from typing import TYPE_CHECKING

from mnemolite.errors import MnemoliteError
from mnemolite.models import (
    Context,
    ContextQuery,
    Event,
    EventChange,
    EventQuery,
    FeedQuery,
    Hit,
    NewEvent,
    SearchQuery,
    SearchResult,
)
from mnemolite.settings import Settings

if TYPE_CHECKING:
    from mnemolite.memory import Memory
    from mnemolite.worker import running_worker

__version__ = "0.1.0"

__all__ = [
    "Context",
    "ContextQuery",
    "Event",
    "EventChange",
    "EventQuery",
    "FeedQuery",
    "Hit",
    "Memory",
    "MnemoliteError",
    "NewEvent",
    "SearchQuery",
    "SearchResult",
    "Settings",
    "running_worker",
]
_LAZY = {"Memory": "mnemolite.memory", "running_worker": "mnemolite.worker"}


def __getattr__(name: str) -> object:
    """Import at first use what brings the database and the model's libraries along."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LAZY[name]), name)
