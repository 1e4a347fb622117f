"""Partitions that are over go as a whole, with all that was derived from their events."""

from datetime import UTC, datetime, timedelta

from mnemolite import retention
from mnemolite.memory import Memory
from mnemolite.retention import Options
from tests.integration.retention.conftest import Look, assert_consistent, month


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
