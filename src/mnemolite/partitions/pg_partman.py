"""The manager pg_partman, 4.7 and 5.x: its ``part_config`` says how the events are partitioned.

It manages the events. The embeddings' tables are always managed natively: spaces come and go, and a
row of ``part_config`` whose table is gone would stop pg_partman's maintenance of everything else.
"""

from dataclasses import dataclass, replace
from datetime import datetime
from typing import get_args

from psycopg import sql

from mnemolite.database import Connection, translated_errors
from mnemolite.errors import LayoutRefusedError
from mnemolite.models import ManagerName
from mnemolite.partitions.catalog import EVENTS, Leaf
from mnemolite.partitions.plan import Plan
from mnemolite.partitions.ranges import Interval, partition_name
from mnemolite.sql import load

_queries = load("pg_partman")

# As PostgreSQL writes them; by their own values 30 days would equal a month.
_INTERVALS: dict[Interval, str] = {
    "day": "1 day",
    "week": "7 days",
    "month": "1 mon",
    "quarter": "3 mons",
    "year": "1 year",
}
_OLDEST, _NEWEST = (4, 7), 5
# Before version 5 there were other ways than PostgreSQL's own partitions.
_TYPES = {4: "native", 5: "range"}
_READS_BOUNDS = 5  # earlier versions order partitions by their names
_LOCK_MILLISECONDS = 1200
_UNREGISTERED = (
    "Register it again with `mnemolite partitions enable`, or let MnemoLite do it: "
    "UPDATE partitioning SET manager = 'native'."
)


@dataclass(frozen=True, slots=True)
class Installed:
    """pg_partman as this database has it."""

    version: str
    schema: str
    usable: bool

    @property
    def numbers(self) -> tuple[int, int]:
        """Major and minor version."""
        major, minor, *_ = (int(part) for part in self.version.split(".")[:2])
        return major, minor

    def refusal(self) -> str | None:
        """Why it cannot be the manager, None if it can."""
        if not self.usable:
            return f"This role may not use {self.schema}.part_config."
        if self.numbers < _OLDEST or self.numbers[0] > _NEWEST:
            return f"pg_partman {self.version} is not known here; 4.7 to 5.x are."
        return None


async def find(connection: Connection) -> Installed | None:
    """The extension, if this database has it."""
    row = await (await connection.execute(_queries["installed"])).fetchone()
    return None if row is None else Installed(**row)


class PgPartman:
    """Registers the events in ``part_config`` and calls ``run_maintenance`` for them."""

    name: ManagerName = "pg_partman"

    def __init__(self, installed: Installed) -> None:
        self._major = installed.numbers[0]
        self._schema = sql.Identifier(installed.schema)
        self.version: str | None = installed.version

    async def adopt(self, connection: Connection, plan: Plan, *, table: str) -> None:
        """Register the partitions that the events have; none is made or changed."""
        if table != EVENTS:
            return
        values = {
            "table": await self._events(connection),
            "type": _TYPES[self._major],
            "interval": _INTERVALS[plan.events_interval],
            "premake": plan.premake,
        }
        await connection.execute(_queries["adopt"].format(schema=self._schema), values)

    async def release(self, connection: Connection, table: str) -> None:
        """Strike the events off; their partitions stay."""
        if table != EVENTS:
            return
        values = {"table": await self._events(connection)}
        await connection.execute(_queries["release"].format(schema=self._schema), values)

    async def settle(self, connection: Connection, plan: Plan) -> Plan:
        """The plan with what ``part_config`` says of interval and partitions ahead."""
        config = await self._config(connection)
        interval = next(
            (name for name in get_args(Interval) if _INTERVALS[name] == config["interval"]), None
        )
        if interval is None:
            raise LayoutRefusedError(
                f"part_config has an interval of {config['interval']}.",
                remedy=f"MnemoLite reads these: {', '.join(_INTERVALS.values())}.",
            )
        return replace(plan, events_interval=interval, premake=int(str(config["premake"])))

    async def name_of(self, connection: Connection, parent: str, *, start: datetime) -> str:
        """The name that it would give to a partition that begins then."""
        if parent != EVENTS:
            return partition_name(parent, start)
        config = await self._config(connection)
        values = {"start": start, "form": config["datetime_string"] or "YYYYMMDD"}
        row = await (await connection.execute(_queries["suffix"], values)).fetchone()
        return f"{parent}_p{row['suffix'] if row else ''}"

    def makes(self, parent: str, leaves: list[Leaf]) -> bool:
        """Whether ``run`` can make the partitions of a table.

        Version 5 reads the beginning of each partition, and stops at one that has none.
        """
        if parent != EVENTS:
            return False
        ranges = [leaf.range for leaf in leaves if leaf.range is not None]
        return self._major < _READS_BOUNDS or all(each.since is not None for each in ranges)

    async def run(self, connection: Connection, parent: str) -> None:
        """Let it make what is missing ahead, of this table alone."""
        values = {"table": await self._events(connection)}
        with translated_errors():
            async with connection.transaction():
                await connection.execute(
                    "SELECT set_config('lock_timeout', %s, true)", [str(_LOCK_MILLISECONDS)]
                )
                await connection.execute(_queries["run"].format(schema=self._schema), values)

    async def concern(self, connection: Connection) -> str | None:
        """What its configuration would do to the events behind MnemoLite's back."""
        config = await self._config(connection)
        if config["retention"] is not None:
            return (
                f"part_config has retention {config['retention']}: pg_partman would drop events "
                "and leave behind what was derived from them"
            )
        if config["undo_in_progress"]:
            return "part_config says that the partitions are being undone; nothing is made ahead"
        return None

    async def _config(self, connection: Connection) -> dict[str, object]:
        values = {"table": await self._events(connection)}
        statement = _queries["config"].format(schema=self._schema)
        row = await (await connection.execute(statement, values)).fetchone()
        if row is None:
            raise LayoutRefusedError(
                "pg_partman's part_config has no row for the events.", remedy=_UNREGISTERED
            )
        return row

    async def _events(self, connection: Connection) -> str:
        """The table as ``part_config`` names it: with its schema, without quotes."""
        row = await (await connection.execute(_queries["home"], {"table": EVENTS})).fetchone()
        return f"{row['schema']}.{EVENTS}" if row else EVENTS
