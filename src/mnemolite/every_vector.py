"""What is nearest to many questions at once, by reading every vector: the truth for the plans."""

from collections.abc import AsyncIterator

import numpy as np
from numpy.typing import NDArray
from psycopg import sql

from mnemolite.arms import SearchJob, join_of
from mnemolite.database import Database
from mnemolite.models import Space
from mnemolite.sql import load

_queries = load("every_vector")

# PostgreSQL's binary form of COPY: a header; then each row, whose fields are of known size here.
_HEADER_BYTES = 19
_ROWS_AT_ONCE = 8192

Floats = NDArray[np.float64]
# Ids of 16 bytes, and as many vectors.
_Rows = tuple[NDArray[np.bytes_], NDArray[np.float32]]


async def nearest_to_each(
    database: Database, job: SearchJob, *, space: Space, vectors: NDArray[np.float32], depth: int
) -> list[Floats]:
    """The cosine distances of the ``depth`` nearest events to each of ``vectors``, ascending.

    The events are those that the job's filters let pass; its own question plays no part.
    ``vectors`` is (questions, dimension). One pass over the table serves all questions.
    """
    directions = _directions(vectors)
    best = [_Nearest(depth) for _ in directions]
    async for ids, embeddings in _read(database, job, space=space):
        distances = 1 - directions @ _directions(embeddings).T
        for of_one, row in zip(best, distances, strict=True):
            of_one.add(ids, row)
    return [of_one.distances for of_one in best]


class _Nearest:
    """The nearest events so far, each by its nearest passage."""

    def __init__(self, depth: int) -> None:
        self._depth = depth
        self._ids = np.empty(0, dtype="S16")
        self.distances: Floats = np.empty(0)

    def add(self, ids: NDArray[np.bytes_], distances: Floats) -> None:
        if len(self.distances) == self._depth:
            near = distances < self.distances[-1]
            ids, distances = ids[near], distances[near]
        everyone = np.concatenate([self._ids, ids])
        distances = np.concatenate([self.distances, distances])
        order = np.argsort(distances, kind="stable")
        # The first occurrence of an event is its nearest passage.
        _, first = np.unique(everyone[order], return_index=True)
        chosen = order[np.sort(first)][: self._depth]
        self._ids, self.distances = everyone[chosen], distances[chosen]


def _directions(vectors: NDArray[np.float32]) -> Floats:
    """Unit vectors; what has no direction is at right angles to everything."""
    exact = vectors.astype(np.float64)
    norms = np.linalg.norm(exact, axis=1, keepdims=True)
    return np.asarray(exact / np.where(norms > 0, norms, 1.0))


async def _read(database: Database, job: SearchJob, *, space: Space) -> AsyncIterator[_Rows]:
    """Ids and vectors of the passages that pass, some thousands at a time."""
    row = np.dtype(
        [
            ("fields", ">i2"),
            ("id_bytes", ">i4"),
            ("id", "S16"),
            ("vector_bytes", ">i4"),
            ("dimension", ">i2"),
            ("unused", ">i2"),
            ("vector", ">f4", (space.dimension,)),
        ]
    )
    wanted = row.itemsize * _ROWS_AT_ONCE
    received = bytearray()
    async for data in _copy(database, job, space=space):
        received += data
        while len(received) >= wanted:
            yield _rows(received[:wanted], row)
            del received[:wanted]
    # What is left over is the trailer of two bytes.
    whole = len(received) // row.itemsize * row.itemsize
    yield _rows(received[:whole], row)


def _rows(data: bytearray, row: np.dtype[np.void]) -> _Rows:
    rows = np.frombuffer(data, dtype=row)
    return rows["id"], rows["vector"].astype(np.float32)


async def _copy(database: Database, job: SearchJob, *, space: Space) -> AsyncIterator[bytes]:
    """The rows in PostgreSQL's binary form, without its header."""
    vectors = _queries["vectors"].format(
        table=sql.Identifier(space.table), join=join_of(job), where=job.conditions()
    )
    statement = _queries["copy"].format(vectors=vectors)
    to_skip = _HEADER_BYTES
    async with (
        database.own_connection() as connection,
        connection.cursor() as cursor,
        cursor.copy(statement, job.parameters) as rows,
    ):
        async for data in rows:
            yield bytes(data[to_skip:])
            to_skip = max(0, to_skip - len(data))
