"""What a change of the layout must keep: every row, and whatever stands on the tables."""

from datetime import UTC, datetime
from typing import Any

import psycopg

from mnemolite.memory import Memory
from mnemolite.models import NewEvent

ANCIENT, FAR = datetime(1907, 5, 1, tzinfo=UTC), datetime(2507, 5, 1, tzinfo=UTC)
_EVENTS = """
    SELECT id, namespace, session, timestamp, created_at, content, metadata, language::text, text,
        lexemes::text, words FROM events ORDER BY id, timestamp, namespace"""
_VECTORS = "SELECT * FROM {} ORDER BY event_id, timestamp, namespace, passage"
_REST = {
    "embedding_queue": "SELECT space, event_id FROM embedding_queue ORDER BY 1, 2",
    "changes": "SELECT kind, event_id FROM event_changes ORDER BY xid, n",
    "lexicon": "SELECT event_id, lexemes IS NULL FROM lexicon_queue ORDER BY 1, 2",
    "view": "SELECT id, passage FROM embedded_events ORDER BY 1, 2",
}  # fmt: skip


def content(dsn: str) -> dict[str, list[Any]]:
    """Every row that a change of the layout is about, or could double."""
    with psycopg.connect(dsn, options="-ctimezone=UTC") as connection:
        spaces = connection.execute("SELECT id FROM embedding_spaces ORDER BY id").fetchall()
        queries = {"events": _EVENTS, **_REST}
        queries |= {f"vectors of {id}": _VECTORS.format(f"embeddings_{id}") for (id,) in spaces}
        return {
            name: connection.execute(query.encode()).fetchall() for name, query in queries.items()
        }


def leftovers(dsn: str) -> list[Any]:
    """What a change makes for its own use and must not leave behind."""
    with psycopg.connect(dsn) as connection:
        return connection.execute(
            r"SELECT relname FROM pg_class WHERE relname ~ '_(new|old|relayout)(_|$)' "
            r"UNION ALL SELECT proname FROM pg_proc WHERE proname ~ '_relayout_' "
            r"UNION ALL SELECT tgname FROM pg_trigger WHERE tgname ~ '_relayout_' "
            r"UNION ALL SELECT conname FROM pg_constraint WHERE conname ~ '_relayout_' "
            "UNION ALL SELECT source FROM relayouts"
        ).fetchall()


async def fill(memory: Memory, count: int) -> list[NewEvent]:
    """Events of two years, one from long ago and one of a far future."""
    times = [datetime(2025 + n % 2, 1 + n % 10, 3, n % 24, tzinfo=UTC) for n in range(count)]
    events = [
        NewEvent(
            timestamp=time,
            namespace=f"100% {n % 3}",
            session="s" if n % 2 else None,
            content={"text": f"needle {n}", "role": "user"},
            metadata={"n": n},
        )
        for n, time in enumerate([ANCIENT, FAR, *times])
    ]
    await memory.add_many(events)
    return events
