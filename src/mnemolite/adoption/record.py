"""The record of the adoption that is under way: kept in the target, with the rows."""

from dataclasses import dataclass
from datetime import datetime
from typing import Self

from psycopg.types.json import Jsonb

from mnemolite.database import Connection
from mnemolite.errors import AdoptionError
from mnemolite.models import (
    AdoptionPhase,
    AdoptionPlan,
    AdoptionState,
    JsonObject,
    Refusal,
    Space,
)
from mnemolite.sql import load

_queries = load("adoption")


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One row of ``adoptions``."""

    source: str
    label: str
    plan: AdoptionPlan
    phase: AdoptionPhase
    space: int | None
    made_space: bool
    position: list[str] | None
    total: int
    started_at: datetime
    changed_at: datetime
    adopted: int
    refused: int
    changes: int

    @classmethod
    async def read(cls, connection: Connection) -> Self | None:
        """The adoption that is under way, if there is one."""
        row = await (await connection.execute(_queries["record"])).fetchone()
        if row is None:
            return None
        return cls(**{**row, "plan": AdoptionPlan.model_validate(row["plan"])})

    def state(self) -> AdoptionState:
        """What is told of it."""
        return AdoptionState(
            source=self.label,
            phase=self.phase,
            plan=self.plan,
            space=self.space,
            adopted=self.adopted,
            total=self.total,
            refused=self.refused,
            changes=self.changes,
            started_at=self.started_at,
            changed_at=self.changed_at,
        )


async def required_record(connection: Connection, identity: str | None = None) -> Record:
    """The adoption that is under way, of that source. Raises AdoptionError."""
    record = await Record.read(connection)
    if record is None:
        raise AdoptionError(
            "No adoption is under way.", remedy="Begin one with: mnemolite db adopt --from DSN."
        )
    if identity is not None and record.source != identity:
        raise AdoptionError(
            f"The adoption that is under way is that of {record.label}.",
            field="--from",
            remedy="Name that one, or end it with --rollback or --finish first.",
        )
    return record


async def begin(
    connection: Connection, plan: AdoptionPlan, *, space: Space | None, facts: JsonObject
) -> None:
    """Write down a new adoption; ``facts`` are source, label, total and made_space."""
    values = {**facts, "plan": Jsonb(plan.model_dump()), "space": space.id if space else None}
    await connection.execute(_queries["begin"], values)


async def move(connection: Connection, phase: AdoptionPhase) -> None:
    """Go on to another phase."""
    await connection.execute(_queries["move"], {"phase": phase})


async def replan(connection: Connection, plan: AdoptionPlan) -> None:
    """Take over what may differ from one run to the next."""
    await connection.execute(_queries["replan"], {"plan": Jsonb(plan.model_dump())})


async def refusals(connection: Connection) -> list[Refusal]:
    """The rows that were left out."""
    cursor = await connection.execute(_queries["refusals"])
    return [Refusal.model_validate(row) async for row in cursor]
