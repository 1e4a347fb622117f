"""Who manages the partitions: the native manager or pg_partman, behind one interface."""

from datetime import datetime
from typing import Literal, Protocol

from mnemolite.database import Connection
from mnemolite.errors import LayoutRefusedError
from mnemolite.models import ManagerName
from mnemolite.partitions import pg_partman
from mnemolite.partitions.catalog import Leaf
from mnemolite.partitions.native import Native
from mnemolite.partitions.pg_partman import PgPartman
from mnemolite.partitions.plan import Plan

_REMEDY = "Install it (CREATE EXTENSION pg_partman), or take --manager native."


class Manager(Protocol):
    """What every manager promises; a contract suite holds them to it."""

    name: ManagerName
    version: str | None

    async def adopt(self, connection: Connection, plan: Plan, *, table: str) -> None:
        """Take a partitioned table over, once or more, inside the caller's transaction."""

    async def release(self, connection: Connection, table: str) -> None:
        """Let go of it, inside the caller's transaction; rows and partitions stay."""

    async def settle(self, connection: Connection, plan: Plan) -> Plan:
        """The plan as the manager's own books have it. Raises LayoutRefusedError."""

    async def name_of(self, connection: Connection, parent: str, *, start: datetime) -> str:
        """The name of a partition that begins then."""

    def makes(self, parent: str, leaves: list[Leaf]) -> bool:
        """Whether ``run`` makes the table's partitions, or they are to be made one by one."""

    async def run(self, connection: Connection, parent: str) -> None:
        """Make what is missing ahead, where ``makes`` said so."""

    async def concern(self, connection: Connection) -> str | None:
        """What is wrong with the manager's books, None if nothing is."""


async def choose(
    connection: Connection, wish: Literal["auto", "native", "pg_partman"]
) -> ManagerName:
    """The manager for a wish: auto takes pg_partman where the database has it.

    Raises LayoutRefusedError when pg_partman is wished for and cannot be used.
    """
    if wish == "native":
        return "native"
    installed = await pg_partman.find(connection)
    refusal = "This database has no pg_partman." if installed is None else installed.refusal()
    if refusal is None:
        return "pg_partman"
    if wish == "pg_partman":
        raise LayoutRefusedError(refusal, field="--manager", remedy=_REMEDY)
    return "native"


async def manager_of(connection: Connection, name: ManagerName) -> Manager:
    """The manager of that name. Raises LayoutRefusedError when pg_partman cannot be used."""
    if name == "native":
        return Native()
    await choose(connection, "pg_partman")
    installed = await pg_partman.find(connection)
    assert installed is not None
    return PgPartman(installed)
