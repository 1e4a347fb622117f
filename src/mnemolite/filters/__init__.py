"""The filter language ``where``: one tree, parsed from JSON, that SQL and Python read alike."""

from mnemolite.filters.parser import (
    MAX_CONDITIONS,
    MAX_DEPTH,
    MAX_DIGITS,
    MAX_LIST,
    MAX_PATH,
    MAX_SEGMENTS,
    OPERATORS,
    parse,
)
from mnemolite.filters.tree import (
    And,
    Compare,
    Contains,
    Exists,
    Filter,
    Not,
    OneOf,
    Or,
    Path,
    matches,
)

__all__ = [
    "MAX_CONDITIONS",
    "MAX_DEPTH",
    "MAX_DIGITS",
    "MAX_LIST",
    "MAX_PATH",
    "MAX_SEGMENTS",
    "OPERATORS",
    "And",
    "Compare",
    "Contains",
    "Exists",
    "Filter",
    "Not",
    "OneOf",
    "Or",
    "Path",
    "matches",
    "parse",
]
