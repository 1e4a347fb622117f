"""The choice between an exact scan and the index."""

from mnemolite.arms import exact_rows


def test_small_tables_are_scanned_whole() -> None:
    assert exact_rows(-1) == exact_rows(0) == exact_rows(10_000) == 20_000


def test_in_large_tables_the_index_must_look_farther_for_rare_rows() -> None:
    assert exact_rows(1_000_000) == 150_000
    assert exact_rows(100_000_000) == 1_500_000
