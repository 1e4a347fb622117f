"""What is forgotten is in no table, not found, and not told again."""

from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from mnemolite import retention
from mnemolite.errors import InvalidFilterError
from mnemolite.memory import Memory
from mnemolite.models import FeedQuery, ForgetQuery, NewEvent, RetentionHold, SearchQuery
from mnemolite.retention import Options
from tests.integration.retention.conftest import Look, assert_consistent, month, settle
from tests.integration.retention.test_drops import age_of

SECRETS = (
    "Zaphod's geheimnis-4711 ist Öl 🎉 日本語テキスト",
    'quoted "phrase" -minus C++ naïve@example.com',
    "???",
)


async def remember(memory: Memory) -> list[UUID]:
    """Secrets of one person, and what others have said."""
    events, _ = await memory.add_many(
        [
            NewEvent(
                content={"text": text, "speaker": "Zaphod"},
                metadata={"person": "zaphod@example.com"},
                timestamp=month(2) + timedelta(days=number),
                session="s",
            )
            for number, text in enumerate(SECRETS)
        ]
        + [NewEvent(content={"text": f"harmless {n}"}, metadata={"n": n}) for n in range(5)],
        idempotency_key="k",
    )
    await settle(memory)
    return [event.id for event in events[: len(SECRETS)]]


def everywhere(look: Look, word: str) -> dict[str, int]:
    """The tables in whose rows a word stands, whatever their columns are."""
    tables = look(
        "SELECT c.oid::regclass::text AS name FROM pg_class c WHERE c.relkind = 'r' "
        "AND c.relnamespace = 'public'::regnamespace"
    )
    counts = {
        table["name"]: look(
            f"SELECT count(*) AS n FROM {table['name']} t WHERE strpos(lower(t::text), %s) > 0",
            word,
        )[0]["n"]
        for table in tables
    }
    return {name: count for name, count in counts.items() if count}


WORDS = ("zaphod", "geheimni", "4711", "öl", "ol'", "日本", "🎉", "quoted", "naïve", "naive")
FILTER: dict[str, Any] = {"where": {"person": "zaphod@example.com"}}


async def test_what_is_forgotten_is_in_no_table(memory: Memory, look: Look) -> None:
    ids = await remember(memory)
    assert set(everywhere(look, "zaphod")) == {"events", "lexicon"}
    seen = await memory.search(SearchQuery(q="geheimnis-4711", explain=True))
    assert ids[0] in {hit.id for hit in seen.data}
    report = await retention.forget(memory, ForgetQuery(**FILTER))
    assert report.verified
    assert (report.matched, report.erased, report.held) == (3, 3, 0)
    assert (report.matching_left, report.ids_left, report.found_again) == (0, {}, 0)
    assert report.searches >= 2
    assert {"events", "embeddings_1", "lexicon"} <= set(report.vacuumed)
    look("DELETE FROM search_history")  # what somebody has asked is not what was stored
    for word in WORDS:
        assert everywhere(look, word) == {}, word
    told = [change async for change in memory.follow(FeedQuery(after="start"), wait=False)]
    assert sorted(c.id for c in told if c.kind == "deleted") == sorted(ids)
    assert not [c for c in told if c.kind == "added" and c.id in ids]
    assert look("SELECT count(*) AS n FROM events") == [{"n": 5}]
    assert_consistent(look)


async def test_forgetting_with_partitions(months: Memory, look: Look) -> None:
    await remember(months)
    report = await retention.forget(months, ForgetQuery(**FILTER))
    assert report.verified
    assert report.erased == 3
    assert everywhere(look, "geheimnis") == {}
    assert_consistent(look)


async def test_what_was_kept_apart_is_forgotten_and_archives_are_named(
    months: Memory, look: Look, tmp_path: Path
) -> None:
    await remember(months)
    age = age_of(month(3))
    await retention.run(months, Options(older_than=age_of(month(2)), archive=tmp_path))
    await retention.run(months, Options(older_than=age, keep=True))
    assert everywhere(look, "geheimnis") == {"kept_events_p20200201": 1}
    report = await retention.forget(months, ForgetQuery(**FILTER))
    assert report.verified
    assert report.erased == 3
    assert everywhere(look, "geheimnis") == {}
    archive = tmp_path / "events_p20200101.jsonl.gz"
    assert f"the archive {archive}" in report.elsewhere
    report = await retention.forget(months, ForgetQuery(since=month(2), namespace="n0"))
    assert f"the archive {archive}" not in report.elsewhere


async def test_holds_win_unless_they_are_overridden(memory: Memory, look: Look) -> None:
    ids = await remember(memory)
    where = {"content.text": {"$contains": "4711"}}
    await retention.add_hold(memory.database, RetentionHold(name="case", where=where))
    report = await retention.forget(memory, ForgetQuery(**FILTER))
    assert (report.erased, report.held, report.held_by) == (2, 1, ["case"])
    assert report.verified
    assert look("SELECT id FROM events WHERE metadata ? 'person'") == [{"id": ids[0]}]
    report = await retention.forget(memory, ForgetQuery(**FILTER), override_holds=True)
    assert (report.erased, report.held, report.held_by) == (1, 0, [])
    assert everywhere(look, "zaphod") == {}


async def test_a_look_beforehand_changes_nothing(memory: Memory, look: Look) -> None:
    await remember(memory)
    report = await retention.preview_forget(memory, ForgetQuery(session="s"))
    assert (report.dry_run, report.matched, report.erased) == (True, 3, 0)
    assert look("SELECT count(*) AS n FROM events") == [{"n": 8}]
    assert await retention.entries(memory, limit=5) == []


async def test_the_log_does_not_say_what_was_forgotten(memory: Memory, look: Look) -> None:
    await remember(memory)
    await retention.forget(memory, ForgetQuery(**FILTER, until=month(3)))
    (entry,) = await retention.entries(memory, limit=5)
    assert (entry.kind, entry.rule, entry.events) == ("forget", "forget", 3)
    assert everywhere(look, "zaphod") == {}


async def test_what_is_found_elsewhere_is_told(memory: Memory, look: Look) -> None:
    ids = await remember(memory)
    look("CREATE TABLE my_notes (event uuid, seen uuid[])")
    look("INSERT INTO my_notes VALUES (%s, %s)", ids[0], [ids[1]])
    report = await retention.forget(memory, ForgetQuery(**FILTER))
    assert report.ids_left == {"my_notes": 1}
    assert not report.verified


async def test_nothing_matches(memory: Memory) -> None:
    await remember(memory)
    report = await retention.forget(memory, ForgetQuery(namespace="nobody"))
    assert (report.matched, report.erased, report.vacuumed) == (0, 0, [])
    assert report.verified


async def test_a_filter_that_is_none(memory: Memory) -> None:
    with pytest.raises(InvalidFilterError):
        await retention.forget(memory, ForgetQuery(where={"a": {"$near": 1}}))
