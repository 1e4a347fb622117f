"""The connection pool, and the one border where psycopg's errors become MnemoLite's."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Self

import psycopg
import structlog
from pgvector.psycopg import register_vector_async
from psycopg import AsyncConnection, AsyncCursor, errors
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import DictRow, dict_row
from psycopg_pool import AsyncConnectionPool, PoolClosed, PoolTimeout, TooManyRequests

from mnemolite import metrics
from mnemolite.errors import (
    DatabaseBusyError,
    DatabaseConflictError,
    DatabaseError,
    DatabaseFullError,
    DatabaseReadOnlyError,
    DatabaseTimeoutError,
    DatabaseUnavailableError,
    InvalidInputError,
    InvalidTextError,
    MnemoliteError,
    PayloadTooLargeError,
)
from mnemolite.settings import DatabaseSettings

log = structlog.get_logger(__name__)

Connection = AsyncConnection[DictRow]

# "No bound" in time: PostgreSQL prunes partitions by these, which it cannot do with NULL.
EARLIEST, LATEST = "-infinity", "infinity"

# The first class that fits wins, so the special ones stand before their parents.
_ERRORS: tuple[tuple[type[Exception], type[MnemoliteError]], ...] = (
    (PoolTimeout, DatabaseBusyError),
    (TooManyRequests, DatabaseBusyError),
    (PoolClosed, DatabaseUnavailableError),
    (errors.QueryCanceled, DatabaseTimeoutError),
    (errors.LockNotAvailable, DatabaseTimeoutError),
    (errors.IdleInTransactionSessionTimeout, DatabaseTimeoutError),
    (errors.SerializationFailure, DatabaseConflictError),
    (errors.DeadlockDetected, DatabaseConflictError),
    (errors.DiskFull, DatabaseFullError),
    (errors.TooManyConnections, DatabaseBusyError),
    (errors.OutOfMemory, DatabaseBusyError),
    (errors.ReadOnlySqlTransaction, DatabaseReadOnlyError),
    (errors.UntranslatableCharacter, InvalidTextError),
    (errors.CharacterNotInRepertoire, InvalidTextError),
    (errors.ProgramLimitExceeded, PayloadTooLargeError),
    (psycopg.DataError, InvalidInputError),
    (psycopg.OperationalError, DatabaseUnavailableError),
    (psycopg.InterfaceError, DatabaseUnavailableError),
    (psycopg.Error, DatabaseError),
)
_RETRY_AFTER_SECONDS = 1
_RECONNECT_SECONDS = 1.0
_SERVICE_UNAVAILABLE = 503
# What an address does not say itself. Without them a server that is cut off, and so never refuses
# anything, would be waited for as long as TCP waits: minutes.
_PATIENCE = {
    "connect_timeout": 10,  # seconds, for each host
    "tcp_user_timeout": 15_000,  # milliseconds until sent data must have arrived
    "keepalives_idle": 15,  # seconds of silence, then three probes
    "keepalives_interval": 5,
    "keepalives_count": 3,
}
_ANEW_SECONDS = 1.0
_UNKNOWN_OUTCOME = (
    "The connection was lost while the change was being committed, so it may be stored or not. "
    "Send the request again; with the same Idempotency-Key, or the same ids, nothing is doubled."
)


def translate(error: Exception) -> MnemoliteError:
    """The MnemoLite error that stands for an error of psycopg or its pool."""
    kind = next(ours for theirs, ours in _ERRORS if isinstance(error, theirs))
    if isinstance(error, errors.CheckViolation) and _is_passing(error):
        kind = DatabaseConflictError
    # A server's message can quote data, and a client's can quote the address; the log has both.
    reason = error.diag.message_primary if isinstance(error, psycopg.Error) else None
    detail = f"{kind.__doc__} ({reason})" if reason else kind.__doc__
    # A replica stays one, however long the client waits.
    passing = kind.status == _SERVICE_UNAVAILABLE and kind is not DatabaseReadOnlyError
    retry_after = _RETRY_AFTER_SECONDS if passing else None
    return kind(detail, retry_after=retry_after)


def _is_passing(error: errors.CheckViolation) -> bool:
    """Whether the check stands for the moment in which a table is attached as a partition."""
    return (error.diag.constraint_name or "").endswith("_relayout_check")


@contextmanager
def translated_errors() -> Iterator[None]:
    """Raise MnemoLite's errors in place of psycopg's."""
    try:
        yield
    except (psycopg.Error, PoolTimeout, TooManyRequests, PoolClosed) as error:
        log.debug("database_error", error=str(error), kind=type(error).__name__)
        raise translate(error) from error


def patient(dsn: str) -> str:
    """The address with bounds for a server that is cut off, where it has none of its own."""
    try:
        given = conninfo_to_dict(dsn)
    except psycopg.ProgrammingError:  # no address; connecting says so
        return dsn
    return make_conninfo(dsn, **{name: v for name, v in _PATIENCE.items() if name not in given})


class _TimedCursor(AsyncCursor[Any]):
    """A cursor whose statements count into the time that a search waits for the database."""

    async def execute(self, *arguments: Any, **options: Any) -> Self:
        with metrics.part_time("database"):
            return await super().execute(*arguments, **options)


class Database:
    """A pool of connections to one PostgreSQL database."""

    def __init__(self, dsn: str, settings: DatabaseSettings, *, required: bool = True) -> None:
        """``required=False`` is for a server that may be away when the process starts."""
        self.dsn = dsn
        self._settings = settings
        self.out_of_room: float | None = None
        """When the database last had no room for a write, by ``time.monotonic``."""
        self._required = required
        self._anew_at = -_ANEW_SECONDS
        self._pool = AsyncConnectionPool(
            patient(dsn),
            connection_class=AsyncConnection[DictRow],
            kwargs={"autocommit": True, "row_factory": dict_row, "cursor_factory": _TimedCursor},
            min_size=2,
            max_size=settings.pool_size,
            timeout=settings.pool_timeout_seconds,
            configure=self._configure,
            # Short, because the next request tries again anyway, and at once.
            reconnect_timeout=_RECONNECT_SECONDS,
            open=False,
            name="mnemolite",
        )

    async def __aenter__(self) -> Self:
        if self._required:
            await self.ping()
        # It fills by itself, and tells whoever asks for a connection that it cannot.
        await self._pool.open(wait=False)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._pool.close()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """A connection in autocommit mode, for single statements."""
        with self._noted_errors():
            async with self._checked_out() as connection:
                yield connection

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """A connection inside a transaction, committed when the block ends well."""
        committing = False
        try:
            with self._noted_errors():
                async with self._checked_out() as connection, connection.transaction():
                    yield connection
                    committing = True
        except DatabaseUnavailableError as error:
            if committing:
                error.remedy = _UNKNOWN_OUTCOME
            raise

    @contextmanager
    def _noted_errors(self) -> Iterator[None]:
        try:
            with translated_errors():
                yield
        except DatabaseFullError:
            self.out_of_room = time.monotonic()
            raise

    @asynccontextmanager
    async def _checked_out(self) -> AsyncIterator[Connection]:
        try:
            with metrics.part_time("database"):
                connection = await self._taken_out()
        except PoolTimeout as error:
            if self.pool_stats["pool_size"] < self._settings.pool_size:
                # Nobody holds the missing connections: they cannot be made.
                raise DatabaseUnavailableError(retry_after=_RETRY_AFTER_SECONDS) from error
            raise
        try:
            yield connection
        except errors.ReadOnlySqlTransaction:
            await self._connect_anew()
            raise
        finally:
            broken = connection.closed
            await self._pool.putconn(connection)
            if broken:
                # Where one connection was lost, others often are; each would fail a request.
                await self._pool.check()

    async def _taken_out(self) -> AsyncConnection[DictRow]:
        """A connection from the pool; a cancellation in the moment in which it comes is heeded.

        The pool waits with `asyncio.wait_for`, which before Python 3.12 forgets such a one.
        """
        task = asyncio.current_task()
        before = task.cancelling() if task else 0
        connection = await self._pool.getconn()
        if task and task.cancelling() > before:
            await self._pool.putconn(connection)
            raise asyncio.CancelledError
        return connection

    async def _connect_anew(self) -> None:
        """Replace all connections: after a fail-over the old ones can lead to a standby."""
        if time.monotonic() - self._anew_at >= _ANEW_SECONDS:  # not for each of many writers
            self._anew_at = time.monotonic()
            log.warning("database_is_read_only", action="connecting anew")
            await self._pool.drain()

    @asynccontextmanager
    async def own_connection(self) -> AsyncIterator[Connection]:
        """A connection outside the pool, for long listening; it has no statement time-out."""
        with translated_errors():
            connection = await AsyncConnection.connect(
                patient(self.dsn), autocommit=True, row_factory=dict_row
            )
            async with connection:
                yield connection

    async def ping(self) -> None:
        """Raise what keeps the database from answering, found out by a connection of its own."""
        async with self.own_connection() as connection:
            await connection.execute("SELECT 1")

    @property
    def pool_stats(self) -> dict[str, int]:
        """psycopg_pool's own counters."""
        return dict(self._pool.get_stats())

    async def _configure(self, connection: AsyncConnection[Any]) -> None:
        milliseconds = round(self._settings.statement_timeout_seconds * 1000)
        # Namespaces differ so much in size that a plan for the average one fits none of them.
        await connection.execute(
            "SELECT set_config('statement_timeout', %s, false), "
            "set_config('plan_cache_mode', 'force_custom_plan', false), "
            "set_config('jit', 'off', false), set_config('timezone', 'UTC', false)",
            [str(milliseconds)],
        )
        await register_vector_async(connection)
