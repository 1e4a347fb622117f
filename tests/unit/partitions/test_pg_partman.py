"""Which versions of pg_partman can be the manager."""

import pytest

from mnemolite.partitions.pg_partman import Installed


@pytest.mark.parametrize("version", ["4.7.0", "4.7.2", "5.0.0", "5.2.4", "5.10.1"])
def test_known_versions(version: str) -> None:
    assert Installed(version, "partman", usable=True).refusal() is None


@pytest.mark.parametrize("version", ["2.6.4", "4.6.2", "6.0.0"])
def test_unknown_versions_are_named(version: str) -> None:
    assert version in (Installed(version, "partman", usable=True).refusal() or "")


def test_books_that_may_not_be_written_are_named() -> None:
    refusal = Installed("5.2.4", "partman", usable=False).refusal()
    assert refusal == "This role may not use partman.part_config."
