"""The intake: many events at once by COPY, each with its own outcome, in one transaction."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from uuid import UUID

import numpy as np
from numpy.typing import NDArray
from pgvector import Vector
from psycopg import sql

from mnemolite import exact_json
from mnemolite.database import Connection, Database
from mnemolite.errors import InvalidInputError
from mnemolite.models import MAX_TEXT_BYTES, NewEvent, Space
from mnemolite.sql import load

_queries = load("intake")
_VECTOR_TYPES = ("uuid", "timestamptz", "int2", "text", "int4", "int4", "vector")


@dataclass(frozen=True, slots=True)
class GivenPassage:
    """A passage that comes with its vector: its span in the text, float32 of the dimension."""

    start: int
    end: int
    vector: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Incoming:
    """An event with its id and time settled.

    ``shared_id`` says that others may use the id with another time or content: the id is then
    looked up, and its users take turns. ``dated`` says that the timestamp belongs to the event,
    and is not only the time at which it came.
    """

    id: UUID
    timestamp: datetime
    event: NewEvent
    dated: bool = True
    shared_id: bool = False
    created_at: datetime | None = None
    passages: Sequence[GivenPassage] = ()


class Outcome(Enum):
    """What became of an incoming event that was not refused."""

    STORED = "stored"
    STORED_WITH_VECTORS = "stored with vectors"
    ALREADY_THERE = "already there"


class Intake:
    """Stores events in bulk."""

    def __init__(self, database: Database, default_language: str) -> None:
        self._database = database
        self._language = default_language

    async def store(
        self,
        incoming: Sequence[Incoming],
        *,
        languages: Mapping[str, str] | None = None,
        space: Space | None = None,
        until_refused: bool = False,
    ) -> list[Outcome | str]:
        """Store what is new, in one transaction; the outcomes, or reasons of refusal, in order.

        With ``until_refused`` nothing is stored that comes after a refused event. ``languages``
        are those of namespaces that do not exist yet. Vectors that come along are kept if they
        are of ``space``; all other text is queued for embedding.
        """
        contents = [exact_json.dumps(row.event.content) for row in incoming]
        async with self._database.transaction() as connection:
            await self._add_namespaces(connection, incoming, languages=languages or {})
            await _copy(connection, incoming, contents=contents)
            outcomes = _repeated_ids(incoming)
            outcomes |= await _known_ids(connection, incoming)
            outcomes |= await _too_large(connection, contents)
            left_out = set(outcomes)
            if until_refused and (refused := [p for p in outcomes if isinstance(outcomes[p], str)]):
                left_out.update(range(min(refused), len(incoming)))
            fresh = await _insert(connection, incoming, left_out=left_out)
            embedded = await _store_vectors(connection, fresh, space=space)
        stored = {id(row) for row in fresh}
        for position, row in enumerate(incoming):
            if id(row) in embedded:
                outcomes[position] = Outcome.STORED_WITH_VECTORS
            elif id(row) in stored:
                outcomes[position] = Outcome.STORED
        return [outcomes.get(position, Outcome.ALREADY_THERE) for position in range(len(incoming))]

    async def _add_namespaces(
        self, connection: Connection, incoming: Sequence[Incoming], *, languages: Mapping[str, str]
    ) -> None:
        names = sorted({row.event.namespace for row in incoming})
        chosen = [languages.get(name, self._language) for name in names]
        cursor = await connection.execute(_queries["missing_languages"], {"languages": chosen})
        if missing := await cursor.fetchone():
            raise InvalidInputError(
                f"PostgreSQL has no text-search language {missing['language']!r}.",
                field="language",
                remedy="Use one that `SELECT cfgname FROM pg_ts_config` lists, or simple.",
            )
        await connection.execute(_queries["add_namespaces"], {"names": names, "languages": chosen})


async def _copy(
    connection: Connection, incoming: Sequence[Incoming], *, contents: Sequence[str]
) -> None:
    await connection.execute(_queries["create"])
    async with connection.cursor().copy(_queries["copy"]) as copy:
        for position, row in enumerate(incoming):
            place = row.event.namespace, row.event.session
            when = row.timestamp, row.dated, row.created_at
            metadata = exact_json.dumps(row.event.metadata)
            await copy.write_row((position, row.id, *place, *when, contents[position], metadata))


def _repeated_ids(incoming: Sequence[Incoming]) -> dict[int, Outcome | str]:
    """What becomes of ids that came before among the same events."""
    first: dict[UUID, Incoming] = {}
    outcomes: dict[int, Outcome | str] = {}
    for position, row in enumerate(incoming):
        other = first.setdefault(row.id, row)
        if other is not row:
            same = other.event.content == row.event.content
            outcomes[position] = Outcome.ALREADY_THERE if same else _conflict(row.id)
    return outcomes


async def _known_ids(
    connection: Connection, incoming: Sequence[Incoming]
) -> dict[int, Outcome | str]:
    """What becomes of shared ids that are stored already."""
    positions = [position for position, row in enumerate(incoming) if row.shared_id]
    if not positions:
        return {}
    # Across partitions an id alone cannot be unique, so its users take turns.
    await connection.execute(_queries["lock_ids"], {"positions": positions})
    cursor = await connection.execute(_queries["known"], {"positions": positions})
    return {
        row["position"]: (
            Outcome.ALREADY_THERE if row["same"] else _conflict(incoming[row["position"]].id)
        )
        async for row in cursor
    }


def _conflict(event_id: UUID) -> str:
    return f"id: {event_id} belongs to an event of other content"


async def _too_large(connection: Connection, contents: Sequence[str]) -> dict[int, Outcome | str]:
    """Refuse texts whose words would not fit into a tsvector."""
    # A text is never longer than the JSON it is taken from.
    large = [
        position
        for position, content in enumerate(contents)
        if len(content.encode()) > MAX_TEXT_BYTES
    ]
    if not large:
        return {}
    cursor = await connection.execute(_queries["text_sizes"], {"positions": large})
    return {
        row["position"]: f"content: The text has {row['bytes']:,} bytes; "
        f"at most {MAX_TEXT_BYTES:,} are searchable."
        async for row in cursor
        if row["bytes"] > MAX_TEXT_BYTES
    }


async def _insert(
    connection: Connection, incoming: Sequence[Incoming], *, left_out: set[int]
) -> list[Incoming]:
    """Insert all but some; those that were not there."""
    if len(left_out) == len(incoming):
        return []
    cursor = await connection.execute(_queries["insert"], {"left_out": list(left_out)})
    inserted = {row["id"] async for row in cursor}
    return [
        row
        for position, row in enumerate(incoming)
        if row.id in inserted and position not in left_out
    ]


async def _store_vectors(
    connection: Connection, fresh: Sequence[Incoming], *, space: Space | None
) -> set[int]:
    """Keep the vectors that came along, and take their events off the queue."""
    embedded = [row for row in fresh if row.passages]
    if space is None or not embedded:
        return set()
    # Held until the commit, so that the space is not dropped meanwhile.
    cursor = await connection.execute(_queries["lock_space"], {"digest": space.digest})
    if await cursor.fetchone() is None:
        return set()
    statement = _queries["copy_vectors"].format(table=sql.Identifier(space.table))
    async with connection.cursor().copy(statement) as copy:
        copy.set_types(_VECTOR_TYPES)
        for row in embedded:
            for values in _vector_rows(row):
                await copy.write_row(values)
    parameters = {"space": space.id, "ids": [row.id for row in embedded]}
    await connection.execute(_queries["unqueue"], parameters)
    return {id(row) for row in embedded}


def _vector_rows(row: Incoming) -> Iterator[tuple[object, ...]]:
    for number, passage in enumerate(row.passages):
        key = row.id, row.timestamp, number, row.event.namespace
        yield (*key, passage.start, passage.end, Vector(passage.vector))
