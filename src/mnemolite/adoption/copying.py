"""How rows get from the source into the memory: the copy, the catching up, the proof."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mnemolite.adoption.record import Record, move, refusals
from mnemolite.adoption.source import Keys, Source
from mnemolite.adoption.target import Target
from mnemolite.errors import AdoptionError
from mnemolite.models import Checksums, Refusal

Show = Callable[[str, int, int], None]

_SHOWN = 5
_PROOFS = 3
# So few changes are caught up with while the source's writers wait.
_FEW_CHANGES = 500
_VAIN_ROUNDS = 3


@dataclass(frozen=True, slots=True)
class Passage:
    """The way from one table into one memory."""

    source: Source
    target: Target
    show: Show

    async def copy(self, record: Record) -> None:
        """Copy what has not been copied yet; each batch and how far it reaches are one commit."""
        position, done = record.position, record.adopted + record.refused
        while True:
            async with self.target.connection.transaction():
                async with self.source.rows(position, self.target.plan.batch) as rows:
                    count = await self.target.stage(rows, self.source)
                if not count:
                    await move(self.target.connection, "copied")
                    return
                position = await self.target.last_key(self.source)
                await self._settle()
                await self.target.store()
                await self.target.advance(position)
            done += count
            self.show("copying", done, max(done, record.total))

    async def preview(self, total: int) -> list[Refusal]:
        """Take every row in and let it go again; those that could not be stored."""
        position, done = None, 0
        found: list[Refusal] = []
        while True:
            async with self.target.connection.transaction(force_rollback=True):
                async with self.source.rows(position, self.target.plan.batch) as rows:
                    count = await self.target.stage(rows, self.source)
                if not count:
                    return found
                position = await self.target.last_key(self.source)
                found += await self.target.settle(self.source.table.dimension)
            done += count
            self.show("looking", done, max(done, total))

    async def catch_up(self, until: int = _FEW_CHANGES) -> None:
        """Follow the source's log until no more than so many changes are left.

        Or until they become no fewer: they are as many as are written during one round. With 0,
        for when nobody writes, until none is left.
        """
        fewest, vain = None, 0
        while vain < _VAIN_ROUNDS or not until:
            numbers, keys = await self.source.changes(self.target.plan.batch)
            if not numbers or len(numbers) <= until:
                return
            await self.bring(keys)
            # Only now: after a crash in between they are brought once more, which changes nothing.
            await self.source.forget_changes(numbers)
            left = await self.source.count_changes()
            self.show("catching up", len(numbers), len(numbers) + left)
            vain = vain + 1 if fewest is not None and left >= fewest else 0
            fewest = left if fewest is None else min(fewest, left)

    async def bring(self, keys: Keys) -> None:
        """Make the events of those keys what the source's rows are now."""
        async with self.target.connection.transaction():
            async with self.source.rows_of(keys) as rows:
                await self.target.stage(rows, self.source)
            await self._settle()
            await self.target.correct(keys)
            await self.target.store()

    async def prove(self) -> tuple[Checksums, Checksums]:
        """Compare all rows; what differs is brought anew. Raises AdoptionError if that is no help.

        Means something only while nobody writes the source.
        """
        for _ in range(_PROOFS):
            self.show("comparing", 0, 0)
            left_out = await refusals(self.target.connection)
            theirs, ours = await asyncio.gather(
                self.source.checksums(left_out), self.target.checksums()
            )
            if theirs == ours:
                return theirs, ours
            keys = await self._differences(left_out)
            for start in range(0, len(keys[0]), self.target.plan.batch):
                part = slice(start, start + self.target.plan.batch)
                await self.bring((keys[0][part], keys[1][part]))
        raise AdoptionError(
            f"{len(keys[0])} rows differ from the source: {', '.join(keys[0][:_SHOWN])} …",
            remedy="Somebody writes to the source, or to the adopted events: let that rest and run "
            "the command again, or adopt with --online.",
        )

    async def _differences(self, left_out: Sequence[Refusal]) -> Keys:
        async with (
            self.target.connection.transaction(),
            self.source.digests(left_out) as digests,
        ):
            return await self.target.differences(digests)

    async def _settle(self) -> None:
        bad = await self.target.settle(self.source.table.dimension)
        if bad and not self.target.plan.skip_bad:
            first = bad[0]
            raise AdoptionError(
                f"{len(bad)} rows of this batch cannot be stored; the first is {first.id} "
                f"({first.timestamp}): {first.reason}.",
                field="--from",
                remedy="Correct them in the source, or leave them out with --skip-bad; "
                "--dry-run lists them all. What was copied before stays, and the copy goes on.",
            )
