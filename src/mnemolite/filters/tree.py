"""The tree of a filter, and what it means to PostgreSQL and to Python: the same."""

import json
import operator
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from types import NoneType
from typing import TypeAlias

from psycopg import sql

# The index is asked once a value, and each row found is rechecked value by value.
INDEXED_VALUES = 100

Scalar: TypeAlias = bool | int | Decimal | str
Json: TypeAlias = "Scalar | tuple[Json, ...] | Mapping[str, Json] | None"
Event: TypeAlias = Mapping[str, Mapping[str, object]]

# --- JSON as PostgreSQL sees it -----------------------------------------------------------------

_MISSING = object()
_INDEX = re.compile(r"[ \t\n\v\f\r]*[+-]?[0-9]+")  # what PostgreSQL takes for an array's index
_KINDS = {
    "string": (str,),
    "boolean": (bool,),  # before numbers: Python's bool is an int
    "number": (int, float, Decimal),
    "null": (NoneType,),
    "array": (list, tuple),
    "object": (dict, Mapping),
}


def _kind(value: object) -> str:
    """The name that ``jsonb_typeof`` gives, or ``missing``."""
    return next((kind for kind, types in _KINDS.items() if isinstance(value, types)), "missing")


def exact(number: float | Decimal) -> int | Decimal:
    """A float as the decimal that its JSON spells; an exact number as it is."""
    return Decimal(float.__repr__(number)) if isinstance(number, float) else number


def _plain(value: object) -> object:
    return exact(value) if isinstance(value, float) else value


def _equal(left: object, right: object) -> bool:
    if _kind(left) != _kind(right):
        return False
    if isinstance(left, Mapping) and isinstance(right, Mapping):
        return left.keys() == right.keys() and all(_equal(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple) and isinstance(right, list | tuple):
        return len(left) == len(right) and all(map(_equal, left, right))
    return _plain(left) == _plain(right)


def _covers(whole: object, part: object) -> bool:
    """jsonb's ``@>``: every member of the part is somewhere in the whole, level by level."""
    if isinstance(whole, Mapping) and isinstance(part, Mapping):
        return all(key in whole and _covers(whole[key], part[key]) for key in part)
    if isinstance(whole, list | tuple) and isinstance(part, list | tuple):
        return all(any(_covers(item, wanted) for item in whole) for wanted in part)
    return _equal(whole, part)


def _step(value: object, segment: str) -> object:
    if isinstance(value, Mapping):
        return value.get(segment, _MISSING)
    if isinstance(value, list | tuple) and _INDEX.fullmatch(segment):
        index = int(segment)
        return value[index] if -len(value) <= index < len(value) else _MISSING
    return _MISSING


# --- Values as SQL ------------------------------------------------------------------------------
# Values are literals quoted by psycopg, not parameters: so a filter is one piece that fits into
# any statement, and the planner sees its values. As psycopg does not double a literal's percent
# sign, none is ever written: the piece means the same beside parameters and without them.


def _dump(value: Json) -> str:
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{json.dumps(k)}:{_dump(v)}" for k, v in value.items()) + "}"
    if isinstance(value, tuple):
        return "[" + ",".join(map(_dump, value)) + "]"
    return str(value) if isinstance(value, Decimal) else json.dumps(value)


def _json_sql(value: Json) -> sql.Composable:
    return sql.SQL("{}::jsonb").format(sql.Literal(_dump(value).replace("%", "\\u0025")))


def _array_sql(values: Iterable[Json]) -> sql.Composable:
    return sql.SQL("ARRAY[{}]").format(sql.SQL(", ").join(map(_json_sql, values)))


def _text_sql(text: str) -> sql.Composable:
    if "%" not in text:
        return sql.Literal(text)
    pieces = map(sql.Literal, text.split("%"))
    return sql.SQL("({})").format(sql.SQL(" || chr(37) || ").join(pieces))


# --- The tree -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Path:
    """A place inside the ``content`` or the ``metadata`` of an event."""

    root: str
    segments: tuple[str, ...]

    @property
    def indexed(self) -> bool:
        """Whether the index on metadata knows this place; containment forgets array positions."""
        return self.root == "metadata" and not any(map(_INDEX.fullmatch, self.segments))

    def find(self, event: Event) -> object:
        value: object = event[self.root]
        for segment in self.segments:
            value = _step(value, segment)
        return value

    def to_sql(self, alias: str) -> sql.Composable:
        column, segments = sql.Identifier(alias, self.root), map(_text_sql, self.segments)
        return sql.SQL("({} #> ARRAY[{}]::text[])").format(column, sql.SQL(", ").join(segments))

    def contains_sql(self, values: Sequence[Json], alias: str) -> sql.Composable:
        """One of the values is contained here; said of the whole column where that is indexed."""
        if not self.indexed:
            found = self.to_sql(alias)
            return sql.SQL("(({} @> ANY ({})) IS TRUE)").format(found, _array_sql(values))
        column, nested = sql.Identifier(alias, self.root), [self._nest(value) for value in values]
        if len(nested) == 1:
            return sql.SQL("({} @> {})").format(column, _json_sql(nested[0]))
        return sql.SQL("({} @> ANY ({}))").format(column, _array_sql(nested))

    def _nest(self, value: Json) -> Json:
        for segment in reversed(self.segments):
            value = {segment: value}
        return value


class Filter(ABC):
    """A condition on events, as ``parse`` reads it."""

    @abstractmethod
    def to_sql(self, alias: str = "events") -> sql.Composable:
        """An expression that is true or false, never NULL or an error, with its values inside."""

    @abstractmethod
    def holds(self, event: Event) -> bool:
        """Whether ``{"content": …, "metadata": …}`` passes."""


@dataclass(frozen=True, slots=True)
class And(Filter):
    """All parts hold; without parts it matches everything."""

    parts: tuple[Filter, ...]

    def to_sql(self, alias: str = "events") -> sql.Composable:
        parts = [part.to_sql(alias) for part in self.parts] or [sql.SQL("TRUE")]
        return sql.SQL("({})").format(sql.SQL(" AND ").join(parts))

    def holds(self, event: Event) -> bool:
        return all(part.holds(event) for part in self.parts)


@dataclass(frozen=True, slots=True)
class Or(Filter):
    """At least one part holds."""

    parts: tuple[Filter, ...]

    def to_sql(self, alias: str = "events") -> sql.Composable:
        return sql.SQL("({})").format(sql.SQL(" OR ").join(p.to_sql(alias) for p in self.parts))

    def holds(self, event: Event) -> bool:
        return any(part.holds(event) for part in self.parts)


@dataclass(frozen=True, slots=True)
class Not(Filter):
    """The exact opposite of its part."""

    part: Filter

    def to_sql(self, alias: str = "events") -> sql.Composable:
        return sql.SQL("(NOT {})").format(self.part.to_sql(alias))

    def holds(self, event: Event) -> bool:
        return not self.part.holds(event)


@dataclass(frozen=True, slots=True)
class OneOf(Filter):
    """The value equals one of the given ones; what is missing equals null."""

    path: Path
    values: tuple[Json, ...]

    def to_sql(self, alias: str = "events") -> sql.Composable:
        found, values = self.path.to_sql(alias), _array_sql(self.values)
        if None in self.values:
            return sql.SQL("({0} IS NULL OR {0} = ANY ({1}))").format(found, values)
        equal = sql.SQL("(({} = ANY ({}::jsonb[])) IS TRUE)").format(found, values)
        if not (self.path.indexed and 0 < len(self.values) <= INDEXED_VALUES):
            return equal
        contained = self.path.contains_sql(self.values, alias)
        if not any(isinstance(value, tuple | Mapping) for value in self.values):
            return contained  # a scalar is contained only where it is equal
        return sql.SQL("({} AND {})").format(contained, equal)

    def holds(self, event: Event) -> bool:
        found = self.path.find(event)
        return any(_equal(None if found is _MISSING else found, value) for value in self.values)


ORDERS: dict[str, tuple[sql.SQL, Callable[..., bool]]] = {
    "$gt": (sql.SQL(">"), operator.gt),
    "$gte": (sql.SQL(">="), operator.ge),
    "$lt": (sql.SQL("<"), operator.lt),
    "$lte": (sql.SQL("<="), operator.le),
}


@dataclass(frozen=True, slots=True)
class Compare(Filter):
    """The value is of the operand's kind, and above or below it."""

    path: Path
    order: str
    operand: Scalar

    def to_sql(self, alias: str = "events") -> sql.Composable:
        found, kind = self.path.to_sql(alias), sql.Literal(_kind(self.operand))
        left, right = found, _json_sql(self.operand)
        if isinstance(self.operand, str):  # jsonb would order strings by the database's locale
            left = sql.SQL("({} #>> '{{}}') COLLATE \"C\"").format(found)
            right = _text_sql(self.operand)
        return sql.SQL("((jsonb_typeof({}) = {} AND {} {} {}) IS TRUE)").format(
            found, kind, left, ORDERS[self.order][0], right
        )

    def holds(self, event: Event) -> bool:
        found = self.path.find(event)
        same_kind = _kind(found) == _kind(self.operand)
        return same_kind and ORDERS[self.order][1](_plain(found), self.operand)


@dataclass(frozen=True, slots=True)
class Contains(Filter):
    """An array holds a value or each of a list, a string a substring, an object a sub-object."""

    path: Path
    operand: Json

    @property
    def _shapes(self) -> tuple[Json, ...]:
        """What ``@>`` looks for; an object may be here or a member of an array that is."""
        if isinstance(self.operand, tuple):
            return (self.operand,)
        member = (self.operand,)
        return (self.operand, member) if isinstance(self.operand, Mapping) else (member,)

    def to_sql(self, alias: str = "events") -> sql.Composable:
        contained, found = self.path.contains_sql(self._shapes, alias), self.path.to_sql(alias)
        if not isinstance(self.operand, str):
            return contained
        substring = "((jsonb_typeof({0}) = 'string' AND strpos({0} #>> '{{}}', {1}) > 0) IS TRUE)"
        either = sql.SQL("({} OR {})")
        return either.format(contained, sql.SQL(substring).format(found, _text_sql(self.operand)))

    def holds(self, event: Event) -> bool:
        found = self.path.find(event)
        if isinstance(found, str) and isinstance(self.operand, str):
            return self.operand in found
        return any(_covers(found, shape) for shape in self._shapes)


@dataclass(frozen=True, slots=True)
class Exists(Filter):
    """There is a value, be it null."""

    path: Path

    def to_sql(self, alias: str = "events") -> sql.Composable:
        return sql.SQL("({} IS NOT NULL)").format(self.path.to_sql(alias))

    def holds(self, event: Event) -> bool:
        return self.path.find(event) is not _MISSING


def matches(
    filter: Filter, *, content: Mapping[str, object], metadata: Mapping[str, object]
) -> bool:
    """Whether an event with this content and metadata passes, as PostgreSQL would say."""
    return filter.holds({"content": content, "metadata": metadata})
