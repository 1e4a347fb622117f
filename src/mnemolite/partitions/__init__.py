"""Partitions by time: how the events and their vectors are laid out, and how that changes.

Events are partitioned on ``timestamp`` by one interval, the vectors of each space by a coarser one
or not at all. What the catalog says is the truth; ``partitioning`` holds what was wished for.
"""

from mnemolite.partitions.catalog import (
    EVENTS,
    Catalog,
    Leaf,
    is_partitioned,
    leaves,
    leaves_of,
)
from mnemolite.partitions.ranges import (
    Interval,
    Range,
    following,
    partition_name,
    ranges,
    start_of,
)
from mnemolite.partitions.spans import joined, rest, within

__all__ = [
    "EVENTS",
    "Catalog",
    "Interval",
    "Leaf",
    "Range",
    "following",
    "is_partitioned",
    "joined",
    "leaves",
    "leaves_of",
    "partition_name",
    "ranges",
    "rest",
    "start_of",
    "within",
]
