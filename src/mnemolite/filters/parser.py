"""Reads a filter from decoded JSON, and says of a bad one what is wrong, where, and what to do."""

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from functools import partial
from typing import NamedTuple

from mnemolite.errors import InvalidFilterError
from mnemolite.filters.tree import (
    ORDERS,
    And,
    Compare,
    Contains,
    Exists,
    Filter,
    Json,
    Not,
    OneOf,
    Or,
    Path,
    exact,
)

MAX_DEPTH = 8
MAX_CONDITIONS = 100
MAX_LIST = 1000
MAX_SEGMENTS = 16
MAX_PATH = 500
MAX_DIGITS = 1000  # on either side of the decimal point; PostgreSQL's numeric ends later

_SHOWN = 80
_SEGMENT = re.compile(r"(?:[^.\\]|\\[.\\])+")
_PATH = re.compile(rf"{_SEGMENT.pattern}(?:\.{_SEGMENT.pattern})*")
_UNSTORABLE = re.compile("[\0\ud800-\udfff]")


def parse(where: object, *, field: str = "where") -> Filter:
    """The filter that decoded JSON describes; None and ``{}`` match everything.

    Raises InvalidFilterError, whose ``field`` is the path of what is wrong: ``where.age.$gt``.
    """
    everything = where is None or where == {}
    return And(()) if everything else _Parser().filter(_Piece(where, field), depth=1)


class _Piece(NamedTuple):
    """A part of what came in, and where it stands."""

    raw: object
    at: str

    def refusal(self, detail: str, remedy: str | None = None) -> InvalidFilterError:
        return InvalidFilterError(detail, field=self.at, remedy=remedy)

    def entries(self) -> list[tuple[str, "_Piece"]]:
        if not isinstance(self.raw, Mapping):
            raise self.refusal("An object is expected.")
        pieces = [(key, _Piece(value, self._below(key))) for key, value in self.raw.items()]
        self._check_length(pieces)
        return [(_text(_Piece(key, piece.at)), piece) for key, piece in pieces]

    def items(self) -> list["_Piece"]:
        if not isinstance(self.raw, list | tuple):
            raise self.refusal("A list is expected.")
        self._check_length(self.raw)
        return [_Piece(item, f"{self.at}[{i}]") for i, item in enumerate(self.raw)]

    def _check_length(self, values: Sequence[object]) -> None:
        if len(values) > MAX_LIST:
            raise self.refusal(f"A list or an object may hold {MAX_LIST} values.")

    def _below(self, key: object) -> str:
        """The place of a key, fit to be shown whatever the key holds."""
        shown = _UNSTORABLE.sub(lambda bad: f"\\u{ord(bad[0]):04x}", str(key)[:_SHOWN])
        return f"{self.at}.{shown}…" if len(str(key)) > _SHOWN else f"{self.at}.{shown}"


class _Parser:
    """Reads one filter, and counts its conditions on the way."""

    def __init__(self) -> None:
        self.conditions = 0

    def filter(self, piece: _Piece, *, depth: int) -> Filter:
        parts = [self.entry(key, value, depth=depth) for key, value in _level(piece, depth)]
        return _all(parts)

    def entry(self, key: str, piece: _Piece, *, depth: int) -> Filter:
        if key == "$not":
            return Not(self.filter(piece, depth=depth + 1))
        if key in LOGICAL:
            return self.branches(key, piece, depth=depth + 1)
        if key.startswith("$"):
            raise _unknown(key, piece, known=LOGICAL)
        path = _path(key, piece)
        if _speaks_operators(piece):
            return self.operations(path, piece, depth=depth)
        return self.condition("$eq", piece, path=path)

    def branches(self, key: str, piece: _Piece, *, depth: int) -> Filter:
        items = piece.items()
        if not items:
            raise piece.refusal("The list is empty.", "Leave it out, or put a filter in it.")
        parts = [self.filter(item, depth=depth) for item in items]
        return _all(parts) if key == "$and" else Or(tuple(parts))

    def operations(self, path: Path, piece: _Piece, *, depth: int) -> Filter:
        parts: list[Filter] = []
        for name, operand in _level(piece, depth):
            if name == "$not":
                if not _speaks_operators(operand):
                    remedy = "Write $ne to exclude a value."
                    raise operand.refusal("$not takes an object of operators.", remedy)
                parts.append(Not(self.operations(path, operand, depth=depth + 1)))
            else:
                parts.append(self.condition(name, operand, path=path))
        return _all(parts)

    def condition(self, name: str, operand: _Piece, *, path: Path) -> Filter:
        if name not in _CONDITIONS:
            raise _unknown(name, operand, known=OPERATORS)
        self.conditions += 1
        if self.conditions > MAX_CONDITIONS:
            detail = f"A filter may hold {MAX_CONDITIONS} conditions."
            raise operand.refusal(detail, "Use $in for a list of values.")
        return _CONDITIONS[name](path, operand)


def _level(piece: _Piece, depth: int) -> list[tuple[str, _Piece]]:
    if depth > MAX_DEPTH:
        raise piece.refusal(f"A filter may nest {MAX_DEPTH} levels deep.")
    entries = piece.entries()
    if not entries:
        raise piece.refusal("The object is empty.", "Leave it out, or name a field in it.")
    return entries


def _all(parts: Sequence[Filter]) -> Filter:
    return parts[0] if len(parts) == 1 else And(tuple(parts))


# --- Conditions ---------------------------------------------------------------------------------


def _equals(path: Path, operand: _Piece) -> Filter:
    return OneOf(path, (_value(operand),))


def _one_of(path: Path, operand: _Piece) -> Filter:
    return OneOf(path, tuple(map(_value, operand.items())))


def _compare(path: Path, operand: _Piece, *, order: str) -> Filter:
    value = _value(operand)
    if value is None or isinstance(value, tuple | Mapping):
        raise operand.refusal(f"{order} takes a number, a string or a boolean.")
    return Compare(path, order, value)


def _contains(path: Path, operand: _Piece) -> Filter:
    value = _value(operand)
    if isinstance(value, tuple | Mapping) and not value:
        remedy = "Use $exists to ask whether there is a value."
        raise operand.refusal("$contains takes a value, or a list or an object of some.", remedy)
    return Contains(path, value)


def _exists(path: Path, operand: _Piece) -> Filter:
    if not isinstance(operand.raw, bool):
        raise operand.refusal("$exists takes true or false.")
    return Exists(path) if operand.raw else Not(Exists(path))


_CONDITIONS: dict[str, Callable[[Path, _Piece], Filter]] = {
    "$eq": _equals,
    "$ne": lambda path, operand: Not(_equals(path, operand)),
    **{order: partial(_compare, order=order) for order in ORDERS},
    "$in": _one_of,
    "$nin": lambda path, operand: Not(_one_of(path, operand)),
    "$exists": _exists,
    "$contains": _contains,
}
LOGICAL = ("$and", "$or", "$not")
OPERATORS = (*_CONDITIONS, "$not")


def _speaks_operators(piece: _Piece) -> bool:
    """Whether this is an object of operators, or else a value; never a mixture of both."""
    if not isinstance(piece.raw, Mapping):
        return False
    names = [name for name, _ in piece.entries()]
    if all(f"${name}" in OPERATORS for name in names):  # so it is when there are none
        meant = f"${names[0]}" if names else "$gt"
        remedy = f"Write an operator as {meant}, or $eq before an object that is to be equal."
        raise piece.refusal("The object holds no operator.", remedy)
    plain = [name for name in names if not name.startswith("$")]
    if plain and len(plain) < len(names):
        remedy = "Write a dotted path to reach inside, or $eq before an object to be equal."
        raise piece.refusal("Operators and keys stand side by side.", remedy)
    return not plain


def _unknown(name: str, piece: _Piece, *, known: Sequence[str]) -> InvalidFilterError:
    valid = ", ".join(known)
    if name in OPERATORS:
        remedy = f'Write it inside a field, as in {{"age": {{"{name}": …}}}}. Valid here: {valid}.'
    elif name in LOGICAL:
        remedy = f"Write it around the field. Valid here: {valid}."
    else:
        near = difflib.get_close_matches(name[:_SHOWN], known, n=1, cutoff=0.5)
        remedy = (f"Did you mean {near[0]}? " if near else "") + f"Valid here: {valid}."
    return piece.refusal("This operator is not known here.", remedy)


# --- Paths and values ---------------------------------------------------------------------------


def _path(key: str, piece: _Piece) -> Path:
    if len(key) > MAX_PATH:
        raise piece.refusal(f"A path may hold {MAX_PATH} characters.")
    if not _PATH.fullmatch(key):
        detail = "The path has an empty segment, or a backslash that escapes nothing."
        raise piece.refusal(detail, r"Write \. for a dot and \\ for a backslash inside a key.")
    segments = [re.sub(r"\\(.)", r"\1", segment) for segment in _SEGMENT.findall(key)]
    root = segments.pop(0) if segments[0] in ("content", "metadata") else "metadata"
    if not segments:
        remedy = f"Write {root}.key for a key of the {root}, metadata.{root} for metadata's own."
        raise piece.refusal(f"{root} alone names a whole document.", remedy)
    if len(segments) > MAX_SEGMENTS:
        raise piece.refusal(f"A path may hold {MAX_SEGMENTS} segments.")
    return Path(root, tuple(segments))


def _value(piece: _Piece, *, depth: int = 0) -> Json:
    """A copy of a JSON value that PostgreSQL can hold, and that nobody else can change."""
    if depth > MAX_DEPTH:
        raise piece.refusal(f"A value may nest {MAX_DEPTH} levels deep.")
    raw = piece.raw
    if raw is None or isinstance(raw, bool):
        return raw
    if isinstance(raw, str):
        return _text(piece)
    if isinstance(raw, int | float | Decimal):
        return _number(raw, piece)
    if isinstance(raw, list | tuple):
        return tuple(_value(item, depth=depth + 1) for item in piece.items())
    if isinstance(raw, Mapping):
        return {key: _value(value, depth=depth + 1) for key, value in piece.entries()}
    detail = f"A {type(raw).__name__} is not JSON."
    raise piece.refusal(detail, "Write a date as an ISO 8601 string.")


def _text(piece: _Piece) -> str:
    if not isinstance(piece.raw, str):
        raise piece.refusal("A key must be a string.")
    if bad := _UNSTORABLE.search(piece.raw):
        detail = f"The text holds U+{ord(bad[0]):04X}, which cannot be stored."
        raise piece.refusal(detail, "Remove the character.")
    return str.__str__(piece.raw)  # an enum's value, not its name


def _number(raw: int | float | Decimal, piece: _Piece) -> int | Decimal:
    number = Decimal(exact(raw))
    exponent = number.as_tuple().exponent
    if not isinstance(exponent, int):
        raise piece.refusal("A number must be finite.")
    if number.adjusted() >= MAX_DIGITS or exponent < -MAX_DIGITS:
        raise piece.refusal(f"A number may hold {MAX_DIGITS} digits before or after its point.")
    return int(raw) if isinstance(raw, int) else number
