"""Spans of partitions: they follow each other without gaps, and hold what they should."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mnemolite.partitions import Interval, Range, following, partition_name, ranges, start_of

INTERVALS: tuple[Interval, ...] = ("day", "week", "month", "quarter", "year")
moments = st.datetimes(
    min_value=datetime(2, 1, 1), max_value=datetime(9990, 1, 1), timezones=st.just(UTC)
)


@given(moments, st.sampled_from(INTERVALS))
def test_an_interval_holds_its_moment_and_no_other_does(
    moment: datetime, interval: Interval
) -> None:
    start = start_of(moment, interval)
    end = following(start, interval)
    assert Range(start, end).holds(moment)
    assert start_of(start, interval) == start
    assert start_of(end, interval) == end
    assert start_of(end - timedelta(microseconds=1), interval) == start
    assert following(end, interval, steps=-1) == start


@given(moments, st.sampled_from(INTERVALS), st.integers(0, 40))
def test_ranges_follow_each_other(since: datetime, interval: Interval, days: int) -> None:
    until = since + timedelta(days=days)
    spans = list(ranges(since, until, by=interval))
    assert [span.until for span in spans[:-1]] == [span.since for span in spans[1:]]
    if days:
        assert spans[0].holds(since)
        assert spans[-1].holds(until - timedelta(microseconds=1))
    else:
        assert spans == []


@pytest.mark.parametrize(
    ("interval", "start"),
    [
        ("day", datetime(2026, 11, 25, tzinfo=UTC)),
        ("week", datetime(2026, 11, 23, tzinfo=UTC)),
        ("month", datetime(2026, 11, 1, tzinfo=UTC)),
        ("quarter", datetime(2026, 10, 1, tzinfo=UTC)),
        ("year", datetime(2026, 1, 1, tzinfo=UTC)),
    ],
)
def test_calendar(interval: Interval, start: datetime) -> None:
    assert start_of(datetime(2026, 11, 25, 21, 30, tzinfo=UTC), interval) == start


def test_moments_are_read_in_utc() -> None:
    east = datetime.fromisoformat("2026-01-01T00:30:00+02:00")
    assert start_of(east, "year") == datetime(2025, 1, 1, tzinfo=UTC)


def test_the_end_of_time_is_an_error_of_its_own() -> None:
    with pytest.raises(OverflowError, match="9999"):
        following(datetime(9999, 12, 5, tzinfo=UTC), "month")


def test_spans_that_meet() -> None:
    first, second = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 2, 1, tzinfo=UTC)
    assert Range(None, second).meets(Range(first, None))
    assert not Range(None, first).meets(Range(first, second))
    assert Range(first, second).meets(Range(None, None))


def test_names_tell_the_beginning() -> None:
    assert partition_name("events", datetime(2026, 3, 1, tzinfo=UTC)) == "events_p20260301"
