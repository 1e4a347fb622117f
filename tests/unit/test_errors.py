"""Errors: a stable code and a status each, and a message that says what and where."""

import inspect

import pytest

from mnemolite import errors
from mnemolite.errors import InvalidInputError, MnemoliteError

CLASSES = [
    value
    for value in vars(errors).values()
    if inspect.isclass(value) and issubclass(value, MnemoliteError)
]
SUBCLASSES = [kind for kind in CLASSES if kind is not MnemoliteError]


@pytest.mark.parametrize("kind", CLASSES)
def test_a_class_stands_for_itself(kind: type[MnemoliteError]) -> None:
    assert "code" in vars(kind), "a code that is inherited says nothing"
    assert kind.code == kind.code.lower().replace(" ", "_").replace("-", "_")
    assert 400 <= kind.status <= 599
    message = vars(kind).get("__doc__") or ""
    assert message.split("\n")[0].endswith(".")
    error = kind()
    assert error.detail == message
    assert str(error) == " ".join(filter(None, [message, kind.usual_remedy]))
    assert error.title == message.rstrip(".")


def test_codes_are_unique() -> None:
    codes = [kind.code for kind in CLASSES]
    assert sorted(set(codes)) == sorted(codes)


def test_there_are_errors_on_both_sides() -> None:
    assert {kind.status // 100 for kind in SUBCLASSES} == {4, 5}


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({}, "The request is not valid."),
        ({"detail": "No."}, "No."),
        ({"detail": "No.", "field": "a.b"}, "a.b: No."),
        ({"detail": "No.", "remedy": "Try yes."}, "No. Try yes."),
        ({"detail": "No.", "field": "a", "remedy": "Try yes."}, "a: No. Try yes."),
        ({"detail": "", "field": "a"}, "a: The request is not valid."),
    ],
)
def test_the_text_of_an_error(fields: dict[str, str], text: str) -> None:
    error = InvalidInputError(fields.get("detail"), field=fields.get("field"),
                              remedy=fields.get("remedy"))  # fmt: skip
    assert str(error) == text
    assert error.title == "The request is not valid"
