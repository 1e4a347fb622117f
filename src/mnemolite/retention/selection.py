"""Which events are meant: pieces of SQL about an event ``e``, with the values that they name."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from psycopg import sql

from mnemolite.database import EARLIEST, LATEST
from mnemolite.filters import And, Filter, parse
from mnemolite.models import RetentionHold
from mnemolite.sql import load

_queries = load("retention")
_LAST_ID = UUID(int=2**128 - 1)


@dataclass(frozen=True, slots=True)
class Condition:
    """An expression that is true or false, never NULL."""

    text: sql.Composable
    values: dict[str, object]


@dataclass(frozen=True, slots=True)
class Portion:
    """Events of one namespace, or of one session in it, before a place in its order."""

    namespace: str
    session: str | None = None
    since: datetime | str = EARLIEST
    until: datetime | str = LATEST
    before: tuple[datetime | str, UUID] = (LATEST, _LAST_ID)
    where: Filter = field(default_factory=lambda: And(()))

    def condition(self) -> Condition:
        """The same as SQL."""
        values: dict[str, Any] = {
            "namespace": self.namespace,
            "session": self.session,
            "since": self.since,
            "until": self.until,
            "before_timestamp": self.before[0],
            "before_id": self.before[1],
        }
        return Condition(_queries["portion"].format(where=self.where.to_sql("e")), values)


def any_of(holds: Sequence[RetentionHold]) -> Condition:
    """Whether a hold keeps the event."""
    parts: list[sql.Composable] = [sql.SQL("FALSE")]
    values: dict[str, object] = {}
    for number, hold in enumerate(holds):
        part = parse(hold.where).to_sql("e")
        if hold.namespace is not None:
            name = f"hold_{number}"
            values[name] = hold.namespace
            here = sql.SQL("e.namespace = {}").format(sql.Placeholder(name))
            part = sql.SQL("({} AND {})").format(here, part)
        parts.append(part)
    return Condition(sql.SQL("({})").format(sql.SQL(" OR ").join(parts)), values)
