"""Partitions by time: how the events and their vectors are laid out, and how that changes.

Events are partitioned on ``timestamp`` by one interval, the vectors of each space by a coarser one
or not at all. What the catalog says is the truth; ``partitioning`` holds what was wished for.
"""

from mnemolite.partitions.beside import create_parts, form_of, parts_beside
from mnemolite.partitions.catalog import (
    EVENTS,
    Catalog,
    Leaf,
    is_partitioned,
    leaves,
    leaves_of,
)
from mnemolite.partitions.layout import Layout
from mnemolite.partitions.plan import Manager, Part, Plan, read_plan
from mnemolite.partitions.ranges import (
    Interval,
    Range,
    following,
    partition_name,
    ranges,
    start_of,
)
from mnemolite.partitions.spans import joined, rest, within
from mnemolite.partitions.turn import taking_turn

__all__ = [
    "EVENTS",
    "Catalog",
    "Interval",
    "Layout",
    "Leaf",
    "Manager",
    "Part",
    "Plan",
    "Range",
    "create_parts",
    "following",
    "form_of",
    "is_partitioned",
    "joined",
    "leaves",
    "leaves_of",
    "partition_name",
    "parts_beside",
    "ranges",
    "read_plan",
    "rest",
    "start_of",
    "taking_turn",
    "within",
]
