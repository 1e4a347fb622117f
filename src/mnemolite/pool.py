"""The pool: what the arms found and what is around it, read, and as the arrays of the ranking."""

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pgvector import Vector
from psycopg import sql

from mnemolite.arms import Key, Row, SearchJob
from mnemolite.boosts import Facts
from mnemolite.database import Database
from mnemolite.models import Space
from mnemolite.partitions import EVENTS, Catalog
from mnemolite.ranking import Floats, Pool, chain_neighbours
from mnemolite.sessions import beside
from mnemolite.sql import load

_queries = load("pool")

_WORD = re.compile(r"\w{2,}")


class PoolReader:
    """Reads candidates and their session neighbours as both arms would know them."""

    def __init__(self, database: Database, catalog: Catalog) -> None:
        self._database = database
        self._catalog = catalog

    async def around(self, job: SearchJob, found: Sequence[Key]) -> list[Row]:
        """What was found and those just before and after it, each with all that ranking wants."""
        if not found:
            return []
        uses_vectors = job.query.mode != "text" and job.space is not None
        vector = await job.vector.unless_failed(job) if uses_vectors else None
        (leaves,) = await self._catalog.leaves(EVENTS)
        statement = _queries["pool"].format(
            before=beside("found", "before", most=2, leaves=leaves),
            after=beside("found", "after", most=2, leaves=leaves),
            passes=_queries["passes"].format(where=job.conditions()),
            frequencies=_queries["frequencies"],
            importance=_queries["importance" if job.query.importance else "no_importance"],
            distance=measure("distance", space=job.space, vector=vector),
        )
        terms = [term.tsquery for term in job.question.terms]
        parameters = job.parameters | columns(found) | as_parameter(vector) | {"terms": terms}
        if len(leaves) == 1:
            async with self._database.connection() as connection:
                return await (await connection.execute(statement, parameters)).fetchall()
        async with self._database.transaction() as connection:
            await connection.execute(_queries["plan_once"])
            cursor = await connection.execute(statement, parameters, prepare=True)
            return await cursor.fetchall()


def merged(pools: Iterable[Sequence[Row]]) -> list[Row]:
    """The rows of several pools, each once; what was found itself also knows its neighbours."""
    rows: dict[str, Row] = {}
    for row in chain.from_iterable(pools):
        if row["id"] not in rows or row["before"] or row["after"]:
            rows[row["id"]] = row
    return list(rows.values())


def measure(
    what: Literal["distance", "passage"],
    *,
    space: Space | None,
    vector: NDArray[np.float32] | None,
) -> sql.Composable:
    """The expression that looks at an event's vectors; NULL where there are none."""
    if vector is None or space is None:
        return _queries[f"no_{what}"]
    return _queries[what].format(table=sql.Identifier(space.table))


def as_parameter(vector: NDArray[np.float32] | None) -> dict[str, object]:
    """The parameter of ``measure``."""
    return {} if vector is None else {"vector": Vector(vector)}


def columns(keys: Sequence[Key]) -> dict[str, object]:
    """Two arrays as PostgreSQL reads them; psycopg would take milliseconds to write them."""
    return {
        "ids": "{" + ",".join(name for name, _ in keys) + "}",
        "timestamps": "{" + ",".join(f'"{timestamp}"' for _, timestamp in keys) + "}",
    }


def as_pool(
    rows: Sequence[Row], q: str, *, nearest: set[str], boosts: Mapping[str, Floats]
) -> Pool:
    """Rows as arrays; links that lead outside keep their place in the chain.

    ``nearest`` has the ids that the vector arm found by itself.
    """
    numbers: dict[str, int] = {row["id"]: number for number, row in enumerate(rows)}
    links: list[tuple[int, int]] = []
    for row in rows:
        if not row["before"] and not row["after"]:
            continue
        ids = [*reversed(row["before"] or []), row["id"], *(row["after"] or [])]
        places = [numbers.setdefault(name, len(numbers)) for name in ids]
        links += pairwise(places)
    asked = _name_parts(q)
    speakers = {row["speaker"] for row in rows if row["speaker"]}
    named = {speaker for speaker in speakers if not asked.isdisjoint(_name_parts(speaker))}
    distances = [np.nan if row["distance"] is None else row["distance"] for row in rows]
    frequencies = np.array([row["frequencies"] for row in rows], dtype=np.float64)
    return Pool(
        words=np.array([row["words"] for row in rows], dtype=np.float64),
        frequencies=frequencies.reshape(len(rows), -1),
        cosines=1.0 - np.array(distances, dtype=np.float64),
        nearest=np.array([row["id"] in nearest for row in rows], dtype=bool),
        named=np.array([row["speaker"] in named for row in rows], dtype=bool),
        nearby=chain_neighbours(links, len(rows)),
        boosts=boosts,
    )


def as_facts(rows: Sequence[Row]) -> Facts:
    """What the boosts look at; an importance that is not known is NaN."""
    return Facts(
        times=np.array([row["seconds"] for row in rows], dtype=np.float64),
        importance=np.array([row["importance"] for row in rows], dtype=np.float64),
    )


def _name_parts(text: str) -> frozenset[str]:
    """The words of a name, or of a question that may hold it: "Caroline's" names Caroline."""
    return frozenset(_WORD.findall(text.casefold()))
