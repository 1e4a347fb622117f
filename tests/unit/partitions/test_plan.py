"""Which partitions follow from a plan, the rows and the clock."""

from datetime import UTC, datetime

from mnemolite.partitions.plan import DEFAULT, Part, Plan, attached, divided, premade
from mnemolite.partitions.ranges import Range


def day(year: int, month: int = 1, number: int = 1, hour: int = 0) -> datetime:
    return datetime(year, month, number, hour, tzinfo=UTC)


NOW = day(2026, 11, 25)


def suffixes(parts: list[Part]) -> list[str]:
    return [part.suffix for part in parts]


def test_the_old_table_ends_with_the_current_interval() -> None:
    parts = attached("month", NOW, latest=day(2026, 11, 24), premake=2)
    assert parts[0] == Part("legacy", Range(None, day(2026, 12)))
    assert suffixes(parts[1:]) == ["p20261201", "p20270101", "default"]


def test_the_bound_leaves_room_for_clocks_that_differ() -> None:
    parts = attached("month", day(2026, 11, 30, 23).replace(minute=30), latest=None, premake=1)
    assert parts[0].range == Range(None, day(2027))


def test_the_bound_lies_beyond_the_latest_row() -> None:
    parts = attached("month", NOW, latest=day(2500, 5, 3), premake=4)
    assert parts == [Part("legacy", Range(None, day(2500, 6))), DEFAULT]


def test_after_the_last_year_there_is_no_bound() -> None:
    parts = attached("year", NOW, latest=day(9999, 12, 31), premake=4)
    assert parts == [Part("legacy", Range(None, None)), DEFAULT]


def test_only_intervals_with_rows_get_partitions() -> None:
    filled = [day(1999, 3), day(2026, 10), day(2026, 11), day(2500, 5)]
    parts = divided("month", NOW, filled=filled, premake=1, at_most=400)
    assert suffixes(parts) == ["p19990301", "p20261001", "p20261101", "p20261201", "default"]


def test_the_newest_are_kept_where_there_would_be_too_many() -> None:
    filled = [day(year) for year in range(1900, 2026)]
    parts = divided("year", NOW, filled=filled, premake=1, at_most=4)
    assert suffixes(parts) == ["p20240101", "p20250101", "p20260101", "p20270101", "default"]
    parts = divided("year", NOW, filled=filled, premake=4, at_most=4)
    assert suffixes(parts)[0] == "p20260101"


def test_premade_begins_with_the_current_interval() -> None:
    spans = premade("quarter", NOW, count=1)
    assert spans == [Range(day(2026, 10), day(2027)), Range(day(2027), day(2027, 4))]


def test_parts_come_back_as_they_were_stored() -> None:
    parts = attached("week", NOW, latest=None, premake=3)
    assert [Part.of(part.as_json()) for part in parts] == parts


def test_vectors_can_stay_in_one_table() -> None:
    plan = Plan(embeddings_interval="none")
    assert plan.interval_of("events") == "month"
    assert plan.interval_of("embeddings_1") is None
