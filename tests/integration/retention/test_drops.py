"""Partitions that are over go as a whole, with all that was derived from their events."""

import asyncio
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from mnemolite import retention
from mnemolite.errors import IdempotencyGoneError, LayoutBusyError
from mnemolite.memory import Memory
from mnemolite.models import NewEvent, RetentionHold, SearchQuery
from mnemolite.partitions import taking_turn
from mnemolite.retention import Options
from tests.integration.retention.conftest import Look, assert_consistent, fill, month, settle
from tests.partitioned import partition


def age_of(moment: datetime) -> str:
    """The age in days at which all before that moment is old enough."""
    return f"{(datetime.now(UTC) - moment) // timedelta(days=1)} days"


async def test_what_is_over_goes_with_all_that_was_derived(months: Memory, look: Look) -> None:
    january = look("SELECT id FROM events_p20200101")
    (outcome,) = await retention.run(months, Options(older_than=age_of(month(3))))
    assert [(one.name, one.events) for one in outcome.partitions] == [
        ("events_p20200101", 30), ("events_p20200201", 30),
    ]  # fmt: skip
    assert outcome.deleted == 0
    assert look("SELECT to_regclass('events_p20200101') AS gone") == [{"gone": None}]
    assert look("SELECT to_regclass('embeddings_1_p20200101') AS gone") == [{"gone": None}]
    assert look("SELECT count(*) AS n FROM embeddings_1") == [{"n": 120}]
    told = look("SELECT event_id FROM event_changes WHERE kind = 'deleted'")
    assert len(told) == 60
    assert {row["id"] for row in january} <= {row["event_id"] for row in told}
    assert_consistent(look)


async def test_the_events_lie_in_one_table_of_vectors(memory: Memory, dsn: str, look: Look) -> None:
    await fill(memory, range(1, 4))
    await settle(memory)
    partition(dsn, since=month(1), until=month(4), embeddings=None)
    await retention.run(memory, Options(older_than=age_of(month(3))))
    assert look("SELECT count(*) AS n FROM embeddings_1") == [{"n": 30}]
    assert_consistent(look)


async def test_a_year_of_vectors_goes_with_its_last_month(
    memory: Memory, dsn: str, look: Look
) -> None:
    await fill(memory, range(11, 13))
    late = NewEvent(timestamp=month(1, 2021).replace(day=5), content={"text": "a year later"})
    await memory.add(late)
    await settle(memory)
    partition(dsn, since=month(11), until=month(2, 2021))
    await retention.run(memory, Options(older_than=age_of(month(12))))
    assert look("SELECT count(*) AS n FROM embeddings_1_p20200101") == [{"n": 30}]
    await retention.run(memory, Options(older_than=age_of(month(1, 2021))))
    assert look("SELECT to_regclass('embeddings_1_p20200101') AS gone") == [{"gone": None}]
    assert look("SELECT count(*) AS n FROM embeddings_1") == [{"n": 1}]
    assert_consistent(look)


async def test_what_was_never_counted_nor_embedded_goes_too(
    memory: Memory, dsn: str, look: Look
) -> None:
    await fill(memory, range(1, 3))
    partition(dsn, since=month(1), until=month(3))
    await retention.run(memory, Options(older_than=age_of(month(2))))
    assert look("SELECT count(*) AS n FROM embedding_queue") == [{"n": 30}]
    await settle(memory)
    assert_consistent(look)


async def test_words_of_namespaces_of_any_name_are_counted_out(
    memory: Memory, dsn: str, look: Look
) -> None:
    await memory.add_many(
        [
            NewEvent(
                namespace=name,
                timestamp=month(of).replace(day=5),
                content={"text": f"it's 100% shared, and alone{of} in month {of}"},
            )
            for name in ("it's", "back\\slash", "100%s", "{braces}", "$1")
            for of in (1, 2)
        ]
    )
    await settle(memory)
    partition(dsn, since=month(1), until=month(3))
    await retention.run(memory, Options(older_than=age_of(month(2))))
    assert look("SELECT count(*) AS n FROM lexicon WHERE lexeme LIKE 'alone%%'") == [{"n": 5}]
    assert_consistent(look)


async def test_what_is_in_no_expired_partition_goes_in_batches(months: Memory, look: Look) -> None:
    older = NewEvent(timestamp=month(5, 1999), content={"text": "before any range"})
    await months.add_many([older, older])
    await settle(months)
    (outcome,) = await retention.run(
        months, Options(older_than=age_of(month(3) + timedelta(days=10)))
    )
    left = look("SELECT count(*) AS n FROM events WHERE timestamp < '2020-03-11'")
    assert len(outcome.partitions) == 2
    assert outcome.deleted > 2
    assert left == [{"n": 0}]
    assert_consistent(look)


async def test_the_policy_of_the_partitions_takes_whole_intervals(
    months: Memory, look: Look
) -> None:
    days = (datetime.now(UTC) - month(3)).days - 10
    look("UPDATE partitioning SET retention = make_interval(days => %s)", days)
    (outcome,) = await retention.run(months)
    assert outcome.rule == "partitions"
    assert outcome.older_than == month(3)
    assert len(outcome.partitions) == 2
    assert outcome.deleted == 0
    assert look("SELECT count(*) AS n FROM events") == [{"n": 120}]


async def test_a_hold_keeps_its_events_and_the_others_go(months: Memory, look: Look) -> None:
    hold = RetentionHold(name="case 7", namespace="n1", where={"month": 1}, reason="asked for")
    await retention.add_hold(months.database, hold)
    options = Options(older_than=age_of(month(3)))
    (seen,) = await retention.preview(months, options)
    assert [(one.events, one.held) for one in seen.partitions] == [(30, 15), (30, 0)]
    assert (seen.deleted, seen.held) == (15, 15)
    (outcome,) = await retention.run(months, options)
    assert [(one.name, one.held) for one in outcome.partitions] == [
        ("events_p20200101", 15), ("events_p20200201", 0),
    ]  # fmt: skip
    assert (outcome.deleted, outcome.held) == (15, 15)
    left = look("SELECT DISTINCT namespace, metadata->'month' AS m FROM events_p20200101")
    assert left == [{"namespace": "n1", "m": 1}]
    assert_consistent(look)
    await retention.remove_hold(months.database, "case 7")
    (outcome,) = await retention.run(months, options)
    assert [one.events for one in outcome.partitions] == [15]
    assert_consistent(look)


async def test_a_dry_run_counts_and_changes_nothing(months: Memory, look: Look) -> None:
    (outcome,) = await retention.preview(months, Options(older_than=age_of(month(3))))
    assert [one.events for one in outcome.partitions] == [30, 30]
    assert outcome.deleted == 0
    assert look("SELECT count(*) AS n FROM events") == [{"n": 180}]
    assert look("SELECT FROM retention_log") == []


async def test_the_log_says_what_went_when_and_by_which_rule(months: Memory) -> None:
    await retention.run(months, Options(older_than=age_of(month(2))))
    (entry,) = await retention.entries(months, limit=10)
    assert (entry.kind, entry.rule, entry.partition_name) == (
        "partition", "older-than", "events_p20200101",
    )  # fmt: skip
    assert (entry.events, entry.step, entry.since) == (30, "done", month(1))
    assert entry.finished_at is not None


async def test_a_kept_partition_is_a_table_apart(months: Memory, look: Look) -> None:
    (outcome,) = await retention.run(months, Options(older_than=age_of(month(2)), keep=True))
    assert [one.kept_as for one in outcome.partitions] == ["kept_events_p20200101"]
    assert look("SELECT count(*) AS n FROM kept_events_p20200101") == [{"n": 30}]
    found = await months.search(SearchQuery(q="needle1", namespace="n1", mode="text"))
    assert found.data == []
    assert_consistent(look)


async def test_a_search_finds_nothing_of_what_went(months: Memory) -> None:
    vector = (await months.embedder.embed_queries(["needle1 turn1 of month 1"]))[0]
    query = SearchQuery(q="needle1", vector=[float(x) for x in vector], namespace="n1", limit=200)
    before = await months.search(query)
    assert any(hit.metadata["month"] == 1 for hit in before.data)
    await retention.run(months, Options(older_than=age_of(month(2))))
    after = await months.search(query)
    assert after.data
    assert all(hit.metadata["month"] != 1 for hit in after.data)


async def test_a_retry_does_not_bring_back_what_went(months: Memory, look: Look) -> None:
    event = NewEvent(timestamp=month(1).replace(day=20), content={"text": "once"})
    await months.add(event, idempotency_key="k")
    await retention.run(months, Options(older_than=age_of(month(2))))
    blank: dict[str, object] = {"digest": None, "event_ids": [], "pending": []}
    assert look("SELECT digest, event_ids, pending FROM idempotency_keys") == [blank]
    with pytest.raises(IdempotencyGoneError):
        await months.add(event, idempotency_key="k")


async def test_one_change_of_the_layout_at_a_time(months: Memory) -> None:
    async with taking_turn(months.database):
        with pytest.raises(LayoutBusyError):
            await retention.run(months, Options(older_than="1 day"))
        assert await retention.run_if_due(months, lambda: False) == []


async def test_a_reader_does_not_stop_it_for_long(months: Memory, dsn: str, look: Look) -> None:
    with psycopg.connect(dsn) as reader:
        reader.execute("SELECT count(*) FROM events")
        started = asyncio.create_task(retention.run(months, Options(older_than=age_of(month(2)))))
        waiting = (
            "SELECT count(*) > 0 AS yes FROM pg_locks WHERE NOT granted "
            "AND relation = 'events'::regclass"
        )
        while not look(waiting)[0]["yes"]:
            await asyncio.sleep(0.02)
        await months.add(NewEvent(content={"text": "a writer gets through"}))
        assert not started.done()
        reader.rollback()
        (outcome,) = await started
    assert [one.events for one in outcome.partitions] == [30]
