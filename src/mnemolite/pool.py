"""The pool: rows of the database as the arrays that ranking and boosts work on."""

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from mnemolite.boosts import Facts
from mnemolite.ranking import Floats, Pool, chain_neighbours

Row = dict[str, Any]

_WORD = re.compile(r"\w{2,}")


def as_pool(
    rows: Sequence[Row], q: str, *, nearest: set[str], boosts: Mapping[str, Floats]
) -> Pool:
    """Rows as arrays; links that lead outside keep their place in the chain.

    ``nearest`` has the ids that the vector arm found by itself.
    """
    numbers: dict[str, int] = {row["id"]: number for number, row in enumerate(rows)}
    chain: list[tuple[int, int]] = []
    for row in rows:
        ids = [*reversed(row["before"] or []), row["id"], *(row["after"] or [])]
        places = [numbers.setdefault(name, len(numbers)) for name in ids]
        chain += pairwise(places)
    asked = _name_parts(q)
    speakers = {row["speaker"] for row in rows if row["speaker"]}
    named = {speaker for speaker in speakers if not asked.isdisjoint(_name_parts(speaker))}
    distances = [np.nan if row["distance"] is None else row["distance"] for row in rows]
    frequencies = np.array([row["frequencies"] for row in rows], dtype=np.float64)
    return Pool(
        words=np.array([row["words"] for row in rows], dtype=np.float64),
        frequencies=frequencies.reshape(len(rows), -1),
        cosines=1.0 - np.array(distances, dtype=np.float64),
        nearest=np.array([row["id"] in nearest for row in rows], dtype=bool),
        named=np.array([row["speaker"] in named for row in rows], dtype=bool),
        nearby=chain_neighbours(chain, len(rows)),
        boosts=boosts,
    )


def as_facts(rows: Sequence[Row]) -> Facts:
    """What the boosts look at; an importance that is not known is NaN."""
    return Facts(
        times=np.array([row["seconds"] for row in rows], dtype=np.float64),
        importance=np.array([row["importance"] for row in rows], dtype=np.float64),
    )


def _name_parts(text: str) -> frozenset[str]:
    """The words of a name, or of a question that may hold it: "Caroline's" names Caroline."""
    return frozenset(_WORD.findall(text.casefold()))
