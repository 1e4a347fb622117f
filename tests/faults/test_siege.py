"""Kills of server, worker and PostgreSQL lose nothing, double nothing, and the feed tells all."""

from pathlib import Path

from tests.faults.siege import MUST_BE_NONE, Siege

KILLS = 6


def test_what_is_acknowledged_outlives_every_kill(tmp_path: Path) -> None:
    siege = Siege(tmp_path, seed=7, writers=8, pause_seconds=0.05)
    try:
        with siege.crowd():
            for _ in range(KILLS):
                siege.wait_for_writes(20)
                siege.strike()
            siege.wait_for_writes(20)
        account = siege.account()
    finally:
        siege.close()
    assert account["acknowledged"] >= 20 * KILLS
    assert {name: account[name] for name in MUST_BE_NONE} == dict.fromkeys(MUST_BE_NONE, 0)
