"""The stopwatch counts what it is told to, and never less than nothing."""

import pytest

from mnemolite.stopwatch import Stopwatch


def test_parts_add_up_under_their_names() -> None:
    watch = Stopwatch()
    for name in ("a", "b", "a"):
        with watch.part(name):
            pass
    times = watch.milliseconds()
    assert list(times) == ["a", "b", "total"]
    assert all(value >= 0 for value in times.values())
    assert times["total"] >= times["b"]


def test_a_part_that_fails_is_timed_too() -> None:
    watch = Stopwatch()
    with pytest.raises(ValueError, match="x"), watch.part("a"):
        raise ValueError("x")
    assert "a" in watch.milliseconds()
