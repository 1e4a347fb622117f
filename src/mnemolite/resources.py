"""What a memory opens before it works: the database, the model, the reranker."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import structlog

from mnemolite import metrics
from mnemolite.database import Database
from mnemolite.embeddings import create_embedder
from mnemolite.embeddings.batching import BatchingEmbedder, wrap_embedder
from mnemolite.errors import DatabaseError, DatabaseUnavailableError, LocalPostgresError
from mnemolite.local_postgres import LocalPostgres, default_data_dir, open_local_postgres
from mnemolite.migrations import upgrade
from mnemolite.notifications import Notifier
from mnemolite.replica import Replica
from mnemolite.reranking import Reranker, create_reranker
from mnemolite.settings import Settings

log = structlog.get_logger(__name__)

_WATCH_SECONDS = 2.0
# How long a start waits for a database that was there a moment ago.
_OUTLAST_SECONDS = 60.0
_AGAIN_SECONDS = 0.5

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Resources:
    """What a memory works with, open."""

    database: Database
    notifier: Notifier
    embedder: BatchingEmbedder | None = None
    reranker: Reranker | None = None
    replica: Replica | None = None


@asynccontextmanager
async def opened(
    settings: Settings, *, with_model: bool, with_reranker: bool
) -> AsyncIterator[Resources]:
    """Start or join the database, bring its schema up to date, and load the models meanwhile."""
    async with AsyncExitStack() as stack:
        model = begin(load_model(settings), stack) if with_model else None
        judge = begin(load_reranker(settings), stack) if with_reranker else None
        dsn = await open_database(settings, stack)
        database = await stack.enter_async_context(Database(dsn, settings.database))
        notifier = await stack.enter_async_context(Notifier(database))
        embedder = await stack.enter_async_context(await model) if model else None
        reranker = await judge if judge else None
        if reranker is not None:
            stack.push_async_callback(reranker.close)
        replica = await open_replica(settings, database, stack=stack)
        yield Resources(
            database,
            notifier,
            embedder=embedder,
            reranker=reranker,
            replica=replica,
        )


def begin(work: Coroutine[Any, Any, T], stack: AsyncExitStack) -> asyncio.Task[T]:
    """Let something run beside; it is cancelled when the stack unwinds."""
    task = asyncio.create_task(work)
    stack.callback(task.cancel)
    return task


async def outlast(step: Callable[[], Awaitable[T]]) -> T:
    """The result of a step of the start, which is tried again while the database is away.

    Raises DatabaseUnavailableError when it is away for a minute.
    """
    deadline = time.monotonic() + _OUTLAST_SECONDS
    told = False
    while True:
        try:
            return await step()
        except DatabaseUnavailableError as error:
            if time.monotonic() > deadline:
                raise
            if not told:
                log.warning("start_waits_for_database", error=str(error))
            told = True
            await asyncio.sleep(_AGAIN_SECONDS)


async def load_model(settings: Settings) -> BatchingEmbedder:
    """The model of the settings, behind its front; logs the time and the memory it took."""
    before, started = metrics.resident_bytes(), time.perf_counter()
    embedder = await asyncio.to_thread(create_embedder, settings.embedding)
    front = wrap_embedder(embedder, settings.embedding)
    # What is opened beside it, such as the pool of connections, is small.
    front.close_seconds = settings.server.shutdown_seconds
    front.model_bytes = max(0, metrics.resident_bytes() - before)
    metrics.MODEL_BYTES.set(front.model_bytes)
    log.info(
        "model_loaded",
        provider=embedder.info.provider,
        model=embedder.info.model,
        dimension=embedder.info.dimension,
        seconds=round(time.perf_counter() - started, 2),
        model_bytes=front.model_bytes,
        resident_bytes=metrics.resident_bytes(),
    )
    return front


async def load_reranker(settings: Settings) -> Reranker | None:
    """The reranker of the settings, if they name one."""
    return await asyncio.to_thread(create_reranker, settings.reranker)


async def open_database(settings: Settings, stack: AsyncExitStack) -> str:
    """The address of the database, its schema up to date; a private server is kept running."""
    if settings.database.url is not None:
        await asyncio.to_thread(upgrade, settings.database.url)
        return settings.database.url
    data_dir = settings.database.data_dir or default_data_dir()
    local = await asyncio.to_thread(open_local_postgres, data_dir, database=settings.database.name)
    # Leaving can mean stopping the server, which must not block the event loop.
    stack.push_async_callback(asyncio.to_thread, local.close)
    dsn = local.dsn()
    begin(keep_running(local, Database(dsn, settings.database)), stack)
    await outlast(lambda: asyncio.to_thread(upgrade, dsn))
    return dsn


async def open_replica(
    settings: Settings, primary: Database, *, stack: AsyncExitStack
) -> Replica | None:
    """The read replica of the settings, if they name one; it may be away."""
    if settings.replica.url is None:
        return None
    database = Database(settings.replica.url, settings.database, required=False)
    await stack.enter_async_context(database)
    replica = Replica(primary, database, max_lag_seconds=settings.replica.max_lag_seconds)
    await stack.enter_async_context(replica.watching())
    return replica


async def keep_running(local: LocalPostgres, database: Database) -> None:
    """Start the private server again when it died; nobody else would."""
    while True:
        await asyncio.sleep(_WATCH_SECONDS)
        try:
            await database.ping()
        except DatabaseUnavailableError:
            log.warning("local_postgres_gone")
            try:
                await asyncio.to_thread(local.ensure_running)
            except LocalPostgresError as error:
                log.error("local_postgres_lost", error=str(error))
        except DatabaseError as error:
            log.warning("database_ping_failed", error=str(error))
