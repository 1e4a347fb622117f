"""Databases as other programs have filled them: the old shape of events with their vectors."""

from typing import Any, Literal

import psycopg

Key = Literal["id", "id, timestamp", "timestamp, id"]
Sql = psycopg.Connection[tuple[Any, ...]]

DIMENSION = 8

# Every 7th row has no vector, every 5th no metadata, every 3rd names a user, and digits are kept.
_FILL = """
INSERT INTO {table} (id, timestamp, content, embedding, metadata)
SELECT md5('event ' || n)::uuid,
    '2023-01-01 00:00:00+00'::timestamptz + n * interval '37 minutes 1.000001 seconds',
    jsonb_build_object('text', 'turn ' || n || ' of Ada''s café', 'speaker', 'Ada',
        'price', (n || '.50')::numeric),
    CASE WHEN n %% 7 <> 0 THEN (SELECT array_agg(sin(n * i + i))::vector
        FROM generate_series(1, %(dimension)s::integer) i) END,
    CASE WHEN n %% 5 <> 0 THEN jsonb_strip_nulls(jsonb_build_object('n', n,
        'user', CASE WHEN n %% 3 = 0 THEN 'user ' || n %% 4 END, 'thread', n / 10)) END
FROM generate_series(%(first)s::integer, %(last)s::integer) AS n
"""
ROWS = """
SELECT id::text, timestamp::text, content::text, coalesce(metadata, '{}')::text, embedding::text
FROM events ORDER BY 1, 2
"""
ADOPTED = """
SELECT e.id::text, e.timestamp::text, e.content::text, e.metadata::text, v.embedding::text
FROM events e LEFT JOIN embeddings_{space} v ON v.passage = 0
    AND (v.event_id, v.timestamp, v.namespace) = (e.id, e.timestamp, e.namespace)
ORDER BY 1, 2
"""


def connect(dsn: str) -> Sql:
    return psycopg.connect(dsn, autocommit=True, options="-c timezone=UTC")


def create(dsn: str, *, key: Key = "id, timestamp", partitioned: bool = False) -> None:
    """An empty table of the old shape."""
    with connect(dsn) as sql:
        sql.execute("CREATE EXTENSION vector")
        by = "PARTITION BY RANGE (timestamp)" if partitioned else ""
        sql.execute(
            f"CREATE TABLE events (id uuid NOT NULL, timestamp timestamptz, content jsonb, "
            f"embedding vector({DIMENSION}), metadata jsonb, PRIMARY KEY ({key})) {by}".encode()
        )
        if partitioned:
            for year in (2023, 2024):
                bounds = f"FROM ('{year}-01-01') TO ('{year + 1}-01-01')"
                sql.execute(
                    f"CREATE TABLE events_{year} PARTITION OF events FOR VALUES {bounds}".encode()
                )
            sql.execute("CREATE TABLE events_rest PARTITION OF events DEFAULT")


def fill(dsn: str, first: int, last: int, *, dimension: int = DIMENSION) -> None:
    """Rows with those numbers."""
    with connect(dsn) as sql:
        values = {"first": first, "last": last, "dimension": dimension}
        sql.execute(_FILL.replace("{table}", "events").encode(), values)


def rows(dsn: str) -> list[tuple[Any, ...]]:
    """All rows of the source."""
    with connect(dsn) as sql:
        return sql.execute(ROWS.encode()).fetchall()


def adopted(dsn: str, space: int) -> list[tuple[Any, ...]]:
    """All events of a memory, with their vectors of a space."""
    with connect(dsn) as sql:
        return sql.execute(ADOPTED.format(space=space).encode()).fetchall()
