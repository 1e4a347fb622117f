"""Spans of time: joined, what they leave, and as conditions."""

from datetime import UTC, datetime

from psycopg import sql

from mnemolite.partitions import Range, joined, rest, within

ONE, TWO, THREE = (datetime(2026, month, 1, tzinfo=UTC) for month in (1, 2, 3))
COLUMN = sql.SQL("at")


def test_what_adjoins_is_one() -> None:
    assert joined([Range(ONE, TWO), Range(TWO, THREE)]) == [Range(ONE, THREE)]
    assert joined([Range(None, ONE), Range(TWO, THREE)]) == [Range(None, ONE), Range(TWO, THREE)]
    assert joined([]) == []


def test_the_rest_of_time() -> None:
    assert rest([]) == [Range(None, None)]
    assert rest([Range(None, None)]) == []
    assert rest([Range(None, ONE), Range(TWO, None)]) == [Range(ONE, TWO)]
    assert rest([Range(ONE, TWO)]) == [Range(None, ONE), Range(TWO, None)]


def test_conditions_are_half_open_constants() -> None:
    condition = within([Range(ONE, TWO), Range(THREE, None)], COLUMN).as_string()
    assert condition == (
        "((at >= '2026-01-01 00:00:00+00:00'::timestamptz "
        "AND at < '2026-02-01 00:00:00+00:00'::timestamptz) "
        "OR (at >= '2026-03-01 00:00:00+00:00'::timestamptz))"
    )
    assert within([Range(None, None)], COLUMN).as_string() == "(true)"
