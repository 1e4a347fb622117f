"""A partitioned database for tests: the layout alone, not the way there."""

from datetime import datetime

import psycopg
from psycopg import sql

from mnemolite.partitions import Interval, Range, partition_name, ranges

# Triggers and view as they stand on the plain table; those on rows are cloned to each partition.
_TRIGGERS = """
    SELECT pg_get_triggerdef(oid) FROM pg_trigger
    WHERE tgrelid = %s::regclass AND NOT tgisinternal ORDER BY tgname"""
_INDEXES = """
    SELECT pg_get_indexdef(indexrelid), indexrelid::regclass::text, indisprimary FROM pg_index
    WHERE indrelid = %s::regclass AND indisvalid AND indexrelid::regclass::text NOT LIKE '%%hnsw%%'
    ORDER BY indisprimary DESC"""


def partition(
    dsn: str, *, since: datetime, until: datetime, events: Interval = "month",
    embeddings: Interval | None = "year",
) -> None:  # fmt: skip
    """Lay the events and the vectors of all spaces out in partitions, in one transaction."""
    with psycopg.connect(dsn, options="-ctimezone=UTC") as connection:
        spaces = connection.execute("SELECT id FROM embedding_spaces ORDER BY id").fetchall()
        active = connection.execute(
            "SELECT id FROM embedding_spaces WHERE status = 'active'"
        ).fetchone()
        connection.execute("DROP VIEW IF EXISTS embedded_events")
        _lay_out(connection, "events", ranges=list(ranges(since, until, by=events)))
        if embeddings is not None:
            for (space,) in spaces:
                spans = list(ranges(since, until, by=embeddings))
                _lay_out(connection, f"embeddings_{space}", ranges=spans)
        connection.execute(
            "INSERT INTO partitioning (events_interval, embeddings_interval, premake, manager) "
            "VALUES (%s, %s, 4, 'native')",
            [events, embeddings or "none"],
        )
        if active is not None:
            table = f"embeddings_{active[0]}"
            connection.execute(
                "CREATE VIEW embedded_events AS SELECT e.*, v.passage, v.char_start, v.char_end, "
                f"v.embedding FROM events e JOIN {table} v ON (v.event_id, v.timestamp, "
                "v.namespace) = (e.id, e.timestamp, e.namespace)".encode()
            )
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("ANALYZE")


def _lay_out(
    connection: "psycopg.Connection[tuple[object, ...]]", table: str, *, ranges: list[Range]
) -> None:
    triggers = connection.execute(_TRIGGERS, [table]).fetchall()
    indexes = connection.execute(_INDEXES, [table]).fetchall()
    columns = connection.execute(
        "SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) FROM pg_attribute "
        "WHERE attrelid = %s::regclass AND attnum > 0 AND attgenerated = '' AND NOT attisdropped",
        [table],
    ).fetchone()
    old, name = sql.Identifier(f"{table}_old"), sql.Identifier(table)
    connection.execute(sql.SQL("ALTER TABLE {} RENAME TO {}").format(name, old))
    for _, index, _ in indexes:
        connection.execute(f"ALTER INDEX {index} RENAME TO {index}_old".encode())
    connection.execute(
        sql.SQL(
            "CREATE TABLE {} (LIKE {} INCLUDING ALL EXCLUDING INDEXES) PARTITION BY RANGE "
            "(timestamp)"
        ).format(name, old)
    )
    for definition, index, is_primary in indexes:
        if is_primary:
            key = str(definition).split("(", 1)[1]
            connection.execute(
                f"ALTER TABLE {table} ADD CONSTRAINT {index} PRIMARY KEY ({key}".encode()
            )
        else:
            connection.execute(str(definition).encode())
    for span in ranges:
        assert span.since is not None
        assert span.until is not None
        connection.execute(
            sql.SQL("CREATE TABLE {} PARTITION OF {} FOR VALUES FROM ({}) TO ({})").format(
                sql.Identifier(partition_name(table, span.since)),
                name,
                sql.Literal(span.since),
                sql.Literal(span.until),
            )
        )
    connection.execute(
        sql.SQL("CREATE TABLE {} PARTITION OF {} DEFAULT").format(
            sql.Identifier(f"{table}_default"), name
        )
    )
    names = columns[0] if columns else ""
    connection.execute(f"INSERT INTO {table} ({names}) SELECT {names} FROM {table}_old".encode())
    connection.execute(sql.SQL("DROP TABLE {}").format(old))
    for (definition,) in triggers:
        connection.execute(str(definition).encode())
