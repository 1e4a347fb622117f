"""The change feed: one follower of the database a process, fanned out to any number of readers.

A reader catches up from the database, page by page, then goes live on what the follower reads. One
that falls behind its buffer goes back to the database, so it neither holds memory nor slows others.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from contextlib import closing, suppress
from typing import Self

import structlog

from mnemolite import metrics
from mnemolite.changes import ChangeStore, Position, Selection, Told, cursor_of
from mnemolite.database import Database
from mnemolite.errors import CursorGoneError, DatabaseError, TooManyStreamsError
from mnemolite.models import EventChange, FeedQuery
from mnemolite.notifications import end, listen
from mnemolite.settings.feed import FeedSettings

log = structlog.get_logger(__name__)

_FAULT_PAUSE_SECONDS = 1.0
_HELD_SECONDS = 0.02
_BUFFER_BYTES = 8 * 1024 * 1024
_RETRY_AFTER_SECONDS = 5


__all__ = ["Feed", "Reader", "Told"]


class Feed:
    """Where readers of the feed begin, and the follower that they share."""

    def __init__(self, database: Database, settings: FeedSettings) -> None:
        self.changes = ChangeStore(database, hours=settings.hours)
        self.settings = settings
        self.follower = _Follower(database, self.changes, poll_seconds=settings.poll_seconds)
        self._open: set[Reader] = set()
        self._ended = False

    async def __aenter__(self) -> Self:
        await self.changes.settle()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.end_readers()
        await self.follower.close()

    @property
    def readers(self) -> int:
        """How many there are."""
        return len(self._open)

    async def read(self, query: FeedQuery) -> "Reader":
        """A reader, to be closed by the caller.

        Raises CursorGoneError, InvalidFilterError, TooManyStreamsError.
        """
        if len(self._open) >= self.settings.streams:
            raise TooManyStreamsError(retry_after=_RETRY_AFTER_SECONDS)
        selection = Selection.of(query)
        epoch, position = await self.changes.start(query.after)
        reader = Reader(self, selection, epoch=epoch, position=position)
        self._open.add(reader)
        metrics.FEED_READERS.set(len(self._open))
        if self._ended:
            reader.close()
        return reader

    def end_readers(self) -> None:
        """Let every reader end, as the process is about to; later ones end at once."""
        self._ended = True
        for reader in list(self._open):
            reader.close()

    async def follow(
        self, query: FeedQuery, *, wait: bool = True
    ) -> AsyncGenerator[EventChange, None]:
        """Every change, as it comes, until the memory is closed; or those that there are now."""
        with closing(await self.read(query)) as reader:
            while not reader.closed and (wait or not reader.is_live):
                for told in await reader.next():
                    yield told.change

    def forget(self, reader: "Reader") -> None:
        """The reader has ended."""
        self._open.discard(reader)
        metrics.FEED_READERS.set(len(self._open))


class Reader:
    """One consumer's way through the feed."""

    def __init__(self, feed: Feed, selection: Selection, *, epoch: str, position: Position) -> None:
        self.epoch = epoch
        self.position = position  # all up to here has been handed over
        self.settings = feed.settings
        self._feed = feed
        self._closed = asyncio.Event()
        self._selection = selection
        self._joined: Position | None = None  # from here on the follower's changes are queued
        self._live = False
        self._queue: deque[Told] = deque()
        self._queued_bytes = 0
        self._queued_to = position
        self._awake = asyncio.Event()
        self._fault: CursorGoneError | None = None

    @property
    def cursor(self) -> str:
        """What brings a later reader to this position."""
        return cursor_of(self.epoch, self.position)

    @property
    def closed(self) -> bool:
        """Whether nothing more is handed over."""
        return self._closed.is_set()

    @property
    def is_live(self) -> bool:
        """Whether it has caught up, and waits for what the follower reads."""
        return self._live

    async def ended(self) -> None:
        """Return when the reader is closed."""
        await self._closed.wait()

    async def next(self, wait_seconds: float | None = None) -> Sequence[Told]:
        """The next changes; none when the time is up, or now and then before.

        Raises CursorGoneError when what follows is no longer kept.
        """
        if self.closed:
            return []
        if not self._live:
            return await self._catch_up()
        with suppress(TimeoutError):
            async with asyncio.timeout(wait_seconds):
                await self._awake.wait()
        return self._take()

    def close(self) -> None:
        """Hand over nothing more, and let go of everything."""
        self._closed.set()
        self._leave()
        self._feed.forget(self)
        self._awake.set()

    def offer(self, told: Sequence[Told], up_to: Position) -> None:
        """Take note of what the follower has read up to a position; never waits."""
        wanted = [change for change in told if self._selection.takes(change)]
        self._queue.extend(wanted)
        self._queued_bytes += sum(change.bytes for change in wanted)
        self._queued_to = up_to
        if len(self._queue) > self.settings.buffer or self._queued_bytes > _BUFFER_BYTES:
            self._leave()
        if wanted:
            self._awake.set()

    def fail(self, fault: CursorGoneError) -> None:
        """The follower cannot go on: neither can this reader."""
        self._fault = fault
        self._awake.set()

    def _take(self) -> list[Told]:
        self._awake.clear()
        if self._fault is not None:
            raise self._fault
        if not self._live:  # closed, or the queue ran over: the database has it all
            return []
        # Where the reader went live, it may have read farther than the follower.
        taken = [told for told in self._queue if told.position > self.position]
        self._queue.clear()
        self._queued_bytes = 0
        self.position = max(self.position, self._queued_to)
        return taken

    async def _catch_up(self) -> Sequence[Told]:
        try:
            return await self._read_page()
        except DatabaseError as error:
            log.warning("feed_reader_waits", code=error.code, error=str(error))
            await asyncio.sleep(_FAULT_PAUSE_SECONDS)
            return []

    async def _read_page(self) -> Sequence[Told]:
        changes = self._feed.changes
        look = await changes.look(self.position, epoch=self.epoch)
        if self.closed:  # meanwhile
            return []
        if self._joined is None and not look.more:
            # Before the page is read, so that there is no gap between it and the queue.
            self._joined = self._feed.follower.join(self)
        told, self.position = await changes.read(look, self._selection)
        # The queue may have run over meanwhile: then the pages go on.
        self._live = self._joined is not None and self.position >= self._joined
        return told

    def _leave(self) -> None:
        self._joined, self._live = None, False
        self._feed.follower.leave(self)
        self._queue.clear()
        self._queued_bytes = 0


class _Follower:
    """Reads what is new, once for all readers; it runs while there are any."""

    def __init__(self, database: Database, changes: ChangeStore, *, poll_seconds: float) -> None:
        self._database = database
        self._changes = changes
        self._poll_seconds = poll_seconds
        self._readers: set[Reader] = set()
        self._position = Position(0, 0)
        self._epoch = ""
        self._awake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._ending: set[asyncio.Task[None]] = set()

    def join(self, reader: Reader) -> Position:
        """Offer the reader all that is read from now on; the position from which on."""
        if self._task is None:
            self._position, self._epoch = reader.position, reader.epoch
            self._awake = asyncio.Event()
            self._task = asyncio.create_task(self._run(self._awake), name="feed")
        self._readers.add(reader)
        return self._position

    def leave(self, reader: Reader) -> None:
        """Offer the reader nothing any more; the last one to leave ends the work."""
        self._readers.discard(reader)
        if not self._readers:
            self._retire()

    async def close(self) -> None:
        """End what still runs."""
        self._retire()
        for task in list(self._ending):
            await end(task)

    def _retire(self) -> None:
        if self._task is not None:
            # Not cancelled: it may be the one that calls. It ends when it finds itself retired.
            self._ending.add(self._task)
            self._task.add_done_callback(self._ending.discard)
            self._task = None
            self._awake.set()
            metrics.FEED_LAG_SECONDS.set(0)

    async def _run(self, awake: asyncio.Event) -> None:
        listener = asyncio.create_task(listen(self._database, awake.set))
        pause = 0.0
        try:
            while self._is_current():
                awake.clear()
                pause = await self._step(pause)
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await awake.wait()
        except CursorGoneError as error:
            for reader in self._readers:
                reader.fail(error)
            self._retire()
        finally:
            await end(listener)

    def _is_current(self) -> bool:
        return asyncio.current_task() is self._task

    async def _step(self, paused: float) -> float:
        """Read one page and hand it on; how long to pause then, unless woken."""
        try:
            look = await self._changes.look(self._position, epoch=self._epoch)
            told, reached = await self._changes.read(look) if look.ready else ([], look.end)
        except DatabaseError as error:
            log.warning("feed_waits", code=error.code, error=str(error))
            return _FAULT_PAUSE_SECONDS
        if not self._is_current():
            return 0.0
        self._position = reached
        for reader in list(self._readers):
            reader.offer(told, reached)
        metrics.FEED_LAG_SECONDS.set(0 if look.ready else look.lag_seconds)
        if look.more or reached < look.end:
            return 0.0
        # What a running transaction holds back comes without a call of its own.
        return (
            min(max(_HELD_SECONDS, 2 * paused), self._poll_seconds)
            if look.held
            else (self._poll_seconds)
        )
