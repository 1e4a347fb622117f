"""Which partitions there should be by now, and which parts of them are missing; no I/O."""

from collections.abc import Iterator, Sequence
from datetime import datetime

from mnemolite.partitions.ranges import Interval, Range, following, ranges, start_of


def wanted(now: datetime, *, by: Interval, premake: int) -> list[Range]:
    """The interval of this moment and so many after it, oldest first."""
    try:
        until = following(now, by, steps=premake + 1)
    except OverflowError:
        return []
    return list(ranges(start_of(now, by), until, by=by))


def gaps(span: Range, held: Sequence[Range]) -> Iterator[Range]:
    """The parts of a bounded span that none of the others holds, oldest first."""
    reached = span.since
    assert reached is not None
    assert span.until is not None
    for other in sorted(held, key=lambda each: (each.since is not None, each.since)):
        if not other.meets(Range(reached, span.until)):
            continue
        if other.since is not None and reached < other.since:
            yield Range(reached, other.since)
        if other.until is None or other.until >= span.until:
            return
        reached = max(reached, other.until)
    yield Range(reached, span.until)
