"""The boosts: what wishes and dates make of a score."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mnemolite.boosts import (
    AFTERGLOW,
    DATES_BOOST,
    RECENCY_SHARE,
    Facts,
    boosts,
    dates_boost,
    importance_boost,
    narrowed,
    recency_boost,
)
from mnemolite.models import SearchQuery
from mnemolite.moments import Moment

NOW = datetime(2026, 11, 18, tzinfo=UTC)
DAY = 86_400.0
MAY = Moment("in May", datetime(2026, 5, 1, tzinfo=UTC), datetime(2026, 6, 1, tzinfo=UTC))
FACTS = Facts(np.array([NOW.timestamp()]), np.array([np.nan]))


def test_half_of_the_favour_is_gone_after_a_half_life() -> None:
    ages = np.array([0.0, 30 * DAY, 60 * DAY, 1e12])
    factors = recency_boost(ages, timedelta(days=30))
    lost = np.array([0, 1 / 2, 3 / 4, 1])
    assert factors == pytest.approx(1 - RECENCY_SHARE * lost)


def test_what_is_still_to_come_is_as_new_as_can_be() -> None:
    assert recency_boost(np.array([-DAY, -1e15]), timedelta(days=1)).tolist() == [1, 1]


@given(
    st.lists(st.floats(-1e12, 1e12), min_size=2, max_size=10),
    st.floats(60, 36_500 * DAY),
)
def test_an_older_event_never_gains(ages: list[float], seconds: float) -> None:
    factors = recency_boost(np.array(sorted(ages)), timedelta(seconds=seconds))
    assert (np.diff(factors) <= 0).all()
    assert ((factors >= 1 - RECENCY_SHARE) & (factors <= 1)).all()


def test_importance_counts_from_0_to_1() -> None:
    values = np.array([0.0, 0.5, 1.0, np.nan, 7.0, -3.0])
    assert importance_boost(values, 2.0).tolist() == [1, 2, 3, 1, 3, 1]


def test_a_date_favours_its_span_and_the_days_after() -> None:
    assert MAY.since is not None
    assert MAY.until is not None
    since, until, glow = MAY.since.timestamp(), MAY.until.timestamp(), AFTERGLOW.total_seconds()
    times = np.array([since - 1, since, until - 1, until, until + glow / 2, until + glow, 1e11])
    gains = (dates_boost(times, [MAY]) - 1) / DATES_BOOST
    assert gains == pytest.approx([0, 1, 1, 1, 0.5, 0, 0])


def test_an_open_end_favours_nothing() -> None:
    times = np.array([0.0, 1e9])
    for moment in (Moment("since", MAY.since, None), Moment("before", None, MAY.until)):
        assert dates_boost(times, [moment]).tolist() == [1, 1]


def test_only_what_is_asked_for_is_a_boost() -> None:
    assert dict(boosts(SearchQuery(q="x"), FACTS, now=NOW, moments=())) == {}
    everything = SearchQuery(q="x", recency_half_life=timedelta(days=1), importance=1)
    assert boosts(everything, FACTS, now=NOW, moments=[MAY]).keys() == {
        "dates",
        "recency",
        "importance",
    }
    for dates in ("filter", "ignore"):
        query = SearchQuery.model_validate({"q": "x", "dates": dates})
        assert dict(boosts(query, FACTS, now=NOW, moments=[MAY])) == {}


def test_a_filter_is_the_intersection_with_since_and_until() -> None:
    query = SearchQuery(q="x", dates="filter", since=datetime(2026, 5, 20, tzinfo=UTC))
    bounded = narrowed(query, [MAY])
    assert (bounded.since, bounded.until) == (query.since, MAY.until)
    year = Moment("2024", datetime(2024, 1, 1, tzinfo=UTC), datetime(2025, 1, 1, tzinfo=UTC))
    both = narrowed(SearchQuery(q="x", dates="filter"), [MAY, year])
    assert (both.since, both.until) == (year.since, MAY.until)
    before = narrowed(SearchQuery(q="x", dates="filter"), [Moment("before", None, MAY.until)])
    assert (before.since, before.until) == (None, MAY.until)
    assert narrowed(SearchQuery(q="x"), [MAY]) == SearchQuery(q="x")
