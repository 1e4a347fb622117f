"""Memory: what REST, the command line and Python users all call; a switchboard over the stores."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Literal
from uuid import UUID

import structlog

from mnemolite import metrics
from mnemolite.backpressure import BackPressure
from mnemolite.context import pack
from mnemolite.embedders import Embedders, Served, recipe_of
from mnemolite.embeddings.batching import BatchingEmbedder
from mnemolite.errors import InvalidVectorError, ModelUnavailableError
from mnemolite.events import EventStore, Stored
from mnemolite.feed import Feed
from mnemolite.health import HealthChecks
from mnemolite.heartbeats import Heartbeats
from mnemolite.history import SearchHistory, compare
from mnemolite.idempotency import Form, IdempotencyKeys, KeyedRequest
from mnemolite.ingestion import Ingestion
from mnemolite.intake import Incoming, Intake, Outcome
from mnemolite.lexicon import Lexicon
from mnemolite.models import (
    Check,
    Context,
    ContextQuery,
    Event,
    EventChange,
    EventPage,
    EventQuery,
    FeedQuery,
    Health,
    JsonObject,
    Namespace,
    NewEvent,
    QueueState,
    Replay,
    SearchQuery,
    SearchResult,
    Space,
    SpaceState,
    Stats,
    WorkerState,
)
from mnemolite.partitions import Layout
from mnemolite.partitions.store import PartitionStore
from mnemolite.queue import EmbeddingQueue
from mnemolite.replica import searching
from mnemolite.reranking.stage import RerankStage
from mnemolite.resources import Resources, load_model, opened, outlast
from mnemolite.search import Search
from mnemolite.settings import Settings
from mnemolite.spaces import SpaceStore
from mnemolite.succession import Succession
from mnemolite.webhooks import Webhooks

VERSION = version("mnemolite")
log = structlog.get_logger(__name__)

Role = Literal["search", "work", "build"]


class Memory:
    """A long-term memory: open it with ``Memory.open``, then add, search and delete events."""

    def __init__(self, settings: Settings, resources: Resources) -> None:
        search, limits, database = settings.search, settings.pipeline, resources.database
        replica, notifier = resources.replica, resources.notifier
        self.settings = settings
        self.database = database
        self.keys = IdempotencyKeys(database, hours=settings.idempotency.hours)
        self.events = EventStore(database, self.keys, default_language=search.default_language)
        self.intake = Intake(database, search.default_language)
        self.spaces = SpaceStore(database)
        self.queue = EmbeddingQueue(database)
        self.partitions = PartitionStore(
            database, settings.partitions, hnsw_min_rows=settings.worker.hnsw_min_rows
        )
        self.heartbeats = Heartbeats(database)
        self.pressure = BackPressure(self.queue, self.heartbeats, limit=limits.max_pending)
        self.succession = Succession(database)
        self.layout = Layout(database, hnsw_min_rows=settings.worker.hnsw_min_rows)
        self._own = resources.embedder
        self.embedders = Embedders(database, self.spaces, own=self._own, load=self.load_model)
        self._ingestion = Ingestion(
            self.events,
            self.queue,
            pressure=self.pressure,
            embedders=self.embedders,
            notifier=notifier,
        )
        self.lexicon = Lexicon(database, k1=search.bm25_k1, b=search.bm25_b)
        self._reranking = RerankStage(resources.reranker, settings.reranker)
        own = Search(database, self.lexicon, reranking=self._reranking)
        self._search = searching(own, replica=replica)
        self.history = SearchHistory(
            database, days=search.history_days, searches=search.history_searches
        )
        self._health = HealthChecks(
            database, self.embedders, reranking=self._reranking, replica=replica, limits=limits
        )
        self.feed = Feed(database, settings.feed)
        self.webhooks = Webhooks(database, self.feed.changes, settings=settings.webhooks)
        self._notifier = notifier

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        settings: Settings | None = None,
        *,
        with_model: bool = True,
        with_reranker: bool = True,
        role: Role = "search",
    ) -> AsyncIterator["Memory"]:
        """Start or join the database, bring its schema up to date, load the model, check both.

        ``with_model=False`` is for programs that neither embed nor search by meaning,
        ``with_reranker=False`` for those that need no reranker, ``role="work"`` for workers, which
        serve the space of their own model, active or not; ``"build"`` begins it if it is new.
        """
        settings = settings or Settings.load()
        async with (
            opened(settings, with_model=with_model, with_reranker=with_reranker) as resources,
            AsyncExitStack() as stack,
        ):
            memory = cls(settings, resources)
            await outlast(lambda: stack.enter_async_context(memory.feed))
            await outlast(lambda: memory._use_space(role))
            if resources.embedder is not None:
                await stack.enter_async_context(memory.embedders.following())
            yield memory

    # --- Events ---------------------------------------------------------------------------------

    async def add(
        self,
        event: NewEvent | str,
        *,
        wait_seconds: float = 0,
        idempotency_key: str | None = None,
    ) -> Event:
        """Store one event; it is durable when this returns. See ``store`` for the options."""
        new = NewEvent(content={"text": event}) if isinstance(event, str) else event
        stored = await self.store(
            [new], form="event", wait_seconds=wait_seconds, idempotency_key=idempotency_key
        )
        return stored.events[0]

    async def add_many(
        self,
        events: Sequence[NewEvent],
        *,
        wait_seconds: float = 0,
        idempotency_key: str | None = None,
    ) -> tuple[list[Event], int]:
        """Store all events or none; returns them and how many are new. Options as ``store``'s."""
        stored = await self.store(
            events, wait_seconds=wait_seconds, idempotency_key=idempotency_key
        )
        return stored.events, stored.created

    async def store(
        self,
        events: Sequence[NewEvent],
        *,
        form: Form = "batch",
        wait_seconds: float = 0,
        idempotency_key: str | None = None,
    ) -> Stored:
        """Store all events or none.

        ``wait_seconds`` is how long to wait for their embeddings; what is not embedded by then
        comes back as pending. A second call with the same events and ``idempotency_key`` stores
        nothing and returns what the first one did; ``form`` is part of what must be the same.
        Raises QueueFullError when too many events are pending, IdempotencyConflictError for a key
        of another request, IdempotencyGoneError when an event of the first one was deleted since.
        """
        request = None
        if idempotency_key is not None:
            request = KeyedRequest.of(idempotency_key, events, form=form)
        return await self._ingestion.store(events, request=request, wait_seconds=wait_seconds)

    async def take_in(
        self,
        incoming: Sequence[Incoming],
        *,
        languages: Mapping[str, str] | None = None,
        space: Space | None = None,
        until_refused: bool = False,
    ) -> list[Outcome | str]:
        """Store many events in one transaction, each with its own outcome or reason of refusal.

        Waits for room in the queue, as imports are in no hurry.
        """
        await self._ingestion.wait_for_room()
        outcomes = await self.intake.store(
            incoming, languages=languages, space=space, until_refused=until_refused
        )
        stored = {Outcome.STORED, Outcome.STORED_WITH_VECTORS}
        self._ingestion.announce(sum(outcome in stored for outcome in outcomes))
        return outcomes

    async def count_added(self, events: Sequence[NewEvent]) -> int:
        """``add_many`` for imports: waits for room, and tells only how many are new."""
        return await self._ingestion.count(events)

    async def get(self, event_id: UUID) -> Event:
        """The event of that id. Raises EventNotFoundError."""
        return await self.events.get(event_id)

    async def list_events(self, query: EventQuery) -> EventPage:
        """One page of a namespace's events."""
        return await self.events.page(query)

    async def merge_metadata(self, event_id: UUID, patch: JsonObject) -> Event:
        """Apply a JSON merge patch (RFC 7396) to an event's metadata."""
        event = await self.events.merge_metadata(event_id, patch)
        self._notifier.notify()
        return event

    async def delete(self, event_id: UUID) -> None:
        """Delete an event and all that was derived from it. Raises EventNotFoundError."""
        await self.events.delete(event_id)
        self._notifier.notify()

    def follow(
        self, query: FeedQuery | None = None, *, wait: bool = True
    ) -> AsyncGenerator[EventChange, None]:
        """Every change of events as it is committed; ``query.after`` says where to begin.

        With ``wait=False`` it ends when all that can be told now has been told.
        """
        return self.feed.follow(query or FeedQuery(), wait=wait)

    async def namespaces(self) -> list[Namespace]:
        """Every namespace with what it holds."""
        return await self.events.namespaces()

    # --- Search ---------------------------------------------------------------------------------

    async def search(self, query: SearchQuery | str) -> SearchResult:
        """Find events by meaning and words. An arm that could not run is named in the answer."""
        query = SearchQuery(q=query) if isinstance(query, str) else query
        if query.explain and query.now is None:  # a replay must mean the same "last week"
            query = query.model_copy(update={"now": datetime.now(UTC)})
        result = await self._run(query)
        return await self.history.record(query, result) if query.explain else result

    async def replay(self, request_id: UUID) -> Replay:
        """Run a recorded search again, and tell what differs. Raises SearchNotFoundError."""
        recorded = await self.history.get(request_id)
        return compare(recorded, await self._run(recorded.query))

    async def context(self, query: ContextQuery | str) -> Context:
        """What a prompt should know: the best of a search as text, within ``max_tokens``."""
        query = ContextQuery(q=query) if isinstance(query, str) else query
        result = await self.search(query.search())
        return await asyncio.to_thread(pack, query, result)

    async def _run(self, query: SearchQuery) -> SearchResult:
        metrics.count_search(bounded=query.since is not None or query.until is not None)
        with metrics.search_time(query.mode), self.embedders.searching() as served:
            space = await self._space_of(query, served)
            embedder = served.embedder if served else None
            return await self._search.run(query, space=space, embedder=embedder)

    # --- State ----------------------------------------------------------------------------------

    @property
    def embedder(self) -> BatchingEmbedder:
        """The model. Raises ModelUnavailableError in a memory opened without one."""
        served = self.embedders.current
        if served is None or served.embedder is None:
            raise ModelUnavailableError("This process runs without a model.")
        return served.embedder

    @property
    def space(self) -> Space:
        """The embedding space of this process. Raises ModelUnavailableError before there is one."""
        if self.embedders.current is None:
            raise ModelUnavailableError("No model has been used with this database yet.")
        return self.embedders.current.space

    async def list_spaces(self) -> list[SpaceState]:
        """Every embedding space, oldest first, and how far it is filled."""
        return [await self.succession.state(space) for space in await self.spaces.all()]

    async def load_model(self, recipe: JsonObject) -> BatchingEmbedder:
        """A model by the settings that name it, in place of this process's own ones."""
        embedding = self.settings.embedding.model_copy(update=recipe)
        return await load_model(self.settings.model_copy(update={"embedding": embedding}))

    async def queue_state(self) -> QueueState:
        """What waits to be embedded."""
        return await self.queue.state(self.space)

    async def workers(self) -> list[WorkerState]:
        """Who embeds, on whatever machine, as far as it was heard of lately."""
        return await self.heartbeats.living()

    async def retry_parked(self) -> int:
        """Give the events whose embedding was given up another round of tries; how many."""
        retried = await self.queue.retry_parked(self.space)
        self._notifier.notify()
        return retried

    async def refresh_gauges(self) -> None:
        """Bring the metrics that are read, not counted, up to date."""
        metrics.observe_queue(await self.queue_state())
        metrics.observe_webhooks(await self.webhooks.state())
        metrics.observe_cache(self.embedder.cache_stats())
        metrics.observe_partitions(await self.partitions.watch())
        await self._health.run()

    async def settle(self) -> None:
        """Count all that came and went into the lexicon, and let the planner know the tables."""
        while await self.lexicon.count():
            pass
        await self.events.analyze()

    async def purge(self) -> int:
        """Forget some of the searches, keys, changes, deliveries whose time is over; how many."""
        stores = (self.history, self.keys, self.feed.changes, self.webhooks.deliveries)
        return sum([await store.purge() for store in stores])

    async def stats(self) -> Stats:
        """The state of the memory in figures."""
        counts = await self.events.counts()
        return Stats(
            **counts,
            embeddings=await self.spaces.embeddings(self.space),
            queue=await self.queue_state(),
            workers=await self.workers(),
            webhooks=await self.webhooks.state(),
            space=self.space,
            partitions=await self.partitions.watch(),
            cache=self.embedder.cache_stats(),
            resident_bytes=metrics.resident_bytes(),
            model_bytes=self.embedder.model_bytes,
        )

    async def database_facts(self) -> dict[str, str]:
        """The versions of the server, its extensions and the schema."""
        return await self.events.database_facts()

    async def health(self) -> Health:
        """Whether model, database, writes and the embedding of events work, each named."""
        checks = await self._health.run()
        ready = all(check.ok for check in checks.values())
        return Health(status="ok" if ready else "not_ready", version=VERSION, checks=checks)

    async def try_reranker(self) -> Check:
        """Whether the reranker, if there is one, judges a pair within its deadline."""
        return await self._reranking.try_out()

    async def _space_of(self, query: SearchQuery, served: Served | None) -> Space | None:
        """The space to search: that of the process, or the one that a client's vector names."""
        space = served.space if served else None
        if query.space is None or (space is not None and space.id == query.space):
            return space
        for other in await self.spaces.all():
            if other.id == query.space and other.status != "dropping":
                return other
        raise InvalidVectorError(
            f"There is no space {query.space}.",
            field="space",
            remedy="GET /v1/spaces lists them; the active one is searched.",
        )

    async def _use_space(self, role: Role = "search") -> None:
        """Settle which space this process works in."""
        recipe = recipe_of(self.settings.embedding)
        if role == "build" and self._own is not None:
            await self.succession.begin(self._own.info, recipe)
        await self.embedders.settle(recipe, follow=role == "search")
