"""Neighbours: what stands around a hit, in its own text and in its session."""

from collections.abc import Mapping, Sequence, Set
from datetime import datetime
from typing import Any
from uuid import UUID

from psycopg import sql

from mnemolite.database import Connection, Database
from mnemolite.models import Event, Hit, Neighbour, Passage, Space
from mnemolite.partitions import EVENTS, Catalog
from mnemolite.sessions import beside
from mnemolite.sql import load

_queries = load("neighbours")

Row = dict[str, Any]


class Neighbourhood:
    """Looks around hits: two statements, however many there are."""

    def __init__(self, database: Database, catalog: Catalog) -> None:
        self._database = database
        self._catalog = catalog

    async def around(self, hits: Sequence[Hit], most: int, *, space: Space | None) -> list[Hit]:
        """The hits, each with up to ``most`` neighbours on either side, in order of time.

        A side is filled with the passages of the hit's own text that lie beside its best one,
        then with the events of its session, whatever the search's filters. An event that is a hit
        itself, or that a better hit has given, comes as its id alone.
        """
        if not hits or not most:
            return list(hits)
        (leaves,) = await self._catalog.leaves(EVENTS)
        sides: dict[str, sql.Composable] = {
            "before": beside("h", "before", most=most, leaves=leaves),
            "after": beside("h", "after", most=most, leaves=leaves),
        }
        async with self._database.connection() as connection:
            windows = await _windows(connection, hits, most=most, space=space, sides=sides)
            near = [_neighbours(hit, windows[hit.id], most=most) for hit in hits]
            events = await _events(connection, hits, windows=windows, near=near)
        known = {hit.id for hit in hits} | set(events)
        return [
            hit.model_copy(update={"neighbours": _given(those, known=known, events=events)})
            for hit, those in zip(hits, near, strict=True)
        ]


async def _windows(
    connection: Connection,
    hits: Sequence[Hit],
    *,
    most: int,
    space: Space | None,
    sides: Mapping[str, sql.Composable],
) -> Mapping[UUID, Row]:
    """What could stand around each hit, the nearest first."""
    passages: sql.Composable = _queries["no_passages"]
    if space is not None:
        passages = _queries["passages"].format(table=sql.Identifier(space.table))
    parameters = {
        "namespace": hits[0].namespace,
        "most": most,
        "ids": [hit.id for hit in hits],
        "timestamps": [hit.timestamp for hit in hits],
        "sessions": [hit.session for hit in hits],
        "starts": [hit.passage.start if hit.passage else None for hit in hits],
    }
    statement = _queries["windows"].format(passages=passages, **sides)
    cursor = await connection.execute(statement, parameters)
    return {UUID(row["id"]): row async for row in cursor}


def _neighbours(hit: Hit, window: Row, *, most: int) -> list[Neighbour]:
    """What stands at -most … -1, 1 … most: passages as far as there are any, then events."""
    spans = window["passages"] or []
    passages = {
        -1: [span for offset, *span in reversed(spans) if offset < 0],
        1: [span for offset, *span in spans if offset > 0],
    }
    near: list[Neighbour] = []
    for direction, events in ((-1, window["before_ids"]), (1, window["after_ids"])):
        own = [
            Neighbour(place=direction * step, id=hit.id, passage=_passage(hit.text, span))
            for step, span in enumerate(passages[direction][:most], start=1)
        ]
        left = (events or [])[: most - len(own)]
        others = [
            Neighbour(place=direction * step, id=event_id)
            for step, event_id in enumerate(left, start=len(own) + 1)
        ]
        near += own + others
    return sorted(near, key=lambda neighbour: neighbour.place)


async def _events(
    connection: Connection,
    hits: Sequence[Hit],
    *,
    windows: Mapping[UUID, Row],
    near: Sequence[Sequence[Neighbour]],
) -> dict[UUID, Event]:
    """The events that stand anywhere around and are no hits, by id."""
    timestamps: dict[UUID, datetime] = {}
    for row in windows.values():
        for side in ("before", "after"):
            timestamps |= zip(
                row[f"{side}_ids"] or (), row[f"{side}_timestamps"] or (), strict=True
            )
    wanted = {one.id for those in near for one in those} - {hit.id for hit in hits}
    if not wanted:
        return {}
    parameters = {
        "namespace": hits[0].namespace,
        "ids": list(wanted),
        "timestamps": [timestamps[event_id] for event_id in wanted],
    }
    cursor = await connection.execute(_queries["events"], parameters)
    return {row["id"]: Event.model_validate(row) async for row in cursor}


def _given(
    near: Sequence[Neighbour], *, known: Set[UUID], events: dict[UUID, Event]
) -> list[Neighbour]:
    """The neighbours with their events, taken out of ``events``; none that was deleted since."""
    return [
        neighbour.model_copy(update={"event": events.pop(neighbour.id, None)})
        for neighbour in near
        if neighbour.id in known
    ]


def _passage(text: str, span: Sequence[int]) -> Passage:
    start, end = span
    return Passage(text=text[start:end], start=start, end=end)
