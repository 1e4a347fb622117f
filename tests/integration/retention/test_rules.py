"""Rules delete what they say, in batches, and nothing that is held."""

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from mnemolite import retention
from mnemolite.errors import InvalidFilterError, InvalidInputError, RetentionNotFoundError
from mnemolite.memory import Memory
from mnemolite.models import NewEvent, RetentionHold, RetentionRule
from mnemolite.retention import Options, batches
from mnemolite.settings import Settings
from mnemolite.settings.retention import RetentionSettings
from mnemolite.worker import running_worker
from tests.integration.retention.conftest import Look, assert_consistent, settle

NOW = datetime.now(UTC)


async def until(look: Look, query: str) -> None:
    while not look(query)[0]["yes"]:
        await asyncio.sleep(0.02)


async def store(
    memory: Memory, ages: Sequence[float], *, namespace: str = "n", **fields: Any
) -> list[str]:
    """Events of such ages in days."""
    new = [
        NewEvent(
            namespace=namespace,
            timestamp=NOW - timedelta(days=age),
            content={"text": f"turn {number} of {age}"},
            **fields,
        )
        for number, age in enumerate(ages)
    ]
    events, _ = await memory.add_many(new)
    return [str(event.id) for event in events]


def left(look: Look) -> list[str]:
    return [str(row["id"]) for row in look("SELECT id FROM events ORDER BY namespace, id")]


async def rule(memory: Memory, **fields: Any) -> None:
    await retention.add_rule(memory.database, RetentionRule(name="r", **fields))


async def test_what_is_older_goes(memory: Memory, look: Look) -> None:
    ids = await store(memory, [40, 31, 29, 1])
    others = await store(memory, [40], namespace="other")
    await settle(memory)
    await rule(memory, namespace="n", max_age="30 days")
    (outcome,) = await retention.run(memory)
    assert (outcome.rule, outcome.deleted, outcome.held) == ("r", 2, 0)
    assert left(look) == [ids[2], ids[3], *others]
    assert_consistent(look)
    (entry,) = await retention.entries(memory, limit=5)
    assert (entry.kind, entry.rule, entry.events, entry.step) == ("rule", "r", 2, "done")
    (outcome,) = await retention.run(memory)
    assert outcome.deleted == 0
    assert len(await retention.entries(memory, limit=5)) == 1


async def test_the_newest_of_each_namespace_stay(memory: Memory, look: Look) -> None:
    first = await store(memory, [5, 4, 3], namespace="a", session="s")
    second = await store(memory, [9, 8], namespace="b")
    await rule(memory, keep_last=2)
    await retention.run(memory)
    assert left(look) == [*first[1:], *second]


async def test_the_newest_of_each_session_stay(memory: Memory, look: Look) -> None:
    first = await store(memory, [5, 4, 3], session="s")
    second = await store(memory, [9, 8], session="t")
    without = await store(memory, [7, 6, 5])
    await rule(memory, keep_last=1, keep_per="session")
    await retention.run(memory)
    assert set(left(look)) == {first[2], second[1], *without}


async def test_of_equal_times_the_id_decides(memory: Memory, look: Look) -> None:
    ids = sorted(await store(memory, [3] * 7))
    await rule(memory, keep_last=3)
    await retention.run(memory)
    assert left(look) == ids[4:]


async def test_old_and_not_among_the_newest(memory: Memory, look: Look) -> None:
    ids = await store(memory, [50, 40, 35, 2])
    await rule(memory, max_age="30 days", keep_last=2)
    await retention.run(memory)
    assert left(look) == ids[2:]


async def test_only_what_the_filter_matches_counts_and_goes(memory: Memory, look: Look) -> None:
    tools = await store(memory, [5, 4, 3], metadata={"kind": "tool", "50%": "50%"})
    talk = await store(memory, [9, 1], metadata={"kind": "talk"})
    await rule(memory, keep_last=1, where={"kind": "tool", "50%": "50%"})
    await retention.run(memory)
    assert set(left(look)) == {tools[2], *talk}


async def test_more_than_a_batch(
    memory: Memory, look: Look, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "BATCH", 10)
    await store(memory, [40] * 25 + [3] * 5)
    await store(memory, [41] * 11, namespace="100% other")
    await settle(memory)
    await rule(memory, max_age="30 days")
    (seen,) = await retention.preview(memory, Options())
    (outcome,) = await retention.run(memory)
    assert seen.deleted == outcome.deleted == 36
    assert_consistent(look)
    assert look("SELECT count(*) AS n FROM events") == [{"n": 5}]
    assert look("SELECT count(*) AS n FROM event_changes WHERE kind = 'deleted'") == [{"n": 36}]


async def test_what_is_held_stays_through_rules(memory: Memory, look: Look) -> None:
    await store(memory, [40, 41], metadata={"case": 7})
    gone = await store(memory, [42])
    others = await store(memory, [40], namespace="100% kept")
    await retention.add_hold(memory.database, RetentionHold(name="a", where={"case": 7}))
    await retention.add_hold(memory.database, RetentionHold(name="b", namespace="100% kept"))
    await rule(memory, max_age="30 days")
    (outcome,) = await retention.run(memory)
    assert (outcome.deleted, outcome.held) == (1, 3)
    assert gone[0] not in left(look)
    assert others[0] in left(look)


async def test_a_hold_is_stored_once_the_batch_at_hand_has_ended(
    memory: Memory, dsn: str, look: Look
) -> None:
    ids = await store(memory, [40, 41])
    await rule(memory, max_age="30 days")
    with psycopg.connect(dsn) as other:  # somebody keeps the batch from ending
        other.execute("SELECT FROM events WHERE id = %s FOR UPDATE", [ids[0]])
        running = asyncio.create_task(retention.run(memory))
        await until(look, "SELECT count(*) > 0 AS yes FROM pg_locks WHERE NOT granted")
        hold = RetentionHold(name="all")
        holding = asyncio.create_task(retention.add_hold(memory.database, hold))
        await until(look, "SELECT count(*) > 1 AS yes FROM pg_locks WHERE NOT granted")
        other.rollback()
        (outcome,) = await running
        await holding
    assert outcome.deleted == 2
    await store(memory, [50])
    (outcome,) = await retention.run(memory)
    assert (outcome.deleted, outcome.held) == (0, 1)


async def test_a_rule_that_is_off_is_applied_by_its_name_only(memory: Memory, look: Look) -> None:
    await store(memory, [40])
    await rule(memory, max_age="30 days", enabled=False)
    assert await retention.run(memory) == []
    assert len(left(look)) == 1
    (outcome,) = await retention.run(memory, Options(rule="r"))
    assert outcome.deleted == 1


async def test_rules_and_holds_are_told_as_they_were_given(memory: Memory) -> None:
    given = RetentionRule(
        name="été", namespace="n", where={"a": {"$gte": 1.5}}, max_age="2 years", keep_last=3,
        keep_per="session", enabled=False,
    )  # fmt: skip
    hold = RetentionHold(name="h", where={"b": "ü"}, reason="because")
    await retention.add_rule(memory.database, given)
    await retention.add_hold(memory.database, hold)
    state = await retention.state(memory)
    assert state.rules == [given]
    assert state.holds == [hold]
    assert state.partitions_older_than is None


@pytest.mark.parametrize("name", ["r", "partitions", "older-than", "forget"])
async def test_names_that_are_taken(memory: Memory, name: str) -> None:
    await rule(memory, max_age="1 day")
    with pytest.raises(InvalidInputError) as caught:
        await retention.add_rule(memory.database, RetentionRule(name=name, keep_last=1))
    assert caught.value.field == "name"
    assert len((await retention.state(memory)).rules) == 1


async def test_filters_that_are_none(memory: Memory) -> None:
    where = {"a": {"$near": 1}}
    with pytest.raises(InvalidFilterError):
        await rule(memory, max_age="1 day", where=where)
    with pytest.raises(InvalidFilterError):
        await retention.add_hold(memory.database, RetentionHold(name="h", where=where))
    state = await retention.state(memory)
    assert (state.rules, state.holds) == ([], [])


async def test_names_that_nobody_knows(memory: Memory) -> None:
    with pytest.raises(RetentionNotFoundError):
        await retention.remove_rule(memory.database, "no")
    with pytest.raises(RetentionNotFoundError):
        await retention.remove_hold(memory.database, "no")
    for name in ("no", "partitions"):
        with pytest.raises(RetentionNotFoundError):
            await retention.run(memory, Options(rule=name))


async def test_a_worker_applies_the_rules(settings: Settings, look: Look) -> None:
    often = settings.model_copy(update={"retention": RetentionSettings(check_seconds=0.1)})
    async with Memory.open(often) as memory:
        await rule(memory, max_age="30 days")
        await memory.add(NewEvent(timestamp=NOW - timedelta(days=40), content={"text": "old"}))
        await memory.add(NewEvent(content={"text": "new"}))
        async with running_worker(memory):
            await until(look, "SELECT count(*) = 1 AS yes FROM events")
            await until(look, "SELECT count(*) = 1 AS yes FROM retention_log "
                        "WHERE finished_at IS NOT NULL")  # fmt: skip
    assert look("SELECT text FROM events") == [{"text": "new"}]
