"""Filters that let a known share of the stored events pass, found in the data as they are."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mnemolite.database import EARLIEST, LATEST
from mnemolite.errors import InvalidInputError
from mnemolite.filters import parse
from mnemolite.memory import Memory
from mnemolite.models import Namespace, SearchQuery
from mnemolite.sql import load

_queries = load("selectivity")

SHARES = (0.1, 0.01, 0.001, 0.0001)
# A namespace or a value stands for a share that it misses by no more than this factor.
_NEAR = 3.0
# Spans of time that are combined with values of metadata, by their shares.
_COMBINED = ((0.1, 0.1), (0.1, 0.01), (0.01, 0.1), (0.01, 0.01))

# Fields of a SearchQuery.
Fields = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Case:
    """A filter of some kind, and the share of its namespace or of the table that should pass."""

    kind: str
    target: float
    fields: Fields


def choose(namespaces: Sequence[Namespace], name: str | None) -> Namespace:
    """The namespace of that name, else the largest one. Raises InvalidInputError if it is empty."""
    filled = {one.name: one for one in namespaces if one.events}
    if name is None and filled:
        return max(filled.values(), key=lambda one: one.events)
    if name is None or name not in filled:
        raise InvalidInputError(
            f"The namespace {name!r} holds no events." if name else "The memory holds no events.",
            field="--namespace",
            remedy="Import some first; GET /v1/namespaces lists what there is.",
        )
    return filled[name]


async def make_cases(
    memory: Memory, namespace: Namespace, *, of: Sequence[Namespace]
) -> list[Case]:
    """No filter, each kind of filter at each share that the data have, and two kinds together."""
    here: Fields = {"namespace": namespace.name}
    times = {share: await span(memory, namespace, share=share) for share in SHARES}
    values = await _values(memory, namespace)
    ranges = await _ranges(memory, namespace)
    cases = [Case("none", 1.0, here)]
    for kind, by_share in (("time", times), ("metadata", values), ("number", ranges)):
        cases += [Case(kind, share, here | fields) for share, fields in by_share.items()]
    cases += [
        Case("time, metadata", one * other, here | times[one] | values[other])
        for one, other in _COMBINED
        if other in values
    ]
    for share, place in _places(of).items():
        cases += await _inside(memory, place, share=share)
    return cases


async def span(memory: Memory, namespace: Namespace, *, share: float) -> Fields:
    """A span of time in the middle of a namespace that holds the share of its events."""
    count = max(1, round(namespace.events * share))
    first = (namespace.events - count) // 2
    since, until = [
        await _row(memory, "nth_timestamp", namespace=namespace.name, place=place)
        for place in (first, first + count)
    ]
    fields = {"since": since.get("timestamp"), "until": until.get("timestamp")}
    return {name: value for name, value in fields.items() if value is not None}


async def count_matching(memory: Memory, query: SearchQuery) -> int:
    """How many events pass the filters of a query."""
    statement = _queries["matching"].format(where=parse(query.where).to_sql("e"))
    parameters = {
        "namespace": query.namespace,
        "session": query.session,
        "since": query.since or EARLIEST,
        "until": query.until or LATEST,
    }
    async with memory.database.own_connection() as connection:
        row = await (await connection.execute(statement, parameters)).fetchone()
    return int(row["rows"]) if row else 0


async def _inside(memory: Memory, place: Namespace, *, share: float) -> list[Case]:
    """A namespace that is only a part of the table, and a tenth of it."""
    here: Fields = {"namespace": place.name}
    cases = [Case("namespace", share, here)]
    if place.events >= 1 / SHARES[0]:
        fields = here | await span(memory, place, share=SHARES[0])
        cases.append(Case("namespace, time", share * SHARES[0], fields))
    values = await _values(memory, place)
    if SHARES[0] in values:
        fields = here | values[SHARES[0]]
        cases.append(Case("namespace, metadata", share * SHARES[0], fields))
    return cases


def _places(namespaces: Sequence[Namespace]) -> dict[float, Namespace]:
    """The namespaces whose shares of the table are nearest to those to check."""
    total = sum(one.events for one in namespaces)
    places: dict[float, Namespace] = {}
    for share in SHARES:
        wanted = share * total
        near = [one for one in namespaces if _is_near(one.events, wanted)]
        if near:
            places[share] = min(near, key=lambda one: abs(math.log(one.events / wanted)))
    return places


async def _values(memory: Memory, namespace: Namespace) -> dict[float, Fields]:
    """Values of metadata that about the shares of a namespace's events have."""
    targets = [share * namespace.events for share in SHARES]
    parameters = {"namespace": namespace.name, "targets": targets}
    async with memory.database.own_connection() as connection:
        rows = await (await connection.execute(_queries["values_by_share"], parameters)).fetchall()
    return {
        share: {"where": {row["key"]: row["value"]}}
        for share, row in zip(SHARES, rows, strict=bool(rows))
        if _is_near(row["events"], row["target"])
    }


async def _ranges(memory: Memory, namespace: Namespace) -> dict[float, Fields]:
    """Bounds of a number that every event has, below which the shares lie."""
    shares = list(SHARES)
    row = await _row(
        memory,
        "numeric_bounds",
        namespace=namespace.name,
        events=namespace.events,
        shares=shares,
    )
    if not row:
        return {}
    return {
        share: {"where": {row["key"]: {"$lte": bound}}}
        for share, bound in zip(shares, row["bounds"], strict=True)
    }


async def _row(memory: Memory, name: str, **parameters: object) -> dict[str, Any]:
    async with memory.database.own_connection() as connection:
        cursor = await connection.execute(_queries[name], parameters)
        return await cursor.fetchone() or {}


def _is_near(events: float, wanted: float) -> bool:
    return wanted / _NEAR <= events <= wanted * _NEAR
