"""The rule of thumb, on figures."""

from typing import Any

import pytest

from mnemolite.models import PartitionFigures
from mnemolite.partitions.advice import advise, embeddings_interval_for, interval_for


def figures(**changes: Any) -> PartitionFigures:
    usual: dict[str, Any] = {
        "mode": "unpartitioned",
        "events": 800_000,
        "threshold": 500_000,
        "events_per_month": 150_000,
        "first_timestamp": None,
        "last_timestamp": None,
        "searches": 0,
        "bounded_searches": 0,
        "interval": None,
        "retention": None,
    }
    return PartitionFigures(**usual | changes)


def test_a_small_memory_stays_as_it_is() -> None:
    advice = advise(figures(events=499_999))
    assert (advice.verdict, advice.command) == ("stay", None)
    assert "reached in about 1 months" in advice.reasons[1]
    assert "more than 6 months away" in advise(figures(events=5, events_per_month=9)).reasons[1]


def test_a_large_memory_is_partitioned() -> None:
    advice = advise(figures(events=500_000))
    assert advice.verdict == "enable"
    assert advice.command == (
        "mnemolite partitions enable --interval month --embeddings-interval year"
    )
    assert "cannot be told" in advice.reasons[2]


@pytest.mark.parametrize(
    ("searches", "bounded", "verdict", "embeddings"),
    [(19, 0, "enable", "year"), (20, 3, "optional", "none"), (20, 4, "enable", "year")],
)
def test_searches_without_bounds_weigh_against_it(
    searches: int, bounded: int, verdict: str, embeddings: str
) -> None:
    advice = advise(figures(searches=searches, bounded_searches=bounded))
    assert advice.verdict == verdict
    assert advice.command is not None
    assert advice.command.endswith(f"--embeddings-interval {embeddings}")


def test_partitions_that_only_cost_are_given_up() -> None:
    small = {"mode": "partitioned", "events": 249_999, "interval": "month"}
    advice = advise(figures(**small))
    assert (advice.verdict, advice.command) == ("disable", "mnemolite partitions disable")
    assert advise(figures(**small, retention="24 mons")).verdict == "keep"
    assert advise(figures(**small | {"events": 250_000})).verdict == "keep"


def test_partitions_of_another_length_are_named() -> None:
    kept = {"mode": "partitioned", "interval": "month"}
    assert not any("would fit" in reason for reason in advise(figures(**kept)).reasons)
    grown = advise(figures(**kept, events_per_month=5_000_000))
    assert any("each week would fit" in reason for reason in grown.reasons)


@pytest.mark.parametrize(
    ("growth", "interval", "embeddings"),
    [
        (0, "year", "year"),
        (20_001, "quarter", "year"),
        (150_000, "month", "year"),
        (500_000, "month", "quarter"),
        (3_000_000, "week", "month"),
        (9_000_000, "day", "month"),
    ],
)
def test_the_interval_follows_the_growth(growth: int, interval: str, embeddings: str) -> None:
    assert interval_for(growth) == interval
    assert embeddings_interval_for(growth, None) == embeddings
    assert embeddings_interval_for(growth, 0.1) == "none"
