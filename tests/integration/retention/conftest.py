"""What the tests of retention share: a memory of some months, and looks into its tables."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from mnemolite.memory import Memory
from mnemolite.models import NewEvent
from mnemolite.worker import Worker
from tests.partitioned import partition

Look = Callable[..., list[dict[str, Any]]]


def month(number: int, year: int = 2020) -> datetime:
    return datetime(year, number, 1, tzinfo=UTC)


@pytest.fixture
def look(dsn: str) -> Look:
    """Rows of a query, each as a dictionary."""

    def rows(query: str, *values: object) -> list[dict[str, Any]]:
        with psycopg.connect(dsn, autocommit=True, row_factory=dict_row) as connection:
            cursor = connection.execute(query.encode(), values)
            return cursor.fetchall() if cursor.description else []

    return rows


async def settle(memory: Memory) -> None:
    await Worker(memory).drain()
    while await memory.lexicon.count():
        pass


async def fill(memory: Memory, months: range, *, each: int = 30) -> None:
    """Some events on each month's days, in two namespaces, with words of their own."""
    await memory.add_many(
        [
            NewEvent(
                namespace=f"n{number % 2}",
                session=f"s{number % 3}",
                timestamp=month(of).replace(day=number % 27 + 2, hour=number % 24),
                content={"text": f"needle{of} turn{number} of month {of}", "speaker": "Ada"},
                metadata={"month": of, "number": number},
            )
            for of in months
            for number in range(each)
        ]
    )


@pytest.fixture
async def months(memory: Memory, dsn: str) -> Memory:
    """January to June of 2020, 30 events each, embedded and counted; monthly, vectors too."""
    await fill(memory, range(1, 7))
    await settle(memory)
    partition(dsn, since=month(1), until=month(7), embeddings="month")
    return memory


def lexicon(look: Look) -> tuple[list[dict[str, Any]], ...]:
    """The lexicon as it is and as a recount would make it, words and totals."""
    return (
        look("SELECT namespace, lexeme, documents FROM lexicon WHERE documents <> 0 ORDER BY 1, 2"),
        look(
            "SELECT namespace, lexeme, count(*) AS documents FROM events, "
            "unnest(tsvector_to_array(lexemes)) AS lexeme GROUP BY 1, 2 ORDER BY 1, 2"
        ),
        look("SELECT * FROM lexicon_totals WHERE documents <> 0 ORDER BY namespace"),
        look(
            "SELECT namespace, count(*) AS documents, sum(words)::bigint AS words FROM events "
            "GROUP BY 1 ORDER BY 1"
        ),
    )


def assert_consistent(look: Look) -> None:
    """Nothing is left of what is gone, and the statistics are those of what is there."""
    words, recounted, totals, retotalled = lexicon(look)
    assert words == recounted
    assert totals == retotalled
    assert look("SELECT FROM lexicon WHERE documents <= 0") == []
    orphans = (
        "SELECT FROM embeddings_1 v LEFT JOIN events e ON e.id = v.event_id WHERE e.id IS NULL"
    )
    assert look(orphans) == []
    assert look(orphans.replace("embeddings_1", "embedding_queue")) == []
    assert look("SELECT FROM lexicon_queue") == []
    told = look(
        "SELECT event_id FROM event_changes WHERE kind = 'deleted' GROUP BY 1 HAVING count(*) <> 1"
    )
    assert told == []
