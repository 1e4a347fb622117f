"""The read replica: searches run there while it keeps up, else on the primary, which is said."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import structlog

from mnemolite import metrics
from mnemolite.database import Database
from mnemolite.embeddings.batching import BatchingEmbedder
from mnemolite.errors import DatabaseBusyError, DatabaseError, DatabaseTimeoutError
from mnemolite.models import Check, ReplicaMeta, SearchQuery, SearchResult, Space
from mnemolite.notifications import end
from mnemolite.search import Search
from mnemolite.sql import load

_queries = load("replica")
log = structlog.get_logger(__name__)

_LOOK_SECONDS = 0.5
# A replica that said nothing for so long is cut off, whatever TCP still hopes for.
_SILENT_SECONDS = 3.0
_FIRST_LOOK_SECONDS = 3.0
_REMEMBERED = 1200  # positions of the primary: ten minutes of looks
# The replica did its part and has too much to do; the primary would have it on top of its own.
_NO_FALLBACK = (DatabaseBusyError, DatabaseTimeoutError)

Row = dict[str, object]


class Positions:
    """Where the primary's log was when, which tells how old a position of the replica is.

    Comparing clocks would take the rest after the last change for lag; comparing what a standby
    received with what it replayed would not see that it receives nothing any more.
    """

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque(maxlen=_REMEMBERED)

    def saw(self, at: float, position: int) -> None:
        """The primary was there at that moment."""
        if self._seen and position < self._seen[-1][1]:  # another primary, behind the lost one
            self._seen.clear()
        self._seen.append((at, position))

    def age(self, at: float, position: int) -> float | None:
        """At most so many seconds ago the primary was not beyond the position.

        None when that was before all that is remembered, or the primary was never seen.
        """
        if self._seen and position >= self._seen[-1][1]:
            return 0.0
        moments = (moment for moment, reached in reversed(self._seen) if reached <= position)
        moment = next(moments, None)
        return None if moment is None else at - moment


class Replica:
    """Watches a standby: whether it answers, and how far it lags."""

    def __init__(self, primary: Database, database: Database, *, max_lag_seconds: float) -> None:
        self.database = database
        self._primary = primary
        self._max_lag = max_lag_seconds
        self._positions = Positions()
        self._looked = asyncio.Event()
        self._heard_at = -_SILENT_SECONDS
        self._identity: object = None  # of the primary's cluster and database
        self._primary_at = -_SILENT_SECONDS
        self._fault: str | None = None
        self.lag_seconds: float | None = None  # as of the last look; None: not known

    @asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        """Look at both servers as long as the block runs, beginning before it does."""
        tasks = [
            asyncio.create_task(
                self._watch(self._primary, query="primary_position", see=self._see_primary)
            ),
            asyncio.create_task(
                self._watch(self.database, query="replica_position", see=self._see_replica)
            ),
        ]
        try:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._looked.wait(), _FIRST_LOOK_SECONDS)
            yield
        finally:
            for task in tasks:
                await end(task)

    def refusal(self) -> str | None:
        """Why the replica should not be searched now; None if it should."""
        if self._fault is not None:
            return self._fault
        silent = time.monotonic() - self._heard_at
        if silent > _SILENT_SECONDS:
            return "The replica does not answer."
        if self.lag_seconds is not None and self.lag_seconds > self._max_lag:
            return f"The replica lags by {self.lag_seconds:.0f} s."
        return None

    def suspect(self, error: DatabaseError) -> None:
        """A search failed there: leave it alone until the next look finds it well."""
        self._fault = f"{error.code}: {error.detail}"

    def check(self) -> Check:
        """For the summary of health; a memory without its replica is whole, but slower."""
        if (refusal := self.refusal()) is not None:
            return Check(ok=True, detail=f"searches go to the primary: {refusal}")
        lag = "not known" if self.lag_seconds is None else f"{self.lag_seconds:.1f} s"
        return Check(ok=True, detail=f"answers; lag {lag}")

    async def _watch(self, database: Database, *, query: str, see: Callable[[Row], None]) -> None:
        while True:
            try:
                async with database.own_connection() as connection:
                    while True:
                        row = await (await connection.execute(_queries[query])).fetchone()
                        see(row or {})
                        await asyncio.sleep(_LOOK_SECONDS)
            except DatabaseError as error:
                if database is self.database:
                    self._lose(error)
            await asyncio.sleep(_LOOK_SECONDS)

    def _see_primary(self, row: Row) -> None:
        self._identity = row["identity"]
        self._primary_at = time.monotonic()
        if isinstance(position := row["position"], int):
            self._positions.saw(time.monotonic(), position)

    def _see_replica(self, row: Row) -> None:
        self._heard_at = time.monotonic()
        self.lag_seconds = self._lag(row)
        fault = self._unfitness(row)
        if fault != self._fault:
            log.info("replica_seen", fault=fault)
        self._fault = fault
        if self._identity is not None:
            self._looked.set()
        metrics.REPLICA_LAG_SECONDS.set(self.lag_seconds or 0.0)

    def _unfitness(self, row: Row) -> str | None:
        """Why a server that answers is not the one to search."""
        if not row["standby"]:
            return "The server of MNEMO_READ_DATABASE_URL is no standby."
        if row["identity"] != self._identity:
            return "MNEMO_READ_DATABASE_URL is no replica of the database."
        return None

    def _lag(self, row: Row) -> float | None:
        position, last_change = row["position"], row["last_change"]
        unseen = self._heard_at - self._primary_at > _SILENT_SECONDS
        if unseen or not isinstance(position, int):  # some services' standbys do not tell
            return None
        age = self._positions.age(self._heard_at, position)
        if age is None and isinstance(last_change, float):
            return last_change
        return age

    def _lose(self, error: DatabaseError) -> None:
        if self._fault is None:
            log.warning("replica_lost", error=str(error))
        self.suspect(error)
        self._looked.set()


class ReplicaSearch:
    """Runs searches on the replica, or on the primary where that does not work."""

    def __init__(self, primary: Search, replica_search: Search, *, replica: Replica) -> None:
        self._primary = primary
        self._replica_search = replica_search
        self._replica = replica

    async def run(
        self, query: SearchQuery, *, space: Space | None, embedder: BatchingEmbedder | None
    ) -> SearchResult:
        """As ``Search.run``; ``meta.replica`` says who answered."""
        reason, lag = self._replica.refusal(), self._replica.lag_seconds
        if reason is None:
            try:
                result = await self._replica_search.run(query, space=space, embedder=embedder)
                return _told(result, ReplicaMeta(used=True, lag_seconds=lag, reason=None))
            except _NO_FALLBACK:
                raise
            except DatabaseError as error:  # it is away, or has not heard of the space yet
                self._replica.suspect(error)
                reason = f"{error.code}: {error.detail}"
        metrics.REPLICA_FALLBACKS.inc()
        result = await self._primary.run(query, space=space, embedder=embedder)
        return _told(result, ReplicaMeta(used=False, lag_seconds=None, reason=reason))


def searching(own: Search, *, replica: Replica | None) -> Search | ReplicaSearch:
    """Searches of the primary, with those of the replica in front of it if there is one."""
    if replica is None:
        return own
    return ReplicaSearch(own, own.on(replica.database), replica=replica)


def _told(result: SearchResult, replica: ReplicaMeta) -> SearchResult:
    return result.model_copy(update={"meta": result.meta.model_copy(update={"replica": replica})})
