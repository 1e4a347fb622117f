"""Applying the rules: partitions as a whole where age alone decides, the rest in small batches."""

from collections.abc import Callable
from typing import Any

from mnemolite.database import Connection
from mnemolite.errors import LayoutBusyError
from mnemolite.memory import Memory
from mnemolite.models import PartitionOutcome, RuleOutcome
from mnemolite.partitions import Leaf, taking_turn
from mnemolite.retention import batches, journal
from mnemolite.retention.archive import checked_folder
from mnemolite.retention.drops import carry_on, drop, steady_connection, unfinished
from mnemolite.retention.orders import Options, Order, expired, orders
from mnemolite.retention.rules import holds
from mnemolite.sql import load

_queries = load("retention")

OnProgress = Callable[[str, int, int], None]
"""Told what is being done, how much of it is done, and of how much."""


def silent(_doing: str, _done: int, _total: int) -> None:
    """Tell nobody."""


def _never() -> bool:
    return False


async def preview(memory: Memory, options: Options) -> list[RuleOutcome]:
    """What a run would do, with counts; nothing is changed."""
    async with steady_connection(memory.database) as connection:
        _check(options)
        return [
            await _preview(connection, order, rest_stays=options.whole_only and order.takes_all)
            for order in await orders(connection, options)
        ]


async def run(
    memory: Memory,
    options: Options | None = None,
    *,
    on_progress: OnProgress = silent,
    stopping: Callable[[], bool] = _never,
) -> list[RuleOutcome]:
    """Finish what a crash has left behind, then apply the rules.

    Once it is ``stopping`` it ends behind the partition or the batch at hand. Raises
    LayoutBusyError when another process is changing the partitions.
    """
    options = options or Options()
    async with (
        taking_turn(memory.database),
        steady_connection(memory.database) as connection,
    ):
        _check(options)
        asked = await orders(connection, options)
        finished = [await carry_on(connection, entry) for entry in await unfinished(connection)]
        outcomes = [
            await _Run(
                memory, connection, options=options, tell=on_progress, stopping=stopping
            ).apply(order)
            for order in asked
        ]
        await settle(memory)
    if finished:
        left_behind = RuleOutcome(
            rule="left behind", older_than=None, partitions=finished, deleted=0, held=0
        )
        return [left_behind, *outcomes]
    return outcomes


async def run_if_due(memory: Memory, stopping: Callable[[], bool]) -> list[RuleOutcome]:
    """The same for workers: nothing if there is no rule, or if another process is at it."""
    async with memory.database.connection() as connection:
        row = await (await connection.execute(_queries["due"])).fetchone()
    if not (row and row["due"]):
        return []
    try:
        options = Options(archive=memory.settings.retention.archive)
        return await run(memory, options, stopping=stopping)
    except LayoutBusyError:
        return []


async def settle(memory: Memory) -> None:
    """Take the words of what went out of the lexicon."""
    while await memory.lexicon.count():
        pass
    async with steady_connection(memory.database) as connection:
        await connection.execute(_queries["drop_unused_words"])


class _Run:
    """One run over the rules."""

    def __init__(
        self,
        memory: Memory,
        connection: Connection,
        *,
        options: Options,
        tell: OnProgress,
        stopping: Callable[[], bool],
    ) -> None:
        self._memory = memory
        self._connection = connection
        self._options = options
        self._tell = tell
        self._stopping = stopping

    async def apply(self, order: Order) -> RuleOutcome:
        partitions = await self._drop(order)
        stays = order.takes_all and self._options.whole_only
        stays = stays or any(one.error for one in partitions)
        deleted = 0 if stays else await self._delete(order)
        left = held = 0
        if stays or await holds(self._connection):
            left, held = await batches.count(self._connection, order.wanted)
        return RuleOutcome(
            rule=order.rule,
            older_than=order.until,
            partitions=partitions,
            deleted=deleted,
            held=held,
            left=left - held,
        )

    async def _drop(self, order: Order) -> list[PartitionOutcome]:
        """Drop what is over as a whole; stop at the first that had to be put back."""
        outcomes: list[PartitionOutcome] = []
        leaves = await expired(self._connection, order)
        for leaf in leaves:
            events, held = await self._held_in(leaf)
            if held:
                outcomes.append(_stays(leaf, events=events, held=held))
                continue
            while await self._memory.lexicon.count():  # so that little is left to be counted
                pass
            self._tell(f"dropping {leaf.name}", len(outcomes), len(leaves))
            outcome = await drop(
                self._connection,
                leaf,
                rule=order.rule,
                archive=self._options.archive,
                keep=self._options.keep,
            )
            outcomes.append(outcome)
            if outcome.error or self._stopping():
                break
        return outcomes

    async def _held_in(self, leaf: Leaf) -> tuple[int, int]:
        if not await holds(self._connection):
            return 0, 0
        return await batches.count_table(self._connection, leaf.name)

    async def _delete(self, order: Order) -> int:
        place: dict[str, Any] = {"namespace": order.wanted.namespace, "until": order.until}
        line = await journal.begin_or_resume(self._connection, "rule", rule=order.rule, **place)
        deleted = 0
        async for gone in batches.delete(self._memory.database, order.wanted, line=line):
            deleted += len(gone.ids)
            self._tell(f"deleting by {order.rule}", deleted, deleted)
            if self._stopping():
                break
        await journal.close(self._connection, line)
        return deleted


async def _preview(connection: Connection, order: Order, *, rest_stays: bool) -> RuleOutcome:
    partitions = []
    for leaf in await expired(connection, order):
        events, held = await batches.count_table(connection, leaf.name)
        partitions.append(_stays(leaf, events=events, held=held))
    events, held = await batches.count(connection, order.wanted)
    rest = events - held - sum(one.events for one in partitions if not one.held)
    return RuleOutcome(
        rule=order.rule,
        older_than=order.until,
        partitions=partitions,
        deleted=0 if rest_stays else rest,
        held=held,
        left=rest if rest_stays else 0,
    )


def _stays(leaf: Leaf, *, events: int, held: int) -> PartitionOutcome:
    since, until = (leaf.range.since, leaf.range.until) if leaf.range else (None, None)
    return PartitionOutcome(name=leaf.name, since=since, until=until, events=events, held=held)


def _check(options: Options) -> None:
    if options.archive is not None:
        checked_folder(options.archive)
