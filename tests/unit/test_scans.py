"""How vectors are scanned, by what the catalog says of their tables."""

from datetime import UTC, datetime

import pytest

from mnemolite.partitions import Leaf, Range
from mnemolite.scans import Reach, ef_search, exact_rows, passages_per_event, reach


def day(number: int) -> datetime:
    return datetime(2026, 3, number, tzinfo=UTC)


def leaf(since: int, until: int, *, indexed: bool, rows: int = 100) -> Leaf:
    span = Range(day(since), day(until))
    return Leaf(f"p{since}", "public", span, rows, True, pages=rows, indexed=indexed)


def default(*, indexed: bool = False, rows: int = 0) -> Leaf:
    return Leaf("default", "public", None, rows, True, pages=rows, indexed=indexed)


def table(rows: int) -> Reach:
    return Reach([Leaf("t", "public", ALL, rows, False)])


ALL = Range(None, None)


def test_small_tables_are_scanned_whole() -> None:
    assert exact_rows(-1) == exact_rows(0) == exact_rows(10_000) == 20_000


def test_in_large_tables_the_index_must_look_farther_for_rare_rows() -> None:
    assert exact_rows(1_000_000) == 150_000
    assert exact_rows(100_000_000) == 1_500_000


def test_a_plain_table_is_scanned_by_its_index_or_exactly() -> None:
    plain = Leaf("v", "public", ALL, 100, False, indexed=True)
    assert reach([plain], ALL).plan_by_index == "hnsw"
    assert reach([plain], ALL).spans() == ([ALL], [])
    without = Leaf("v", "public", ALL, 100, False)
    assert reach([without], ALL).plan_by_index == "exact"


def test_only_what_the_bounds_meet_is_reached() -> None:
    leaves = [leaf(1, 5, indexed=True), leaf(5, 9, indexed=True, rows=7), default(rows=2)]
    reached = reach(leaves, Range(day(5), day(6)))
    assert (reached.rows, reached.indexes) == (9, 1)
    assert reach(leaves, ALL).rows == 109


def test_the_plan_is_mixed_where_rows_lie_outside_any_index() -> None:
    old, new = leaf(1, 5, indexed=True), leaf(5, 9, indexed=False)
    assert reach([old, default()], ALL).plan_by_index == "hnsw"
    assert reach([old, new, default()], ALL).plan_by_index == "mixed"
    assert reach([old, default(rows=1)], ALL).plan_by_index == "mixed"
    assert reach([new, default()], ALL).plan_by_index == "exact"


@pytest.mark.parametrize(
    ("leaves", "under", "without"),
    [
        # Adjoining partitions are one span; what no range holds is in the default partition.
        (
            [leaf(1, 3, indexed=True), leaf(3, 5, indexed=True), leaf(5, 9, indexed=False)],
            [(1, 5)],
            [(None, 1), (5, None)],
        ),
        (
            [leaf(1, 3, indexed=True), leaf(5, 9, indexed=True), default()],
            [(1, 3), (5, 9)],
            [(None, 1), (3, 5), (9, None)],
        ),
        (
            [leaf(1, 3, indexed=False), leaf(3, 5, indexed=True), default(indexed=True)],
            [(None, 1), (3, None)],
            [(1, 3)],
        ),
    ],
)
def test_spans_under_an_index_and_the_rest_are_all_of_time(
    leaves: list[Leaf],
    under: list[tuple[int | None, int | None]],
    without: list[tuple[int | None, int | None]],
) -> None:
    def moment(number: int | None) -> datetime | None:
        return None if number is None else day(number)

    def ranges(pairs: list[tuple[int | None, int | None]]) -> list[Range]:
        return [Range(moment(since), moment(until)) for since, until in pairs]

    assert reach(leaves, ALL).spans() == (ranges(under), ranges(without))


def test_each_of_many_indexes_keeps_fewer_candidates_in_view() -> None:
    assert ef_search(1, with_words=False) == 1000
    for with_words in (True, False):
        kept = [ef_search(indexes, with_words=with_words) for indexes in (1, 4, 24, 60, 10_000)]
        assert kept == sorted(kept, reverse=True)
        assert kept[-1] == 40
        assert kept[0] > kept[1] > kept[2]


def test_what_words_look_for_too_needs_fewer_candidates() -> None:
    assert ef_search(1, with_words=True) == 400
    assert ef_search(24, with_words=True) < ef_search(24, with_words=False)


def test_passages_are_read_as_events_have_them() -> None:
    unknown, events, one_each, many = (table(rows) for rows in (0, 1000, 1100, 9000))
    assert passages_per_event(unknown, events) == passages_per_event(events, unknown) == 4
    assert passages_per_event(events, events) == 1.5
    assert passages_per_event(table(500), events) == 1.5
    assert passages_per_event(one_each, events) == pytest.approx(1.65)
    assert passages_per_event(many, events) == 4
