"""A foreign table of events is taken over: offline, online, and back again."""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from mnemolite import adoption
from mnemolite.errors import AdoptionError
from mnemolite.memory import Memory
from mnemolite.models import AdoptionPlan, AdoptionReport
from tests import foreign
from tests.conftest import _fresh_database

ROWS = 230


@pytest.fixture
def source(server_dsn: str) -> Iterator[str]:
    """A database without tables, for a foreign one."""
    yield from _fresh_database(server_dsn, "template0")


@pytest.fixture
def filled(source: str) -> str:
    foreign.create(source)
    foreign.fill(source, 1, ROWS)
    return source


def silent(_doing: str, _done: int, _total: int) -> None:
    pass


def plan(**fields: Any) -> AdoptionPlan:
    return AdoptionPlan(**{"space": "old-model", "batch": 50, **fields})


async def adopt(memory: Memory, dsn: str, **fields: Any) -> AdoptionReport:
    return await adoption.adopt(memory, dsn, plan=plan(**fields), show=silent)


def execute(dsn: str, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
    with foreign.connect(dsn) as sql:
        cursor = sql.execute(statement.encode(), parameters)
        return cursor.fetchall() if cursor.description else []


def space_of(report: AdoptionReport) -> int:
    assert report.state is not None
    assert report.state.space is not None
    return report.state.space


@pytest.mark.parametrize(
    ("key", "partitioned"),
    [
        ("id", False),
        ("id, timestamp", False),
        ("timestamp, id", False),
        ("id, timestamp", True),
        ("timestamp, id", True),
    ],
)
async def test_offline_all_rows_are_the_same(
    memory: Memory, dsn: str, source: str, key: foreign.Key, partitioned: bool
) -> None:
    foreign.create(source, key=key, partitioned=partitioned)
    foreign.fill(source, 1, ROWS)
    before = foreign.rows(source)
    report = await adopt(memory, source)
    assert len(before) == ROWS
    assert foreign.adopted(dsn, space_of(report)) == before == foreign.rows(source)
    assert report.source == report.target
    assert report.source is not None
    assert (report.source.rows, report.source.vectors) == (ROWS, ROWS - ROWS // 7)
    queued = execute(dsn, "SELECT space, count(*) FROM embedding_queue GROUP BY 1")
    assert queued == [(memory.space.id, ROWS)]
