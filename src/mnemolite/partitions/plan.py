"""The plan: by which intervals the tables are partitioned, as ``partitioning`` holds it."""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from mnemolite.database import Connection
from mnemolite.models import ManagerName
from mnemolite.partitions.ranges import Interval
from mnemolite.sql import load

_queries = load("partitions")


@dataclass(frozen=True, slots=True)
class Plan:
    """What was wished for when partitions were turned on."""

    events_interval: Interval
    embeddings_interval: Interval | Literal["none"]
    premake: int
    retention: str | None
    manager: ManagerName
    enabled_at: datetime


async def read_plan(connection: Connection) -> Plan | None:
    """The plan, None while the events are one table."""
    row = await (await connection.execute(_queries["plan"])).fetchone()
    return None if row is None else Plan(**row)
