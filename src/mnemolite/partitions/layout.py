"""The layout: partitions turned on, divided, put together and turned off, while they are in use."""

from collections import Counter
from dataclasses import asdict, replace
from typing import Any, Literal

from psycopg import errors

from mnemolite.database import Connection, Database
from mnemolite.errors import InvalidInputError, LayoutRefusedError
from mnemolite.models import LayoutChange, LayoutWish
from mnemolite.partitions.attach import Attachment
from mnemolite.partitions.blueprint import refuse_obstacles
from mnemolite.partitions.catalog import EVENTS, is_partitioned, leaves
from mnemolite.partitions.leftovers import clear_leftovers
from mnemolite.partitions.management import choose, manager_of
from mnemolite.partitions.plan import Manager, Plan, forget_plan, read_plan
from mnemolite.partitions.relayout import Relayout, Show
from mnemolite.partitions.turn import taking_turn
from mnemolite.sql import load

_queries = load("relayout")

# The copy of these has not taken the name yet, so they can be taken back.
_BEFORE_EXCHANGE = ("create", "copy", "index", "catch-up")
_TOWARDS_PARTITIONS = ("enable", "split")


def _ignore(*_: object) -> None:
    pass


class Layout:
    """How the events and their vectors are laid out, and the ways to change that."""

    def __init__(self, database: Database, *, hnsw_min_rows: int) -> None:
        self._database = database
        self._hnsw_min_rows = hnsw_min_rows

    async def plan(self) -> Plan | None:
        """By what the database is partitioned, None while it is not."""
        async with self._database.connection() as connection:
            return await read_plan(connection)

    async def unfinished(self) -> list[dict[str, Any]]:
        """The changes that are under way, a row for each table."""
        async with self._database.connection() as connection:
            return await _rows(connection, "unfinished")

    async def enable(
        self, wish: LayoutWish, *, split: bool = True, show: Show = _ignore
    ) -> LayoutChange:
        """Partition the database: attach what there is, then divide it, unless told otherwise.

        Raises LayoutRefusedError, with nothing changed, when something would not survive it;
        LayoutBusyError when another process is at it, or a table could not be had.
        """
        async with taking_turn(self._database, finishing=True) as connection:
            await self._settle(connection, "enable", show=show)
            before = await read_plan(connection)
            plan = _planned(before, await _with_manager(connection, wish, before=before))
            sources = await _sources(connection, partitioned=False, plan=plan)
            for source in sources:
                await refuse_obstacles(connection, source)
            async with connection.transaction():
                await _store_plan(connection, plan)
                await _hand_over(connection, before, plan=plan)
                await _begin(
                    connection, sources, operation="enable", step="attach", then_split=split
                )
            done = await self._finish(connection, show)
            if split:
                done += await self._change(connection, "split", show=show)
            return _told("enable", done)

    async def enable_sql(self, wish: LayoutWish) -> list[str]:
        """The SQL by which ``enable`` would attach what there is; nothing is changed."""
        async with taking_turn(self._database) as connection:
            before = await read_plan(connection)
            plan = _planned(before, await _with_manager(connection, wish, before=before))
            statements = []
            for source in await _sources(connection, partitioned=False, plan=plan):
                attachment = Attachment(connection, source, plan=plan, manager=None)
                statements += [f"-- {source}", *await attachment.statements()]
            return statements

    async def split(self, show: Show = _ignore) -> LayoutChange:
        """Divide the old tables among partitions."""
        return await self._operate("split", show)

    async def undo_split(self, show: Show = _ignore) -> LayoutChange:
        """Put what is older than the next interval into one partition again."""
        return await self._operate("undo-split", show)

    async def disable(self, show: Show = _ignore) -> LayoutChange:
        """Make plain tables of the partitions again."""
        return await self._operate("disable", show)

    async def resume(self, show: Show = _ignore) -> bool:
        """Go on with what is unfinished; False: nothing is.

        Raises LayoutBusyError when another process is at it.
        """
        if not await self.unfinished():
            return False
        async with taking_turn(self._database, finishing=True) as connection:
            await self._finish(connection, show)
        return True

    # --- Operations -----------------------------------------------------------------------------

    async def _operate(
        self, operation: Literal["split", "undo-split", "disable"], show: Show
    ) -> LayoutChange:
        async with taking_turn(self._database, finishing=True) as connection:
            await self._settle(connection, operation, show=show)
            done = await self._finish(connection, show)
            if await read_plan(connection) is None and operation != "disable":
                raise LayoutRefusedError(
                    "The database is not partitioned.",
                    remedy="`mnemolite partitions enable` does it.",
                )
            done += await self._change(connection, operation, show=show)
            return _told(operation, done)

    async def _change(self, connection: Connection, operation: str, *, show: Show) -> Counter[str]:
        """Lay out anew what is not as the operation wants it; the rows copied, by table."""
        done: Counter[str] = Counter()
        while sources := await self._to_change(connection, operation):
            for source in sources:
                await refuse_obstacles(connection, source)
            async with connection.transaction():
                await _begin(connection, sources, operation=operation, step="create")
            done += await self._finish(connection, show)
        if operation == "disable":
            async with connection.transaction():
                await forget_plan(connection)
        return done

    async def _to_change(self, connection: Connection, operation: str) -> list[str]:
        plan = await read_plan(connection) or Plan()
        sources = await _sources(connection, partitioned=True, plan=plan)
        if operation == "disable":
            return sources
        wants_legacy = operation == "undo-split"
        return [s for s in sources if await _has_legacy(connection, s) != wants_legacy]

    async def _settle(self, connection: Connection, operation: str, *, show: Show) -> None:
        """Take back what is unfinished and leads elsewhere; what cannot be taken back is ended."""
        for row in await _rows(connection, "unfinished"):
            onwards = row["operation"] in _TOWARDS_PARTITIONS
            if row["operation"] == operation or (onwards and operation in _TOWARDS_PARTITIONS):
                continue
            if row["step"] == "attach":
                attachment = await self._attachment(connection, row["source"], plan=Plan())
                await attachment.abandon()
            elif row["step"] in _BEFORE_EXCHANGE:
                show(f"{row['source']}: taking back the {row['operation']}", 0, 1)
                await (await self._relayout(connection, row["source"], show=show)).abandon()

    async def _finish(self, connection: Connection, show: Show) -> Counter[str]:
        """Bring every change that was begun to its end; the rows copied, by table."""
        done: Counter[str] = Counter()
        while rows := await _rows(connection, "unfinished"):
            row = rows[0]
            source = row["source"]
            if not await _exists(connection, source):
                await clear_leftovers(connection, source)
            elif row["step"] == "attach":
                plan = await read_plan(connection) or Plan()
                attachment = await self._attachment(connection, source, plan=plan)
                await attachment.run(show, then_split=row["then_split"])
                done[source] += 0
            else:
                relayout = await self._relayout(connection, source, show=show)
                done[source] += await relayout.run()
        return done

    async def _attachment(self, connection: Connection, source: str, *, plan: Plan) -> Attachment:
        manager = await _manager(connection, plan)
        return Attachment(connection, source, plan=plan, manager=manager)

    async def _relayout(self, connection: Connection, source: str, *, show: Show) -> Relayout:
        plan = await read_plan(connection) or Plan()
        return Relayout(
            connection,
            source,
            plan=plan,
            manager=await _manager(connection, plan),
            hnsw_min_rows=self._hnsw_min_rows,
            show=show,
        )


def _told(
    operation: Literal["enable", "split", "undo-split", "disable"], done: Counter[str]
) -> LayoutChange:
    return LayoutChange(operation=operation, tables=list(done), rows=done.total())


def _planned(before: Plan | None, wish: LayoutWish) -> Plan:
    """The plan that a wish makes. Raises LayoutRefusedError where it contradicts what there is."""
    given = wish.model_dump(exclude_none=True)
    if "interval" in given:
        given["events_interval"] = given.pop("interval")
    for name in ("events_interval", "embeddings_interval"):
        if before is not None and given.get(name, getattr(before, name)) != getattr(before, name):
            raise LayoutRefusedError(
                f"The database is partitioned by another interval ({getattr(before, name)}).",
                field=name.removeprefix("events_"),
                remedy="Leave the option out, or run `mnemolite partitions disable` first.",
            )
    return replace(before or Plan(), **given)


async def _with_manager(
    connection: Connection, wish: LayoutWish, *, before: Plan | None
) -> LayoutWish:
    """The wish with a manager by name. Raises LayoutRefusedError when that cannot be used."""
    if wish.manager is None and before is not None:
        return wish
    name = await choose(connection, wish.manager or "auto")
    return wish.model_copy(update={"manager": name})


async def _hand_over(connection: Connection, before: Plan | None, *, plan: Plan) -> None:
    """Let another manager take over what is partitioned already."""
    if before is None or before.manager == plan.manager:
        return
    old, new = await _manager(connection, before), await _manager(connection, plan)
    for source in await _sources(connection, partitioned=True, plan=plan):
        if old is not None:
            await old.release(connection, source)
        if new is not None:
            await new.adopt(connection, plan, table=source)


async def _manager(connection: Connection, plan: Plan) -> Manager | None:
    """The plan's manager; None when it is gone, for then there is nothing to tell it."""
    try:
        return await manager_of(connection, plan.manager)
    except LayoutRefusedError:
        return None


async def _store_plan(connection: Connection, plan: Plan) -> None:
    try:
        await connection.execute(_queries["store_plan"], asdict(plan))
    except (errors.DataError, errors.CheckViolation) as error:
        raise InvalidInputError(
            f"{plan.retention!r} is no span of time.",
            field="retention",
            remedy="Give it as PostgreSQL writes an interval: '24 months'.",
        ) from error


async def _sources(connection: Connection, *, partitioned: bool, plan: Plan) -> list[str]:
    """The tables that can be partitioned by a plan and are, or are not."""
    tables = [EVENTS, *(row["name"] for row in await _rows(connection, "spaces"))]
    return [
        table
        for table in tables
        if (partitioned or plan.interval_of(table) is not None)
        and await _exists(connection, table)
        and await is_partitioned(connection, table) == partitioned
    ]


async def _begin(
    connection: Connection,
    sources: list[str],
    *,
    operation: str,
    step: str,
    then_split: bool = False,
) -> None:
    for source in sources:
        values = {"source": source, "operation": operation, "step": step, "then_split": then_split}
        await connection.execute(_queries["begin"], values)


async def _has_legacy(connection: Connection, table: str) -> bool:
    """Whether a partition without a beginning holds what is old."""
    found = await leaves(connection, table)
    return any(leaf.range is not None and leaf.range.since is None for leaf in found)


async def _exists(connection: Connection, table: str) -> bool:
    row = await (await connection.execute(_queries["exists"], {"table": table})).fetchone()
    return bool(row and row["found"])


async def _rows(connection: Connection, query: str) -> list[dict[str, Any]]:
    return await (await connection.execute(_queries[query])).fetchall()
