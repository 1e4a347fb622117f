"""Attaching: a table becomes the first partition of one that takes its name; no row is copied."""

from collections.abc import Iterable
from functools import partial
from typing import Any

from psycopg import errors, sql

from mnemolite.database import Connection
from mnemolite.errors import LayoutRefusedError
from mnemolite.partitions import exchange
from mnemolite.partitions.blueprint import Blueprint, blueprint, refuse_obstacles
from mnemolite.partitions.catalog import is_partitioned
from mnemolite.partitions.locking import NotNowError, locked_blueprint, patiently, run_all
from mnemolite.partitions.plan import Manager, Part, Plan
from mnemolite.partitions.ranges import Range
from mnemolite.partitions.relayout import Show
from mnemolite.partitions.targets import target_of
from mnemolite.sql import load

_queries = load("relayout")
_TRIES = 5


class Attachment:
    """One plain table on its way to be a partition."""

    def __init__(
        self, connection: Connection, source: str, *, plan: Plan, manager: Manager | None
    ) -> None:
        self._connection = connection
        self._source = source
        self._plan = plan
        self._manager = manager

    async def run(self, show: Show, *, then_split: bool) -> None:
        """Attach the table, unless it is done; ends with the note of what comes next."""
        if not await is_partitioned(self._connection, self._source):
            show(f"{self._source}: attaching", 0, 1)
            await refuse_obstacles(self._connection, self._source)
            parts = await self._checked()
            await patiently(self._connection, partial(self._attach, parts), about=self._source)
        if self._manager is not None:
            await self._manager.adopt(self._connection, self._plan, table=self._source)
        note = "turn_to_split" if then_split else "end"
        await self._connection.execute(_queries[note], {"source": self._source})

    async def abandon(self) -> None:
        """Take back what was done before the table was attached."""
        found = await blueprint(self._connection, self._source)

        async def work() -> None:
            await self._connection.execute(_drop_check(found))
            await self._connection.execute(_queries["end"], {"source": self._source})

        await patiently(self._connection, work, about=self._source)

    async def statements(self) -> list[str]:
        """What would run, as SQL; nothing does."""
        await refuse_obstacles(self._connection, self._source)
        found = await blueprint(self._connection, self._source)
        parts = await self._parts(found)
        bound = _legacy(parts).until
        composed: list[sql.SQL | sql.Composed] = []
        if bound is not None:
            composed += [_add_check(found, bound), _validate_check(found)]
        composed.append(sql.SQL("BEGIN"))
        composed += self._before(found, parts)
        composed += exchange.lock(found)
        indexes = await self._index_names()
        composed += self._take_place(found, parts, indexes=indexes)
        composed.append(sql.SQL("COMMIT"))
        return [f"{statement.as_string(self._connection)};" for statement in composed]

    async def _parts(self, found: Blueprint) -> list[Part]:
        parts = await target_of(self._connection, found, operation="enable", plan=self._plan)
        if parts is None:
            raise LayoutRefusedError(f"{self._source} is to stay one table.")
        return parts

    async def _checked(self) -> list[Part]:
        """The partitions to be, once all rows of the table are known to lie before the second.

        A checked constraint spares the attachment the reading of all rows. It is checked while
        everybody goes on, without a transaction that others wait for.
        """
        found = await blueprint(self._connection, self._source)
        for _ in range(_TRIES):
            parts = await self._parts(found)
            bound = _legacy(parts).until
            if bound is None:
                return parts
            # An earlier try may have left one with another bound.
            check = partial(self._check, found, bound)
            await patiently(self._connection, check, about=self._source)
            try:
                await self._connection.execute(_validate_check(found))
            except errors.CheckViolation:  # a later row has come in before the constraint
                continue
            return parts
        raise LayoutRefusedError(
            f"Rows with ever later times are written to {self._source}.",
            remedy="Let nothing be written for the future for a minute, and run this again.",
        )

    async def _check(self, found: Blueprint, bound: Any) -> None:
        await self._connection.execute(_drop_check(found))
        await self._connection.execute(_add_check(found, bound))

    async def _attach(self, parts: list[Part]) -> None:
        found = await blueprint(self._connection, self._source)
        await run_all(self._connection, self._before(found, parts))
        if await locked_blueprint(self._connection, self._source) != found:
            raise NotNowError(f"{self._source} was changed meanwhile")
        indexes = await self._index_names()
        await run_all(self._connection, self._take_place(found, parts, indexes=indexes))

    def _before(self, found: Blueprint, parts: list[Part]) -> exchange.Statements:
        """The parent with all its partitions but the old table; nobody sees it yet."""
        shadow = f"{self._source}_new"
        yield from exchange.create(found, shadow, parts=[])
        yield _drop_check(found, shadow)  # it was made like the old table
        yield from exchange.create_indexes(found, shadow)
        yield from exchange.dress(found, shadow)

    def _take_place(
        self, found: Blueprint, parts: list[Part], *, indexes: Iterable[str]
    ) -> exchange.Statements:
        source, legacy = self._source, f"{self._source}_legacy"
        span = _legacy(parts)
        new = [f"{source}_new_{found.suffix(index)}" for index in found.indexes]
        yield from exchange.leave_publications(found)
        yield from exchange.drop_triggers(found)
        yield from exchange.give_name(found, indexes, old=source, new=legacy)
        yield from exchange.give_name(found, new, old=f"{source}_new", new=source)
        yield _queries["attach"].format(
            parent=found.identifier(),
            part=found.identifier(legacy),
            bound=exchange.bound_of(span),
        )
        yield _drop_check(found, legacy)
        for part in parts[1:]:
            yield from exchange.create_part(found, source, part=part)
        yield from exchange.move_in(found)

    async def _index_names(self) -> list[str]:
        cursor = await self._connection.execute(_queries["index_names"], {"table": self._source})
        return [row["name"] async for row in cursor]


def _legacy(parts: list[Part]) -> Range:
    return parts[0].range or Range(None, None)


def check_name(source: str) -> str:
    """The constraint that holds until the table is attached."""
    return f"{source}_relayout_check"


def _add_check(found: Blueprint, bound: Any) -> sql.Composed:
    return _queries["add_check"].format(
        table=found.identifier(),
        name=sql.Identifier(check_name(found.name)),
        bound=sql.Literal(bound.isoformat()),
    )


def _validate_check(found: Blueprint) -> sql.Composed:
    name = sql.Identifier(check_name(found.name))
    return _queries["validate_check"].format(table=found.identifier(), name=name)


def _drop_check(found: Blueprint, table: str | None = None) -> sql.Composed:
    name = sql.Identifier(check_name(found.name))
    return _queries["drop_check"].format(table=found.identifier(table), name=name)
