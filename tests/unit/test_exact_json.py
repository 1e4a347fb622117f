"""JSON whose numbers stay as they are written."""

import json
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mnemolite import exact_json

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"])), inner),
)  # fmt: skip


@given(VALUES)
def test_what_json_holds_comes_back(value: object) -> None:
    text = json.dumps(value)
    assert json.loads(exact_json.dumps(exact_json.loads(text))) == value


@given(st.decimals(allow_nan=False, allow_infinity=False))
def test_every_digit_of_a_number_is_kept(number: Decimal) -> None:
    written = json.loads(
        exact_json.dumps(exact_json.loads(f"[{number}]")), parse_float=Decimal, parse_int=Decimal
    )[0]
    if written.is_finite() and abs(number) < Decimal("1e308"):
        assert written.as_tuple() == number.as_tuple()


@pytest.mark.parametrize("text", ["1.10", "1.0", "100", "-0.0", "12345678901234567890123", "0.1"])
def test_numbers_are_written_as_they_were(text: str) -> None:
    assert exact_json.dumps(exact_json.loads(text)) == text


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "", "{", "[1,]", "9" * 5000])
def test_what_is_no_json_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 (JSON's own error is one of several)
        exact_json.loads(text)


def test_keys_can_be_sorted() -> None:
    assert exact_json.dumps({"b": {"d": 1, "c": 2}, "a": 0}, sort_keys=True) == (
        '{"a":0,"b":{"c":2,"d":1}}'
    )
