"""Where the time of a search goes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mnemolite import metrics
from mnemolite.metrics import REGISTRY, Part, Wait, part_time, search_time, share_out

MOMENT = st.floats(0, 10, allow_nan=False)
PARTS: list[Part] = ["embedding", "database"]
WAIT = st.tuples(st.sampled_from(PARTS), MOMENT, MOMENT).map(
    lambda wait: (wait[0], min(wait[1:]), max(wait[1:]))
)


def test_what_ran_at_the_same_time_counts_once() -> None:
    waits: list[Wait] = [("database", 0, 1), ("embedding", 2, 5), ("database", 4, 7)]
    assert share_out(waits, 10) == {"embedding": 3, "database": 3, "rest": 4}


@given(st.lists(WAIT, max_size=8))
def test_the_shares_add_up(waits: list[Wait]) -> None:
    shares = share_out(waits, 10)
    assert sum(shares.values()) == pytest.approx(10)
    assert min(shares.values()) >= -1e-9


def test_waits_outside_a_search_do_not_count() -> None:
    def observed(part: str) -> float:
        name = "mnemolite_search_part_seconds_count"
        return REGISTRY.get_sample_value(name, {"part": part}) or 0

    before = observed("database")
    with part_time("database"):
        pass
    assert observed("database") == before
    with search_time("text"), part_time("database"):
        pass
    assert observed("database") == before + 1
    assert metrics.render().count(b'part="rest"') > 1
