"""Retention: what is too old goes, what is held stays, and what must be forgotten is erased."""

from mnemolite.memory import Memory
from mnemolite.models import RetentionEntry, RetentionState
from mnemolite.retention import journal
from mnemolite.retention.forget import forget, preview_forget
from mnemolite.retention.orders import Options, plan
from mnemolite.retention.rules import (
    add_hold,
    add_rule,
    holds,
    remove_hold,
    remove_rule,
    rules,
)
from mnemolite.retention.run import preview, run, run_if_due

__all__ = [
    "Options",
    "add_hold",
    "add_rule",
    "entries",
    "forget",
    "preview",
    "preview_forget",
    "remove_hold",
    "remove_rule",
    "run",
    "run_if_due",
    "state",
]

_MANY = 1000


async def state(memory: Memory) -> RetentionState:
    """The rules, the holds, the policy of the partitions, and what is under way."""
    async with memory.database.connection() as connection:
        policy = await plan(connection)
        return RetentionState(
            rules=await rules(connection),
            holds=await holds(connection),
            partitions_older_than=policy["retention"] if policy else None,
            unfinished=await journal.entries(connection, limit=_MANY, unfinished=True),
        )


async def entries(memory: Memory, *, limit: int) -> list[RetentionEntry]:
    """The newest lines of the log, newest first."""
    async with memory.database.connection() as connection:
        return await journal.entries(connection, limit=limit)
