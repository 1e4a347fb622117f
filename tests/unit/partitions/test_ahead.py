"""Which partitions there should be, and what is missing of them."""

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from mnemolite.partitions.ahead import gaps, wanted
from mnemolite.partitions.ranges import Range


def day(number: int) -> datetime:
    return datetime(2026, 1, number, tzinfo=UTC)


def test_this_interval_and_those_ahead() -> None:
    spans = wanted(datetime(2026, 11, 25, 23, 59, tzinfo=UTC), by="month", premake=2)
    months = [(span.since.year, span.since.month) for span in spans if span.since]
    assert months == [(2026, 11), (2026, 12), (2027, 1)]
    assert spans[-1].until == datetime(2027, 2, 1, tzinfo=UTC)


def test_nothing_is_wanted_beyond_the_calendar() -> None:
    assert wanted(datetime(9999, 12, 31, tzinfo=UTC), by="month", premake=1) == []


def test_gaps_between_before_and_behind() -> None:
    span = Range(day(5), day(20))
    assert list(gaps(span, [])) == [span]
    assert list(gaps(span, [span])) == []
    assert list(gaps(span, [Range(None, None)])) == []
    assert list(gaps(span, [Range(None, day(7))])) == [Range(day(7), day(20))]
    assert list(gaps(span, [Range(day(7), None)])) == [Range(day(5), day(7))]
    held = [Range(day(18), day(25)), Range(day(1), day(6)), Range(day(8), day(9))]
    assert list(gaps(span, held)) == [Range(day(6), day(8)), Range(day(9), day(18))]


@given(
    st.lists(st.tuples(st.integers(1, 31), st.integers(1, 31)), max_size=6),
    st.integers(1, 30),
    st.integers(1, 15),
)
def test_every_day_is_in_a_gap_or_held(
    bounds: list[tuple[int, int]], first: int, length: int
) -> None:
    span = Range(day(first), day(min(31, first + length)))
    reached, held = 0, []
    for since, until in sorted(bounds):  # partitions never overlap
        if reached <= since < until:
            held.append(Range(day(since), day(until)))
            reached = until
    found = list(gaps(span, held))
    for number in range(1, 32):
        of_gaps = sum(gap.holds(day(number)) for gap in found)
        is_held = any(each.holds(day(number)) for each in held)
        assert of_gaps == (span.holds(day(number)) and not is_held)
