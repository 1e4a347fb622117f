"""One space succeeds another: the steps by which it is filled, compared, switched to and dropped.

Each step is one short transaction, or can be done again. A space is ``building`` until it is
switched to; the one it replaces is ``retired`` and kept complete, until it is dropped.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Literal
from uuid import UUID

from psycopg import sql
from psycopg.types.json import Jsonb

from mnemolite.database import Connection, Database
from mnemolite.embeddings import ModelInfo
from mnemolite.errors import SpaceChangeError
from mnemolite.models import JsonObject, Progress, Space, SpaceState
from mnemolite.notifications import SPACES_CHANNEL
from mnemolite.spaces import SpaceStore, active_space, create_space, show_embedded
from mnemolite.sql import load

_queries = load("succession")

_LOCK = 0x6D6E656D71
# A batch takes about a second, so that nothing that it holds is held for long.
_FILL_BATCH = 10_000
_EMPTY_BATCH = 20_000
_FIRST_CURSOR = UUID(int=0)


class Succession:
    """The statements behind ``mnemolite reembed``."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._spaces = SpaceStore(database)

    # --- Fill -----------------------------------------------------------------------------------

    async def begin(self, info: ModelInfo, recipe: JsonObject) -> Space:
        """The space of a model, made beside the active one; that which was begun goes on.

        From the commit on, a trigger queues new events for it.
        """
        async with self._database.transaction() as connection:
            await _take_turn(connection)
            spaces = await self._spaces.all()
            _refuse_beginning(spaces, info)
            for space in spaces:
                if space.digest == info.digest:
                    values = {"space": space.id, "recipe": Jsonb(recipe)}
                    await connection.execute(_queries["remember_recipe"], values)
                    return space
            space = await create_space(connection, info, recipe=recipe, status="building")
            await _announce(connection)
        return space

    async def writers(self) -> set[str]:
        """The transactions that are writing events at this moment.

        They may not have known of a change of the registry, and what they stored is not seen yet.
        Waiting until they have ended blocks nobody, as a lock on the events would.
        """
        async with self._database.connection() as connection:
            cursor = await connection.execute(_queries["writers"])
            return {row["writer"] async for row in cursor}

    async def is_untouched(self, space: Space) -> bool:
        """Whether no older event has been queued yet."""
        async with self._database.transaction() as connection:
            row = await _one(connection, "fill_state", space=space.id)
        return row["fill_cursor"] is None and row["filled_at"] is None

    async def fill(self, space: Space) -> int:
        """Queue the next older events; how many were looked at, 0 when the space is filled."""
        async with self._database.transaction() as connection:
            state = await _one(connection, "fill_state", space=space.id)
            if state["filled_at"] is not None:
                return 0
            values = {"cursor": state["fill_cursor"] or _FIRST_CURSOR, "space": space.id}
            found = await _one(connection, "next_events", **values, limit=_FILL_BATCH)
            if not found["events"]:
                await connection.execute(_queries["end_fill"], values)
                return 0
            values |= {"last": found["last"]}
            statement = _queries["queue_events"].format(table=sql.Identifier(space.table))
            await connection.execute(statement, values)
            await connection.execute(_queries["move_cursor"], values)
        return int(found["events"])

    async def clock(self) -> datetime:
        """The time of the server."""
        async with self._database.connection() as connection:
            moment: datetime = (await _one(connection, "clock"))["now"]
        return moment

    async def due_before(self, space: Space, moment: datetime) -> int:
        """Events queued until then that a worker will still try."""
        async with self._database.connection() as connection:
            row = await _one(connection, "due_before", space=space.id, moment=moment)
        return int(row["due"])

    async def sweep(self, space: Space) -> int:
        """Delete the vectors of events that were deleted while they were being queued."""
        statement = _queries["sweep"].format(table=sql.Identifier(space.table))
        async with self._database.own_connection() as connection:
            return (await connection.execute(statement)).rowcount

    async def queue_missing(self, space: Space, active: Space) -> int:
        """Queue what the active space has and the other neither has nor awaits."""
        statement = _queries["queue_missing"].format(missing_events=_missing(space, active))
        async with self._database.own_connection() as connection:
            return (await connection.execute(statement, {"space": space.id})).rowcount

    async def analyze(self, space: Space) -> None:
        """Let the planner know the table."""
        statement = _queries["analyze"].format(table=sql.Identifier(space.table))
        async with self._database.own_connection() as connection:
            await connection.execute(statement)

    # --- Look -----------------------------------------------------------------------------------

    async def state(self, space: Space) -> SpaceState:
        """A space with how far it is filled and who searches it."""
        if space.status == "dropping":
            figures: JsonObject = {"embedded": 0, "pending": 0, "parked": 0, "seconds": 0.0}
        else:
            statement = _queries["figures"].format(table=sql.Identifier(space.table))
            async with self._database.connection() as connection:
                cursor = await connection.execute(statement, {"space": space.id})
                figures = await cursor.fetchone() or {}
        searched_by = await self._spaces.searching(space)
        progress = _progress(space, **figures)
        return SpaceState(**space.model_dump(), progress=progress, searched_by=searched_by)

    async def missing(self, space: Space, active: Space) -> int:
        """Events that the active space has and the other neither has nor awaits."""
        statement = _queries["missing"].format(missing_events=_missing(space, active))
        async with self._database.own_connection() as connection:
            row = await (await connection.execute(statement, {"space": space.id})).fetchone()
        return int(row["events"]) if row else 0

    async def behind(self, space: Space, active: Space) -> int:
        """Events that wait in the space's queue and have been embedded in the active one."""
        async with self._database.connection() as connection:
            return await _behind(connection, space, active=active)

    async def orphans(self, space: Space) -> int:
        """Events with vectors in the space that exist no more."""
        statement = _queries["orphans"].format(table=sql.Identifier(space.table))
        async with self._database.own_connection() as connection:
            row = await (await connection.execute(statement)).fetchone()
        return int(row["events"]) if row else 0

    async def sample(
        self, space: Space, active: Space, *, share: float, limit: int
    ) -> list[JsonObject]:
        """Keys of some events that both spaces have; ``share`` in percent."""
        statement = _queries["sample"].format(
            table=sql.Identifier(space.table), reference=sql.Identifier(active.table)
        )
        async with self._database.own_connection() as connection:
            cursor = await connection.execute(statement, {"share": share, "limit": limit})
            return await cursor.fetchall()

    async def nearest(self, space: Space, key: JsonObject, *, limit: int) -> list[UUID]:
        """The events nearest to an event by its own vector, itself among them."""
        origin = {"space": space.id, "origin": str([0.0] * space.dimension)}
        async with self._database.own_connection() as connection:
            centre = await (await connection.execute(_queries["centre"], origin)).fetchone()
            statement = _queries["nearest"].format(
                table=sql.Identifier(space.table),
                dimension=sql.Literal(space.dimension),
                centre=sql.Literal(centre["centre"] if centre else None),
            )
            cursor = await connection.execute(statement, {**key, "limit": limit})
            return [row["event_id"] async for row in cursor]

    # --- Change ---------------------------------------------------------------------------------

    async def exchange(
        self, space: Space, active: Space, *, leaves_as: Literal["retired", "building"], force: bool
    ) -> int:
        """Make a space the active one, in one short transaction; 0 when that is done.

        Otherwise so many events wait in the space's queue that the active one has embedded, and
        nothing is done, unless it is forced. Raises SpaceChangeError when the registry has changed
        meanwhile.
        """
        async with self._database.transaction() as connection:
            await _take_turn(connection)
            _refuse_stale([space, active], await self._spaces.all())
            if not force and (behind := await _behind(connection, space, active=active)):
                return behind
            leaving = {"space": active.id, "status": leaves_as}
            await connection.execute(_queries["leave"], leaving)
            await connection.execute(_queries["enter"], {"space": space.id})
            if space.dimension != active.dimension:
                await connection.execute(_queries["drop_view"])
            await show_embedded(connection, space)
            await _announce(connection)
        return 0

    async def begin_drop(self, space: Space) -> None:
        """Let no new event be queued for a space, and nobody begin to search it."""
        async with self._database.transaction() as connection:
            await _take_turn(connection)
            active = await active_space(connection)
            if active is not None and active.id == space.id:
                raise SpaceChangeError(f"Space {space.id} is the active one.")
            await connection.execute(_queries["begin_drop"], {"space": space.id})
            await _announce(connection)

    async def empty_queue(self, space: Space) -> int:
        """Take some events off a space's queue; how many."""
        async with self._database.connection() as connection:
            values = {"space": space.id, "limit": _EMPTY_BATCH}
            return (await connection.execute(_queries["empty_queue"], values)).rowcount

    async def remove(self, space: Space) -> None:
        """Drop a space's table and forget the space."""
        async with self._database.transaction() as connection:
            await _take_turn(connection)
            await connection.execute(_queries["forget"], {"space": space.id})
            statement = _queries["drop"].format(table=sql.Identifier(space.table))
            await connection.execute(statement)


async def _take_turn(connection: Connection) -> None:
    await connection.execute(_queries["take_turn"], {"lock": _LOCK})


async def _announce(connection: Connection) -> None:
    await connection.execute(_queries["announce"], {"channel": SPACES_CHANNEL})


async def _one(connection: Connection, query: str, **values: object) -> JsonObject:
    row = await (await connection.execute(_queries[query], values)).fetchone()
    if row is None:
        raise SpaceChangeError("The space does not exist any more.")
    return row


async def _behind(connection: Connection, space: Space, *, active: Space) -> int:
    return int((await _one(connection, "behind", space=space.id, active=active.id))["events"])


def _missing(space: Space, active: Space) -> sql.Composed:
    return _queries["missing_events"].format(
        table=sql.Identifier(space.table), reference=sql.Identifier(active.table)
    )


def _refuse_beginning(spaces: Sequence[Space], info: ModelInfo) -> None:
    """Only one space is built at a time, and only beside an active one."""
    if all(space.status != "active" for space in spaces):
        raise SpaceChangeError(
            "The database has no embedding space yet, so there is nothing to change.",
            remedy="Set EMBEDDING_MODEL, and start.",
        )
    for space in spaces:
        mine = space.digest == info.digest
        if mine and space.status in ("active", "retired"):
            raise SpaceChangeError(
                f"Space {space.id} has this model, and is {space.status}.",
                remedy="`mnemolite reembed rollback` goes back to a retired space.",
            )
        if space.status == "dropping" or (space.status == "building" and not mine):
            raise SpaceChangeError(
                f"Space {space.id} ({space.model}) is {space.status}.",
                remedy=f"Finish it first, or remove it: mnemolite reembed drop {space.id}.",
            )


def _refuse_stale(expected: Sequence[Space], spaces: Sequence[Space]) -> None:
    now = {space.id: space.status for space in spaces}
    for space in expected:
        if now.get(space.id) != space.status:
            raise SpaceChangeError(
                f"Space {space.id} was {space.status} and is {now.get(space.id, 'gone')}.",
                remedy="Look with `mnemolite reembed status`, and try again.",
            )


def _progress(
    space: Space, *, embedded: int, pending: int, parked: int, seconds: float
) -> Progress:
    total = embedded + pending
    due = pending - parked
    rate = None
    if space.status == "dropping":
        phase: Literal["queueing", "embedding", "complete", "dropping"] = "dropping"
    elif space.filled_at is None:
        phase = "queueing"
    else:
        phase = "embedding" if due else "complete"
    if space.status == "building" and embedded and due and seconds:
        rate = embedded / seconds
    return Progress(
        phase=phase,
        embedded=embedded,
        pending=pending,
        parked=parked,
        share=embedded / total if total else 1.0,
        events_per_second=rate,
        seconds_left=due / rate if rate else None,
    )
