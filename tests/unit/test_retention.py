"""Ages, rules, and what is to be forgotten: what is taken and what is refused."""

from typing import Any

import pytest
from pydantic import ValidationError

from mnemolite.models import ForgetQuery, RetentionHold, RetentionRule, parse_age


@pytest.mark.parametrize(
    ("given", "age"),
    [
        ("24 months", "24 months"),
        ("1 month", "1 month"),
        ("2 years", "24 months"),
        ("1y", "12 months"),
        ("90 days", "90 days"),
        ("30d", "30 days"),
        ("2w", "14 days"),
        ("1 WEEK", "7 days"),
        (" 12h ", "12 hours"),
        ("100 years", "1200 months"),
    ],
)
def test_ages(given: str, age: str) -> None:
    assert parse_age(given) == age
    assert parse_age(age) == age


@pytest.mark.parametrize(
    "given",
    ["0 days", "-1 days", "101 years", "36501 days", "9999999 months", "24", "months", "1.5 days",
     "", "1 month 2 days", "1 decade", "\u0661 day", "1 day; DROP TABLE events", 24, "\x00 days",
     "99999999999999999999 days", "5 m"],
)  # fmt: skip
def test_what_is_no_age(given: object) -> None:
    with pytest.raises(ValidationError, match="max_age"):
        RetentionRule.model_validate({"name": "r", "max_age": given, "keep_last": 1})


@pytest.mark.parametrize(
    "fields",
    [
        {"name": "r"},
        {"name": "", "max_age": "1 day"},
        {"name": "r" * 201, "max_age": "1 day"},
        {"name": "r\x00", "max_age": "1 day"},
        {"name": "r\ud800", "max_age": "1 day"},
        {"name": "r", "keep_last": 0},
        {"name": "r", "keep_last": -1},
        {"name": "r", "keep_last": 10**13},
        {"name": "r", "keep_last": 1, "keep_per": "user"},
        {"name": "r", "keep_last": 1, "where": "user"},
        {"name": "r", "keep_last": 1, "namespace": ""},
        {"name": "r", "max_age": "1 day", "unknown": 1},
    ],
)
def test_what_is_no_rule(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        RetentionRule.model_validate(fields)


def test_only_age_takes_whole_partitions() -> None:
    assert RetentionRule(name="r", max_age="1 day").takes_all
    assert not RetentionRule(name="r", max_age="1 day", namespace="n").takes_all
    assert not RetentionRule(name="r", max_age="1 day", where={"a": 1}).takes_all
    assert not RetentionRule(name="r", max_age="1 day", keep_last=1).takes_all


@pytest.mark.parametrize("reason", ["\x00", "\udfff", "r" * 2001, 7])
def test_what_is_no_reason(reason: object) -> None:
    with pytest.raises(ValidationError, match="reason"):
        RetentionHold.model_validate({"name": "h", "reason": reason})


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"where": {}},
        {"where": None, "namespace": None},
        {"since": "2020-01-01"},
        {"since": "2020-01-02T00:00:00Z", "until": "2020-01-01T00:00:00Z"},
        {"namespace": ""},
        {"where": []},
    ],
)
def test_nothing_is_forgotten_without_a_condition(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ForgetQuery.model_validate(fields)
