"""JSON whose numbers stay as they are written: PostgreSQL keeps 1.10 and forty digits, a float no.

A number that a float or a 64-bit integer cannot give back letter for letter is read as a Decimal.
"""

import json
import math
from decimal import Decimal
from typing import Any

import orjson

_INTEGERS = range(-(2**63), 2**64)


def loads(text: str) -> Any:
    """Read JSON strictly. Raises ValueError (RecursionError for what is nested too deep)."""
    return _DECODER.decode(text)


def read_from(text: str, start: int) -> tuple[Any, int]:
    """Read the value that begins at ``start``; it and where it ends."""
    return _DECODER.raw_decode(text, start)


def dumps(value: Any, *, sort_keys: bool = False) -> str:
    """Write what ``loads`` has read, compactly."""
    option = orjson.OPT_SORT_KEYS if sort_keys else 0
    return orjson.dumps(value, default=_as_written, option=option).decode()


def _float(text: str) -> float | Decimal:
    number = float(text)
    # What is too large becomes an infinity, which the models refuse by its place.
    return number if repr(number) == text or math.isinf(number) else Decimal(text)


def _integer(text: str) -> int | Decimal:
    number = int(text)
    return number if number in _INTEGERS else Decimal(text)


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _as_written(value: object) -> orjson.Fragment:
    if isinstance(value, Decimal):
        return orjson.Fragment(str(value))
    raise TypeError(f"{type(value).__name__} is not JSON")


_DECODER = json.JSONDecoder(parse_float=_float, parse_int=_integer, parse_constant=_refuse)
