"""The recall of a plan, by distances."""

import pytest

from mnemolite.recall_check import recall


@pytest.mark.parametrize(
    ("served", "exact", "expected"),
    [
        ([0.1, 0.2, 0.3], [0.1, 0.2, 0.3], 1.0),
        ([0.1, 0.3, 0.4], [0.1, 0.2, 0.3], 2 / 3),
        ([], [0.1, 0.2], 0.0),
        ([], [], 1.0),
        ([0.1], [0.1, 0.2], 0.5),
        # Equal distances are equally good, whichever events they belong to.
        ([0.1, 0.2, 0.2], [0.1, 0.1, 0.2], 1.0),
        ([0.1, 0.2 + 1e-9], [0.1, 0.2], 1.0),
    ],
)
def test_recall_is_the_share_of_the_nearest(
    served: list[float], exact: list[float], expected: float
) -> None:
    assert recall(served, exact, cut=3) == pytest.approx(expected)


def test_only_the_nearest_count() -> None:
    assert recall([0.1, 0.5, 0.2], [0.1, 0.2, 0.3], cut=2) == 0.5
