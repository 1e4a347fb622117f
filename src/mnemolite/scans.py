"""How the vectors are scanned: exactly, by their index, or each partition as it can be; no I/O."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from mnemolite.partitions import Leaf, Range, joined, rest

# Up to this many rows an exact scan is as fast as the index whatever the table, and misses nothing.
_EXACT_ROWS = 20_000
# The scan costs its rows; the index, what it must look at to find enough rows that pass, which is
# as many as rows are rare. The two met at 100,000 of 1,000,000 rows; where the index is only a
# little faster, the scan, which misses nothing, is the better plan still.
_EXACT_ROWS_PER_ROOT = 150
# Candidates that an index keeps in view: as many as pgvector allows. Where words look too, and all
# that either arm finds is compared exactly, fewer give .99 of the same first ten hits.
_EF_SEARCH = 1000
_EF_SEARCH_WITH_WORDS = 400
_LEAST_EF_SEARCH = 40
# Passages read for one event handed on: a long event has many, and only its nearest counts. So as
# many as an event of these tables has, and some to spare; but never more than some, for it is
# cheaper to read again when too few events were among them.
_SPARE_PASSAGES = 1.5
_MOST_PASSAGES = 4.0

Plan = Literal["exact", "hnsw", "mixed"]


@dataclass(frozen=True, slots=True)
class Reach:
    """The tables of vectors that a search's bounds in time meet, as the catalog knows them."""

    leaves: Sequence[Leaf]

    @property
    def rows(self) -> int:
        """About how many vectors they hold."""
        return sum(leaf.row_estimate for leaf in self.leaves)

    @property
    def indexes(self) -> int:
        """How many of them have an index."""
        return sum(leaf.indexed for leaf in self.leaves)

    @property
    def plan_by_index(self) -> Plan:
        """What it means here to use what indexes there are."""
        if not self.indexes:
            return "exact"
        without = (leaf for leaf in self.leaves if not leaf.indexed)
        return "mixed" if any(leaf.row_estimate or leaf.pages for leaf in without) else "hnsw"

    def spans(self) -> tuple[list[Range], list[Range]]:
        """The spans of time whose vectors stand under an index, and all others.

        What no partition's range holds is in the default partition, if there is one.
        """
        default_is_indexed = any(leaf.range is None and leaf.indexed for leaf in self.leaves)
        named = joined(
            leaf.range
            for leaf in self.leaves
            if leaf.range is not None and leaf.indexed is not default_is_indexed
        )
        if default_is_indexed:
            return rest(named), named
        return named, rest(named) if self.indexes < len(self.leaves) else []


def reach(leaves: Sequence[Leaf], bounds: Range) -> Reach:
    """What of a table's leaves can hold anything within the bounds."""
    return Reach([leaf for leaf in leaves if leaf.range is None or leaf.range.meets(bounds)])


def exact_rows(table_rows: int) -> int:
    """The largest number of matching rows for which an exact scan is the better plan."""
    return max(_EXACT_ROWS, int(_EXACT_ROWS_PER_ROOT * math.sqrt(max(table_rows, 0))))


def passages_per_event(vectors: Reach, events: Reach) -> float:
    """How many passages to read for each event that is wanted, by what the catalog knows."""
    if not vectors.rows or not events.rows:
        return _MOST_PASSAGES
    usual = max(1.0, vectors.rows / events.rows)
    return min(_SPARE_PASSAGES * usual, _MOST_PASSAGES)


def ef_search(indexes: int, *, with_words: bool) -> int:
    """How many candidates each index keeps in view: fewer where many of them take part."""
    most = _EF_SEARCH_WITH_WORDS if with_words else _EF_SEARCH
    return max(_LEAST_EF_SEARCH, round(most / math.sqrt(indexes)))
