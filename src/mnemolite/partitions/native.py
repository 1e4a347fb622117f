"""The native manager: MnemoLite's own SQL makes the partitions, by the row of ``partitioning``."""

from datetime import datetime

from mnemolite.database import Connection
from mnemolite.models import ManagerName
from mnemolite.partitions.catalog import Leaf
from mnemolite.partitions.plan import Plan
from mnemolite.partitions.ranges import partition_name


class Native:
    """Makes every partition itself, and keeps no books beside the catalog."""

    name: ManagerName = "native"
    version: str | None = None

    async def adopt(self, connection: Connection, plan: Plan, *, table: str) -> None:
        """Nothing to register: the plan says it all."""

    async def release(self, connection: Connection, table: str) -> None:
        """Nothing to take back."""

    async def settle(self, connection: Connection, plan: Plan) -> Plan:
        """The plan as it stands."""
        return plan

    async def name_of(self, connection: Connection, parent: str, *, start: datetime) -> str:
        """The name of a partition that begins then."""
        return partition_name(parent, start)

    def makes(self, parent: str, leaves: list[Leaf]) -> bool:
        """Whether ``run`` makes the partitions of a table; here they are all made one by one."""
        return False

    async def run(self, connection: Connection, parent: str) -> None:
        """Nothing left to do."""

    async def concern(self, connection: Connection) -> str | None:
        """What stands in the way of managing; never anything."""
        return None
