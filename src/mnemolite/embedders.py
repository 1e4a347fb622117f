"""The models that a process holds, one for each space it serves; they follow the registry.

The database says which space is searched, the settings say which model a process brings along. A
process that searches holds the model of the active space: it loads another one when the active
space changes, and searches the old space, which is kept complete, until the new model answers.
A search takes space and model once, together, so a change never meets a search half way.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import structlog

from mnemolite.database import Connection, Database
from mnemolite.embeddings.batching import BatchingEmbedder
from mnemolite.errors import DatabaseError, EmbeddingError, MnemoliteError, SettingsError
from mnemolite.models import JsonObject, Space
from mnemolite.notifications import SPACES_CHANNEL, end
from mnemolite.settings import EmbeddingSettings
from mnemolite.spaces import SEARCHING_LOCK, SpaceStore, mismatch

log = structlog.get_logger(__name__)

# What is said of one model and does not hold for another.
OF_ONE_MODEL = (
    "revision",
    "onnx_file",
    "dimension",
    "matryoshka",
    "max_tokens",
    "tokenizer",
    "pooling",
    "query_prefix",
    "document_prefix",
)

Loader = Callable[[JsonObject], Awaitable[BatchingEmbedder]]

_POLL_SECONDS = 1.0
_RETRY_LOAD_SECONDS = 30.0
# The settings that say which model it is, and nothing of how it runs. Whether its code may run is
# for each process to say. Names that this version's settings do not have are left out.
_RECIPE = {"mode", "provider", "model", "url", "protocol"} | {*OF_ONE_MODEL}


def recipe_of(settings: EmbeddingSettings) -> JsonObject:
    """What another process needs to load the same model; folders by their absolute path."""
    recipe = settings.model_dump(mode="json", include=_RECIPE)
    folder = Path(settings.model).expanduser()
    if folder.is_dir():
        recipe["model"] = str(folder.resolve())
    return recipe


@dataclass(slots=True)
class Served:
    """A space and the model that makes its vectors, None where only the words are searched."""

    space: Space
    embedder: BatchingEmbedder | None
    searches: int = 0  # under way


class Embedders:
    """The models of this process. Use it as an async context manager to let them follow."""

    def __init__(
        self, database: Database, spaces: SpaceStore, *, own: BatchingEmbedder | None, load: Loader
    ) -> None:
        self._database = database
        self._spaces = spaces
        self._own = own
        self._load = load
        self._follows = True
        self._all_wanted = False
        self._current: Served | None = None
        self._held: dict[int, Served] = {}
        self._leaving: list[Served] = []
        self._refused: dict[int, tuple[float, str]] = {}
        self._changed = asyncio.Event()

    async def settle(self, recipe: JsonObject, *, follow: bool = True) -> None:
        """Find this process's space.

        ``follow``: search the active space, whatever the own model is. Otherwise serve the own
        model's space and no other. Raises ModelMismatchError when the database has no space of the
        own model, or when the active one's model cannot be loaded here.
        """
        self._follows = follow
        if self._own is None:
            active = await self._spaces.active()
            self._current = Served(active, None) if active else None
            return
        space = await self._spaces.of_digest(self._own.info.digest)
        space = space or await self._spaces.ensure_active(self._own.info, recipe)
        self._held[space.id] = self._current = Served(space, self._own)
        if follow and space.status != "active":
            await self.follow()
            if self._current.space.status != "active":
                raise await self._cannot_search()

    @property
    def current(self) -> Served | None:
        """The space that this process searches, and its model."""
        return self._current

    @property
    def held(self) -> dict[int, Served]:
        """Every space that this process has the model of, by id."""
        return dict(self._held)

    def refusal(self, space: Space) -> str | None:
        """Why this process does not serve a space, None if it does or has not tried."""
        return self._refused.get(space.id, (0.0, None))[1]

    def want_all(self) -> None:
        """Load every space's model from now on: for workers inside a server."""
        self._all_wanted = self._follows

    @contextlib.contextmanager
    def searching(self) -> Iterator[Served | None]:
        """The space and model of one search, kept until the search ends."""
        served = self._current
        if served is None:
            yield None
            return
        served.searches += 1
        try:
            yield served
        finally:
            served.searches -= 1

    async def follow(self) -> None:
        """Bring what is held up to date with the registry."""
        spaces = {space.id: space for space in await self._spaces.all()}
        living = {id: space for id, space in spaces.items() if space.status != "dropping"}
        for id in self._held.keys() - living.keys():
            await self._let_go(id)
        for id, served in self._held.items():
            served.space = living[id]
        fillable = [space for space in living.values() if space.status != "adopted"]
        wanted = [space for space in fillable if space.status == "active" or self._all_wanted]
        for space in wanted if self._follows and self._own else ():
            if space.id not in self._held:
                await self._take(space)
            if space.status == "active" and space.id in self._held:
                self._search(self._held[space.id])
        self._changed.set()

    @contextlib.asynccontextmanager
    async def following(self) -> AsyncIterator[None]:
        """Follow the registry as long as the block runs, then close what was loaded."""
        watch = asyncio.create_task(self._watch(), name="spaces")
        try:
            yield
        finally:
            await end(watch)
            for served in self._held.values():
                await self._close(served)

    async def changes(self, seconds: float) -> None:
        """Wait for the next look at the registry, at most so long."""
        self._changed.clear()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._changed.wait(), seconds)

    async def _watch(self) -> None:
        while True:
            try:
                async with self._database.own_connection() as connection:
                    await connection.execute(f"LISTEN {SPACES_CHANNEL}")
                    await self._watch_over(connection)
            except DatabaseError as error:
                log.warning("spaces_lost_connection", error=str(error))
            await asyncio.sleep(_POLL_SECONDS)

    async def _watch_over(self, connection: Connection) -> None:
        shown: set[int] = set()
        while True:
            await self.follow()
            shown = await self._show_searched(connection, shown)
            async for _ in connection.notifies(timeout=_POLL_SECONDS, stop_after=1):
                pass

    async def _show_searched(self, connection: Connection, shown: set[int]) -> set[int]:
        """Hold a shared lock on each space that is searched, for `drop` and `status` to see."""
        self._leaving = [served for served in self._leaving if served.searches]
        searched = {served.space.id for served in self._leaving}
        if self._follows and self._current and self._current.embedder:
            searched.add(self._current.space.id)
        for function, ids in (
            ("pg_advisory_lock_shared", searched - shown),
            ("pg_advisory_unlock_shared", shown - searched),
        ):
            for id in ids:
                statement = f"SELECT {function}(%s::integer, %s::integer)"
                await connection.execute(statement.encode(), [SEARCHING_LOCK, id])
        return searched

    def _search(self, served: Served) -> None:
        if self._current is served:
            return
        if self._current is not None:
            self._leaving.append(self._current)
            log.info("space_changed", before=self._current.space.id, after=served.space.id)
        self._current = served

    async def _take(self, space: Space) -> None:
        """Load a space's model; if that fails, not again before half a minute has passed."""
        tried, _ = self._refused.get(space.id, (-_RETRY_LOAD_SECONDS, ""))
        if time.monotonic() - tried < _RETRY_LOAD_SECONDS:
            return
        try:
            embedder = await self._load(await self._spaces.recipe(space))
            if embedder.info.digest != space.digest:
                await embedder.close()
                raise mismatch(space, embedder.info)
        except (EmbeddingError, SettingsError) as error:
            self._refused[space.id] = time.monotonic(), str(error)
            log.warning("space_not_served", space=space.id, model=space.model, error=str(error))
            return
        self._refused.pop(space.id, None)
        self._held[space.id] = Served(space, embedder)
        log.info("space_served", space=space.id, model=space.model, status=space.status)

    async def _let_go(self, id: int) -> None:
        served = self._held.pop(id)
        if self._current is served:
            active = await self._spaces.active() if self._follows else None
            self._current = Served(active, None) if active else None
        await self._close(served)

    async def _close(self, served: Served) -> None:
        if served.embedder is not None and served.embedder is not self._own:
            await served.embedder.close()

    async def _cannot_search(self) -> MnemoliteError:
        active = await self._spaces.active()
        assert active is not None
        assert self._own is not None
        error = mismatch(active, self._own.info)
        error.detail += f" The active model cannot be loaded here: {self.refusal(active)}"
        return error
