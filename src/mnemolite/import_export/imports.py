"""Import: what a source holds becomes events, a thousand to a transaction; bad parts are reported.

The source is read and checked in a thread while the batch before is being stored.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from operator import attrgetter
from typing import IO

from mnemolite.errors import InvalidInputError, PayloadTooLargeError
from mnemolite.import_export.formats import AUTO, Draft, Reading, choose_format
from mnemolite.import_export.identity import Identities
from mnemolite.import_export.lines import Counted
from mnemolite.import_export.mapping import LineMapping
from mnemolite.import_export.reading_thread import reading_thread
from mnemolite.import_export.report import BadLine, ImportReport
from mnemolite.intake import Incoming, Outcome
from mnemolite.memory import Memory
from mnemolite.models import Space

BATCH_SIZE = 1000
BATCH_BYTES = 8 * 1024 * 1024

OnProgress = Callable[[int, ImportReport], None]


@dataclass(slots=True)
class _Batch:
    """Some events that are stored together, each with its number in the source."""

    events: list[tuple[int, Incoming]] = field(default_factory=list)
    bad: list[BadLine] = field(default_factory=list)
    bytes_read: int = 0
    last: bool = False


async def import_events(
    memory: Memory,
    lines: IO[bytes],
    *,
    mapping: LineMapping | None = None,
    format: str = AUTO,
    strict: bool = False,
    on_progress: OnProgress = lambda _bytes, _report: None,
) -> ImportReport:
    """Store what a source holds, in its order; a second run of the same source stores nothing.

    A bad part is left out and reported; with ``strict`` it ends the import with InvalidInputError,
    and what came before it is stored. ``on_progress`` gets the bytes read since the last call.
    """
    mapping = mapping or LineMapping()
    source = _Source(Counted(lines), mapping=mapping, strict=strict)
    importing = _Import(memory, source.reading, strict=strict)
    with reading_thread(source.close) as call:
        await call(partial(source.begin, format))
        following = call(source.next_batch)
        while True:
            batch = await following
            if not batch.last:
                following = call(source.next_batch)
            await importing.take(batch)
            on_progress(batch.bytes_read, importing.report)
            if batch.last:
                return importing.report


class _Source:
    """A source as batches of events; used in threads, one after the other."""

    def __init__(self, source: Counted, *, mapping: LineMapping, strict: bool) -> None:
        self.reading = Reading(mapping, ImportReport())
        self._source = source
        self._strict = strict
        self._identities = Identities()
        self._drafts: Iterator[Draft | BadLine] = iter(())

    def begin(self, name: str) -> None:
        """Settle the format. Raises InvalidInputError."""
        format = choose_format(name, self._source)
        if self.reading.mapping.targets and format.name != "jsonl":
            raise InvalidInputError(
                f"The format {format.name} settles where its keys go.",
                field="--map",
                remedy="Leave it out, or name --format jsonl.",
            )
        self.reading.report.format, self.reading.report.unit = format.name, format.unit
        self._drafts = format.read(self._source, self.reading)

    def next_batch(self) -> _Batch:
        """Read on until there is enough for a transaction."""
        batch, before = _Batch(), self._source.bytes_read
        for draft in self._drafts:
            if isinstance(draft, BadLine):
                batch.bad.append(draft)
            else:
                batch.events.append((draft.number, self._identities.settle(draft)))
            read = self._source.bytes_read - before
            if (batch.bad and self._strict) or len(batch.events) + len(batch.bad) >= BATCH_SIZE:
                break
            if read >= BATCH_BYTES:
                break
        else:
            batch.last = True
        batch.bytes_read = self._source.bytes_read - before
        return batch

    def close(self) -> None:
        """Forget what was met."""
        self._identities.close()


class _Import:
    """One import: stores batches, and keeps the report."""

    def __init__(self, memory: Memory, reading: Reading, *, strict: bool) -> None:
        self._memory = memory
        self._reading = reading
        self._strict = strict
        self._space: Space | None = None
        self._looked_for: str | None = None
        self.report = reading.report

    async def take(self, batch: _Batch) -> None:
        """Store the events and note what is bad. Raises InvalidInputError if it is strict."""
        await self._find_space()
        await self._store(batch.events)
        for bad in batch.bad:
            self._reject(bad)
        self.report.bad_lines.sort(key=attrgetter("number"))

    async def _find_space(self) -> None:
        """The space whose vectors the source brings, if this database has it."""
        if (digest := self._reading.digest) == self._looked_for or digest is None:
            return
        self._looked_for = digest
        self._space = await self._memory.spaces.of_digest(digest)
        if self._space is None:
            self.report.notes.append(
                "The vectors are of another model than this database's: they are computed anew."
            )

    async def _store(self, events: list[tuple[int, Incoming]]) -> None:
        """Store a batch at once; if that fails, each half, until what cannot be stored is alone."""
        if not events:
            return
        try:
            outcomes = await self._memory.take_in(
                [event for _, event in events],
                languages=self._reading.languages,
                space=self._space,
                until_refused=self._strict,
            )
        except (InvalidInputError, PayloadTooLargeError) as error:
            if error.field == "language":  # no fault of the events
                raise
            if len(events) == 1:
                self._reject(BadLine(events[0][0], str(error)))
                return
            half = len(events) // 2
            await self._store(events[:half])
            await self._store(events[half:])
            return
        for (number, _), outcome in zip(events, outcomes, strict=True):
            self._note(number, outcome)

    def _note(self, number: int, outcome: Outcome | str) -> None:
        if isinstance(outcome, str):
            self._reject(BadLine(number, outcome))
        elif outcome is Outcome.ALREADY_THERE:
            self.report.already_there += 1
        else:
            self.report.stored += 1
            self.report.vectors += outcome is Outcome.STORED_WITH_VECTORS

    def _reject(self, bad: BadLine) -> None:
        if self._strict:
            raise InvalidInputError(f"{bad.reason}.", field=f"{self.report.unit} {bad.number}")
        self.report.reject(bad)
