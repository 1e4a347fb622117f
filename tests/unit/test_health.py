"""What readiness makes of how the embedding goes on."""

import pytest

from mnemolite.health import Pipeline


def pipeline(
    waiting: float | None, *, success: float | None, started: float | None, workers: int = 1
) -> Pipeline:
    return Pipeline(waiting, success, started, workers=workers)


@pytest.mark.parametrize(
    ("waiting", "ok"), [(None, True), (0, True), (100, True), (101, False), (9e9, False)]
)
def test_lag_is_the_age_of_the_oldest_due_event(waiting: float | None, ok: bool) -> None:
    check = pipeline(waiting, success=1, started=1).check_lag(100)
    assert check.ok is ok
    assert ok or "100 s" in check.detail


@pytest.mark.parametrize(
    ("waiting", "success", "started", "workers", "ok"),
    [
        pytest.param(None, None, None, 0, True, id="nothing to do, nobody to do it"),
        pytest.param(None, 9999, 9999, 1, True, id="idle for long, nothing waits"),
        pytest.param(5, 9999, 9999, 1, True, id="the first event after a long silence"),
        pytest.param(5, None, None, 0, True, id="a worker may still be started"),
        pytest.param(7200, 3, 7300, 1, True, id="a bulk import that goes on"),
        pytest.param(7200, None, 3, 1, True, id="a worker that has just started"),
        pytest.param(7200, 3, None, 0, True, id="a worker that has just gone"),
        pytest.param(7200, None, None, 0, False, id="no worker"),
        pytest.param(7200, 200, 9999, 2, False, id="workers that achieve nothing"),
        pytest.param(7200, None, 9999, 2, False, id="workers that never achieved anything"),
    ],
)
def test_workers_are_well_while_they_succeed_or_nothing_waits(
    waiting: float | None, success: float | None, started: float | None, workers: int, ok: bool
) -> None:
    check = pipeline(waiting, success=success, started=started, workers=workers).check_workers(120)
    assert check.ok is ok
    assert ok or "7200 s" in check.detail
