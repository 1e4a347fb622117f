"""The database border: what each fault becomes, and that the next request works again."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress

import psycopg
import psycopg_pool
import pytest
from psycopg import errors as pg
from psycopg.conninfo import conninfo_to_dict

from mnemolite import errors
from mnemolite.database import Database, patient, translate
from mnemolite.errors import MnemoliteError
from mnemolite.memory import Memory
from mnemolite.models import NewEvent
from mnemolite.settings import DatabaseSettings, Settings


def subclasses(kind: type[Exception]) -> set[type[Exception]]:
    return {kind}.union(*(subclasses(sub) for sub in kind.__subclasses__()))


EVERY_ERROR = sorted(
    subclasses(psycopg.Error)
    | {psycopg_pool.PoolTimeout, psycopg_pool.TooManyRequests, psycopg_pool.PoolClosed},
    key=lambda kind: f"{kind.__module__}.{kind.__name__}",
)

TABLE: list[tuple[type[Exception], type[MnemoliteError], int]] = [
    (psycopg_pool.PoolTimeout, errors.DatabaseBusyError, 503),
    (psycopg_pool.TooManyRequests, errors.DatabaseBusyError, 503),
    (psycopg_pool.PoolClosed, errors.DatabaseUnavailableError, 503),
    (psycopg.OperationalError, errors.DatabaseUnavailableError, 503),
    (psycopg.InterfaceError, errors.DatabaseUnavailableError, 503),
    (psycopg.errors.ConnectionTimeout, errors.DatabaseUnavailableError, 503),
    (psycopg.DataError, errors.InvalidInputError, 422),
    (psycopg.IntegrityError, errors.DatabaseError, 500),
    (psycopg.ProgrammingError, errors.DatabaseError, 500),
    (psycopg.InternalError, errors.DatabaseError, 500),
    (psycopg.NotSupportedError, errors.DatabaseError, 500),
    (pg.ConnectionFailure, errors.DatabaseUnavailableError, 503),
    (pg.CannotConnectNow, errors.DatabaseUnavailableError, 503),
    (pg.AdminShutdown, errors.DatabaseUnavailableError, 503),
    (pg.CrashShutdown, errors.DatabaseUnavailableError, 503),
    (pg.InvalidPassword, errors.DatabaseUnavailableError, 503),
    (pg.QueryCanceled, errors.DatabaseTimeoutError, 503),
    (pg.LockNotAvailable, errors.DatabaseTimeoutError, 503),
    (pg.IdleInTransactionSessionTimeout, errors.DatabaseTimeoutError, 503),
    (pg.SerializationFailure, errors.DatabaseConflictError, 503),
    (pg.DeadlockDetected, errors.DatabaseConflictError, 503),
    (pg.DiskFull, errors.DatabaseFullError, 507),
    (pg.TooManyConnections, errors.DatabaseBusyError, 503),
    (pg.OutOfMemory, errors.DatabaseBusyError, 503),
    (pg.ReadOnlySqlTransaction, errors.DatabaseReadOnlyError, 503),
    (pg.UntranslatableCharacter, errors.InvalidTextError, 422),
    (pg.CharacterNotInRepertoire, errors.InvalidTextError, 422),
    (pg.ProgramLimitExceeded, errors.PayloadTooLargeError, 413),
    (pg.NumericValueOutOfRange, errors.InvalidInputError, 422),
    (pg.UniqueViolation, errors.DatabaseError, 500),
    (pg.UndefinedTable, errors.DatabaseError, 500),
    (pg.InsufficientPrivilege, errors.DatabaseError, 500),
]


@pytest.fixture
async def database(dsn: str) -> AsyncIterator[Database]:
    """Two connections and little patience."""
    settings = DatabaseSettings(
        url=dsn, pool_size=2, pool_timeout_seconds=2, statement_timeout_seconds=1
    )
    async with Database(dsn, settings) as opened:
        yield opened


@pytest.mark.parametrize(("theirs", "ours", "status"), TABLE)
def test_the_table_of_errors(
    theirs: type[Exception], ours: type[MnemoliteError], status: int
) -> None:
    translated = translate(theirs("at /secret/place"))
    assert type(translated) is ours
    assert translated.status == status
    assert "secret" not in str(translated), "addresses and data stay in the log"


@pytest.mark.parametrize("theirs", EVERY_ERROR)
def test_every_error_has_its_place(theirs: type[Exception]) -> None:
    translated = translate(theirs())
    assert isinstance(translated, MnemoliteError)
    if issubclass(theirs, psycopg.OperationalError):
        assert translated.status != 500, "an operational fault is not ours"
    if issubclass(theirs, psycopg.DataError):
        assert translated.status == 422
    passing = translated.status == 503 and translated.code != "database_read_only"
    assert (translated.retry_after is not None) == passing


@pytest.mark.parametrize(
    ("dsn", "expected"),
    [
        ("postgresql://a@db1:5432,db2:5433/x?target_session_attrs=read-write",
         {"host": "db1,db2", "port": "5432,5433", "target_session_attrs": "read-write",
          "connect_timeout": "10", "tcp_user_timeout": "15000"}),
        ("host=/run dbname=x connect_timeout=3 keepalives_idle=60",
         {"connect_timeout": "3", "keepalives_idle": "60", "keepalives_count": "3"}),
    ],
)  # fmt: skip
def test_an_address_gets_the_bounds_it_lacks(dsn: str, expected: dict[str, str]) -> None:
    assert {**conninfo_to_dict(patient(dsn)), **expected} == conninfo_to_dict(patient(dsn))


def test_an_address_that_is_none_is_left_as_it_is() -> None:
    assert patient("not an address") == "not an address"


@pytest.mark.parametrize("theirs", [pg.DiskFull, pg.ReadOnlySqlTransaction])
def test_what_needs_a_person_names_a_remedy(theirs: type[Exception]) -> None:
    assert translate(theirs()).remedy


# --- Real faults --------------------------------------------------------------------------------


async def test_a_pool_with_nothing_free_is_busy(database: Database) -> None:
    async with database.connection(), database.connection():
        with pytest.raises(errors.DatabaseBusyError) as raised:
            async with database.connection():
                pytest.fail("there were only two")
        assert (raised.value.status, raised.value.retry_after) == (503, 1)
    async with database.connection() as connection:
        await connection.execute("SELECT 1")


async def test_a_statement_that_takes_too_long_is_ended(database: Database) -> None:
    with pytest.raises(errors.DatabaseTimeoutError):
        async with database.connection() as connection:
            await connection.execute("SELECT pg_sleep(60)")
    async with database.connection() as connection:
        await connection.execute("SELECT 1")


@pytest.mark.parametrize(
    ("statement", "error"),
    [
        ("SELECT 1/0", errors.InvalidInputError),
        ("SELECT 'x'::integer", errors.InvalidInputError),
        ("SELECT * FROM nowhere", errors.DatabaseError),
        ("SELECT '\"\\u0000\"'::jsonb", errors.InvalidTextError),
        ("SELECT '[1]'::vector + '[1,2]'::vector", errors.InvalidInputError),
        ("SELECT repeat('x', 2000000000)", errors.PayloadTooLargeError),
        ("INSERT INTO namespaces (name) VALUES ('a'), ('a')", errors.DatabaseError),
        ("SELECT syntax error", errors.DatabaseError),
    ],
)
async def test_a_statement_that_is_refused(
    database: Database, statement: str, error: type[MnemoliteError]
) -> None:
    with pytest.raises(error):
        async with database.connection() as connection:
            await connection.execute(statement.encode())


async def test_a_database_that_refuses_writes(memory: Memory, dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        name = connection.info.dbname
        connection.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on".encode())
    settings = memory.settings
    assert settings.database.url
    async with Database(settings.database.url, settings.database) as database:
        with pytest.raises(errors.DatabaseReadOnlyError) as raised:
            async with database.transaction() as opened:
                await opened.execute("DELETE FROM events")
    assert raised.value.status == 503


async def test_two_that_wait_for_each_other(database: Database, dsn: str) -> None:
    async with database.transaction() as connection:
        await connection.execute("INSERT INTO namespaces (name) VALUES ('a'), ('b')")
    both_hold = asyncio.Barrier(2)

    async def change(first: str, second: str) -> None:
        async with database.transaction() as connection:
            await connection.execute("SET LOCAL statement_timeout = '60s'")
            await connection.execute("SET LOCAL deadlock_timeout = '50ms'")
            update = "UPDATE namespaces SET created_at = now() WHERE name = %s"
            await connection.execute(update, [first])
            await both_hold.wait()
            await connection.execute(update, [second])

    answers = await asyncio.gather(change("a", "b"), change("b", "a"), return_exceptions=True)
    assert sorted(type(answer).__name__ for answer in answers) == [
        "DatabaseConflictError",
        "NoneType",
    ]


async def test_a_connection_killed_in_a_transaction_stores_nothing(
    database: Database, dsn: str
) -> None:
    with psycopg.connect(dsn, autocommit=True) as other:

        async def write_and_be_killed() -> None:
            async with database.transaction() as connection:
                await connection.execute("INSERT INTO events (content) VALUES ('{}')")
                other.execute("SELECT pg_terminate_backend(%s)", [connection.info.backend_pid])
                await connection.execute("INSERT INTO events (content) VALUES ('{}')")

        with pytest.raises(errors.DatabaseUnavailableError):
            await write_and_be_killed()
        assert other.execute("SELECT count(*) FROM events").fetchone() == (0,)
    async with database.transaction() as connection:
        await connection.execute("INSERT INTO events (content) VALUES ('{}')")


async def test_a_memory_works_again_after_all_connections_were_killed(
    memory: Memory, dsn: str
) -> None:
    await memory.add("before")
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    with suppress(errors.DatabaseUnavailableError):  # the one that finds out
        await memory.add("after")
    before = (await memory.stats()).events
    await asyncio.gather(*(memory.add(f"after {n}") for n in range(6)))
    assert (await memory.stats()).events == before + 6


async def test_an_error_of_our_own_passes_and_rolls_back(database: Database) -> None:
    async def write_and_regret() -> None:
        async with database.transaction() as connection:
            await connection.execute("INSERT INTO events (content) VALUES ('{}')")
            raise errors.EventConflictError

    with pytest.raises(errors.EventConflictError):
        await write_and_regret()
    async with database.connection() as connection:
        row = await (await connection.execute("SELECT count(*) AS n FROM events")).fetchone()
    assert row == {"n": 0}


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://ada:swordfish@127.0.0.1:1/nowhere",
        "postgresql://ada:swordfish@no-such-host.invalid/nowhere",
        "host=/no/such/folder password=swordfish",
    ],
)
async def test_a_server_that_cannot_be_reached(settings: Settings, url: str) -> None:
    changed = settings.database.model_copy(update={"url": url, "pool_timeout_seconds": 0.5})
    with pytest.raises(errors.DatabaseUnavailableError) as raised:
        async with Memory.open(settings.model_copy(update={"database": changed})):
            pytest.fail("it opened")
    assert "swordfish" not in str(raised.value)


async def test_an_address_that_is_none(settings: Settings) -> None:
    changed = settings.database.model_copy(update={"url": "not an address"})
    with pytest.raises(MnemoliteError):
        async with Memory.open(settings.model_copy(update={"database": changed})):
            pytest.fail("it opened")


async def test_a_pool_that_cannot_be_filled_says_so(settings: Settings) -> None:
    database = Database("host=/no/such/folder", settings.database.model_copy(
        update={"pool_timeout_seconds": 0.3}))  # fmt: skip
    with pytest.raises(errors.MnemoliteError) as raised:
        async with database:
            pytest.fail("it opened")
    assert raised.value.code == "database_unavailable"


async def test_a_cancelled_request_stores_nothing_and_frees_its_connection(
    database: Database,
) -> None:
    started = asyncio.Event()

    async def write() -> None:
        async with database.transaction() as connection:
            await connection.execute("INSERT INTO events (content) VALUES ('{}')")
            started.set()
            await asyncio.sleep(60)

    for _ in range(3):  # more often than there are connections
        started.clear()
        task = asyncio.create_task(write())
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    async with database.connection() as connection:
        row = await (await connection.execute("SELECT count(*) AS n FROM events")).fetchone()
    assert row == {"n": 0}


@pytest.mark.parametrize("steps", range(12))
async def test_a_cancellation_in_the_moment_in_which_a_connection_comes(
    settings: Settings, dsn: str, steps: int
) -> None:
    """Ctrl-C would be forgotten. Which step of the loop that moment is, the pool decides."""
    small = settings.database.model_copy(update={"pool_size": 2})
    async with Database(dsn, small) as database, AsyncExitStack() as stack:
        for _ in range(2):
            await stack.enter_async_context(database.connection())

        async def use_forever() -> None:
            async with database.connection():
                await asyncio.Event().wait()

        waiting = asyncio.create_task(use_forever())
        await asyncio.sleep(0.05)
        releasing = asyncio.create_task(stack.aclose())
        for _ in range(steps):
            await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting], timeout=2)
        forgotten = not waiting.done()
        while not waiting.done():
            waiting.cancel()
            await asyncio.wait([waiting], timeout=0.2)
        await releasing
        assert not forgotten
        assert waiting.cancelled()


async def test_many_writers_share_few_connections(memory: Memory) -> None:
    new = [NewEvent(content={"text": f"text {n}"}) for n in range(100)]
    await asyncio.gather(*(memory.add(event) for event in new))
    assert (await memory.stats()).events == 100
