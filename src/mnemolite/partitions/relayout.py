"""Laying a table out anew while it is in use: a copy is filled, kept in step, and takes its place.

Each step is one short transaction, or can be done again, and ``relayouts`` says which is next; so
whatever is killed goes on where it was. Readers see the old table until the transaction in which
the copy takes its name, and the copy from then on.
"""

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from psycopg import sql
from psycopg.types.json import Jsonb

from mnemolite.database import Connection
from mnemolite.partitions import exchange
from mnemolite.partitions.blueprint import Blueprint, blueprint, raw, refuse_obstacles
from mnemolite.partitions.catalog import leaves
from mnemolite.partitions.locking import (
    locked_blueprint,
    patiently,
    refuse_old_snapshots,
    run_all,
)
from mnemolite.partitions.plan import Manager, Plan, forget_plan
from mnemolite.partitions.room import refuse_lack_of_room
from mnemolite.partitions.targets import target_of
from mnemolite.partitions.trail import Names, Trail, listed
from mnemolite.sql import load

_queries = load("relayout")

Show = Callable[[str, int, int], None]  # what is being done, how much is done, of how much

# The feed of changes waits for the oldest transaction, so none lasts much longer than this.
_BATCH_SECONDS = 0.4
_FIRST_BATCH, _LEAST_BATCH, _MOST_BATCH = 500, 50, 20_000
_SYNC_BATCH = 500
_FEW_ROWS = 100
# What is left for the moment in which everybody waits.
_SMALL_ROUND = 50


class Relayout:
    """One table on its way into another layout."""

    def __init__(
        self,
        connection: Connection,
        source: str,
        *,
        plan: Plan,
        manager: Manager | None,
        hnsw_min_rows: int,
        show: Show,
    ) -> None:
        self._connection = connection
        self._source = source
        self._names = Names(source)
        self._plan = plan
        self._manager = manager
        self._hnsw_min_rows = hnsw_min_rows
        self._show = show

    async def run(self) -> int:
        """Go on from the step at which the change stands, to its end; the rows that it copied."""
        copied = 0
        steps: Mapping[str, Callable[[Mapping[str, Any]], Awaitable[None]]] = {
            "create": self._create,
            "copy": self._copy,
            "index": self._index,
            "catch-up": self._catch_up,
            "drop": self._drop,
            "rename": self._rename,
        }
        while (row := await self._row()) is not None:
            await steps[row["step"]](row)
            copied = row["rows_copied"]
        return copied

    async def abandon(self) -> None:
        """Take a change back whose copy has not taken the name yet; the table is as it was."""
        found = await blueprint(self._connection, self._source)

        async def work() -> None:
            # Dropping a trigger takes its table for a moment.
            await run_all(self._connection, exchange.lock(found))
            await run_all(self._connection, Trail(self._connection, found).clear())
            await self._execute("drop", table=found.identifier(self._names.shadow))
            await self._execute("end", source=self._source)

        await patiently(self._connection, work, about=self._source)

    # --- Steps ----------------------------------------------------------------------------------

    async def _create(self, row: Mapping[str, Any]) -> None:
        """Make the copy, empty, and begin to write down what is written to the table."""
        self._show(f"{self._source}: preparing", 0, 1)
        await refuse_obstacles(self._connection, self._source)
        await refuse_lack_of_room(self._connection, self._source)
        found = await blueprint(self._connection, self._source)
        parts = await target_of(
            self._connection, found, operation=row["operation"], plan=self._plan
        )
        counted = await self._one("rows", table=found.identifier())
        stored = None if parts is None else Jsonb([part.as_json() for part in parts])

        async def work() -> None:
            await run_all(self._connection, exchange.create(found, self._names.shadow, parts=parts))
            await run_all(self._connection, Trail(self._connection, found).follow())
            await self._execute("settle_target", source=self._source, target=stored)
            await self._execute("settle_rows", source=self._source, rows=counted["rows"])
            await self._enter("copy")

        await patiently(self._connection, work, about=self._source)

    async def _copy(self, row: Mapping[str, Any]) -> None:
        """Copy what was there, table by table and in the order of the key."""
        found = await blueprint(self._connection, self._source)
        cursor, copied, limit = dict(row["cursor"]), row["rows_copied"], _FIRST_BATCH
        done = set(cursor.get("done", ()))
        for leaf in await leaves(self._connection, self._source):
            last = cursor.get("last") if cursor.get("leaf") == leaf.name else None
            while leaf.name not in done:
                self._show(f"{self._source}: copying", copied, max(copied, row["rows_total"]))
                started = time.perf_counter()
                rows, last = await self._copy_batch(
                    found, leaf.name, last=last, limit=limit, done=done
                )
                copied += rows
                limit = _next_limit(limit, time.perf_counter() - started)
        await self._enter("index")

    async def _copy_batch(
        self,
        found: Blueprint,
        leaf: str,
        *,
        last: Mapping[str, Any] | None,
        limit: int,
        done: set[str],
    ) -> tuple[int, Mapping[str, Any] | None]:
        """Copy one batch of a table, and note how far it is, in one transaction."""
        statement = _queries["copy"].format(
            columns=listed(found.written),
            source=found.identifier(leaf),
            shadow=found.identifier(self._names.shadow),
            key=listed(found.key),
            descending=sql.SQL(", ").join(sql.Identifier(k) + sql.SQL(" DESC") for k in found.key),
            beyond=sql.SQL("true") if last is None else _beyond(found),
        )
        async with self._connection.transaction():
            values = {name: str(value) for name, value in (last or {}).items()}
            cursor = await self._connection.execute(statement, {**values, "limit": limit})
            batch = await cursor.fetchone() or {"rows": 0, "last": None}
            if batch["rows"] < limit:
                done.add(leaf)
            at = {"done": sorted(done), "leaf": leaf, "last": batch["last"]}
            await self._execute(
                "advance", source=self._source, cursor=Jsonb(at), rows=batch["rows"]
            )
        return batch["rows"], batch["last"]

    async def _index(self, row: Mapping[str, Any]) -> None:
        """Build the indexes of the copy table by table, then those of the whole, which adopt them.

        A build inside a transaction would hold up the feed of changes for as long as it lasts.
        """
        found = await blueprint(self._connection, self._source)
        shadow = self._names.shadow
        tables = [leaf.name for leaf in await leaves(self._connection, shadow)]
        for number, table in enumerate(tables):
            self._show(f"{self._source}: indexing", number, len(tables))
            # In an almost empty partition they come with those of the whole, at once.
            if row["target"] is None or await self._has_many_rows(found, table):
                await self._build_indexes(found, table)
            await self._build_vector_index(found, table)
        if row["target"] is not None:

            async def work() -> None:
                names = await self._index_names(shadow)
                if not names:
                    await run_all(self._connection, exchange.create_indexes(found, shadow))

            await patiently(self._connection, work, about=shadow)
        await self._execute("vacuum", table=found.identifier(shadow))
        await self._enter("catch-up")

    async def _has_many_rows(self, found: Blueprint, table: str) -> bool:
        many = await self._one("many_rows", table=found.identifier(table), few=_FEW_ROWS)
        return bool(many["found"])

    async def _build_indexes(self, found: Blueprint, table: str) -> None:
        for index in found.indexes:
            name = f"{table}_{found.suffix(index)}"
            statement = exchange.create_concurrently(found, table, index=index)
            await self._build(found, name, statement=statement)
            if index.constraint is not None:
                await self._make_key(found, table, name=name, is_primary=index.is_primary)

    async def _build(self, found: Blueprint, name: str, *, statement: sql.Composed) -> None:
        """Build an index, unless an earlier try did; what one left behind is not valid."""
        state = await self._state(name)
        if state is None or not state["is_valid"]:
            await self._execute("drop_index_concurrently", name=found.identifier(name))
            await self._connection.execute(statement)

    async def _make_key(self, found: Blueprint, table: str, *, name: str, is_primary: bool) -> None:
        state = await self._state(name)
        if state is None or not state["is_key"]:
            await self._execute(
                "add_key_of_index",
                table=found.identifier(table),
                name=sql.Identifier(name),
                kind=sql.SQL("PRIMARY KEY" if is_primary else "UNIQUE"),
            )

    async def _build_vector_index(self, found: Blueprint, table: str) -> None:
        """The HNSW index, made as the source's is, where there are enough rows for one."""
        if found.vector_index is None:
            return
        rows = await self._one("rows", table=found.identifier(table))
        if rows["rows"] >= self._hnsw_min_rows:
            name = f"{table}_hnsw_idx"
            statement = _queries["create_index_concurrently"].format(
                unique=sql.SQL(""),
                name=sql.Identifier(name),
                table=found.identifier(table),
                body=raw(found.vector_index),
            )
            await self._build(found, name, statement=statement)

    async def _catch_up(self, row: Mapping[str, Any]) -> None:
        """Bring the copy up to date until little is left, then let it take the name."""
        self._show(f"{self._source}: catching up", 0, 1)
        found = await blueprint(self._connection, self._source)
        taken = _SYNC_BATCH
        while taken > _SMALL_ROUND:
            async with self._connection.transaction():
                taken = await Trail(self._connection, found).sync(_SYNC_BATCH)
        if self._manager is not None and row["target"] is None:
            await self._manager.release(self._connection, self._source)
        await patiently(self._connection, self._exchange, about=self._source)

    async def _exchange(self) -> None:
        """The last of what was written, and the names: what everybody waits for."""
        await refuse_old_snapshots(self._connection)
        found = await locked_blueprint(self._connection, self._source)
        await refuse_old_snapshots(self._connection)
        while await Trail(self._connection, found).sync(_SYNC_BATCH):
            pass
        indexes = await self._index_names(self._source)
        new = await self._index_names(self._names.shadow)
        await run_all(self._connection, self._take_place(found, indexes, new=new))
        await self._enter("drop")

    def _take_place(
        self, found: Blueprint, indexes: Sequence[str], *, new: Sequence[str]
    ) -> exchange.Statements:
        """Exchange the names, and let follow what stands on the table."""
        names = self._names
        yield from exchange.leave_publications(found)
        yield from exchange.give_name(found, indexes, old=names.source, new=names.old)
        yield from exchange.give_name(found, new, old=names.shadow, new=names.source)
        yield from exchange.dress(found, names.source)
        yield from exchange.move_in(found)

    async def _drop(self, row: Mapping[str, Any]) -> None:
        """Drop the table whose name was taken, and what was made for the change."""
        found = await blueprint(self._connection, self._source)

        async def work() -> None:
            await self._execute("drop", table=found.identifier(self._names.old))
            await run_all(self._connection, Trail(self._connection, found).clear())
            await self._enter("rename")

        await patiently(self._connection, work, about=self._names.old)

    async def _rename(self, row: Mapping[str, Any]) -> None:
        """Give the partitions their names, one at a time; until now others may have had them."""
        found = await blueprint(self._connection, self._source)
        shadow = self._names.shadow
        for leaf in await leaves(self._connection, self._source):
            if leaf.name.startswith(f"{shadow}_"):
                name = f"{self._source}_{leaf.name.removeprefix(f'{shadow}_')}"
                await self._rename_part(found, leaf.name, name=name)
        if self._manager is not None and row["target"] is not None:
            await self._manager.adopt(self._connection, self._plan, table=self._source)
        async with self._connection.transaction():
            await self._execute("end", source=self._source)
            if row["operation"] == "disable":
                await forget_plan(self._connection)

    async def _rename_part(self, found: Blueprint, part: str, *, name: str) -> None:
        async def work() -> None:
            indexes = await self._index_names(part)
            statements = exchange.give_name(found, indexes, old=part, new=name)
            await run_all(self._connection, statements)

        await patiently(self._connection, work, about=part)

    # --- Statements -----------------------------------------------------------------------------

    async def _row(self) -> Mapping[str, Any] | None:
        parameters = {"source": self._source}
        cursor = await self._connection.execute(_queries["of_source"], parameters)
        return await cursor.fetchone()

    async def _enter(self, step: str) -> None:
        await self._execute("enter", source=self._source, step=step)

    async def _state(self, index: str) -> Mapping[str, Any] | None:
        cursor = await self._connection.execute(_queries["index_state"], {"name": index})
        return await cursor.fetchone()

    async def _index_names(self, table: str) -> list[str]:
        cursor = await self._connection.execute(_queries["index_names"], {"table": table})
        return [row["name"] async for row in cursor]

    async def _one(self, query: str, **values: object) -> Mapping[str, Any]:
        return await (await self._execute(query, **values)).fetchone() or {}

    async def _execute(self, query: str, **values: object) -> Any:
        """Run a query; values that are SQL are put into it, the others are its parameters."""
        parts = {name: v for name, v in values.items() if isinstance(v, sql.Composable)}
        parameters = {name: v for name, v in values.items() if name not in parts}
        statement = _queries[query].format(**parts) if parts else _queries[query]
        return await self._connection.execute(statement, parameters or None)


def _beyond(found: Blueprint) -> sql.Composed:
    values = (
        sql.SQL("{}::{}").format(sql.Placeholder(name), raw(kind))
        for name, kind in found.key_types.items()
    )
    return _queries["beyond"].format(key=listed(found.key), values=sql.SQL(", ").join(values))


def _next_limit(limit: int, seconds: float) -> int:
    """So many rows as take about as long as a batch may."""
    wanted = limit * _BATCH_SECONDS / max(seconds, 0.001)
    return round(min(max(wanted, limit / 2, _LEAST_BATCH), limit * 2, _MOST_BATCH))
