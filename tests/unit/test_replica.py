"""How old a position of the replica is, by where the primary was when."""

import pytest

from mnemolite.replica import Positions


@pytest.fixture
def positions() -> Positions:
    """A primary that wrote, rested from 10 to 100, and wrote again."""
    seen = Positions()
    for at, position in ((0.0, 1000), (10.0, 2000), (99.0, 2000), (100.0, 3000)):
        seen.saw(at, position)
    return seen


@pytest.mark.parametrize(
    ("at", "position", "age"),
    [
        (100.0, 3000, 0.0),
        (500.0, 3000, 0.0),  # nothing has been written since: rest is no lag
        (100.5, 3500, 0.0),  # it was asked after the primary
        (100.5, 2999, 1.5),  # all that was there at 99
        (100.5, 2000, 1.5),
        (100.5, 1999, 100.5),
        (130.0, 1000, 130.0),
        (130.0, 999, None),
    ],
)
def test_the_age_of_a_position(
    positions: Positions, at: float, position: int, age: float | None
) -> None:
    assert positions.age(at, position) == age


def test_a_primary_that_was_never_seen() -> None:
    assert Positions().age(1.0, 1) is None


def test_a_new_primary_that_is_behind_the_lost_one(positions: Positions) -> None:
    positions.saw(101.0, 2500)
    assert positions.age(102.0, 2500) == 0.0
    assert positions.age(102.0, 2400) is None


def test_only_so_much_is_remembered() -> None:
    seen = Positions()
    for at in range(5000):
        seen.saw(float(at), at)
    assert seen.age(5000.0, 4000) == 1000.0
    assert seen.age(5000.0, 3000) is None
