"""Event ids: the time they carry, the order they keep, the RFC they follow."""

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone
from uuid import RFC_4122, UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mnemolite.ids import derived_event_id, new_event_id, time_of, timeless_id

NOON = datetime(2024, 5, 8, 12, tzinfo=UTC)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
AWARE = st.datetimes(
    min_value=datetime(1, 1, 3), max_value=datetime(9999, 12, 29),
    timezones=st.integers(-1439, 1439).map(lambda m: timezone(timedelta(minutes=m))),
)  # fmt: skip
# A literal of RFC 9562, appendix A.6: version 7 of 22 February 2022, 14:22:22.000 at -05:00.
RFC_EXAMPLE = UUID("017F22E2-79B0-7CC3-98C4-DC0C0C07398F")


@given(AWARE)
def test_an_id_carries_its_time_to_the_millisecond(moment: datetime) -> None:
    carried = time_of(new_event_id(moment))
    assert carried is not None
    expected = max(moment, EPOCH)
    assert timedelta(0) <= expected - carried < timedelta(milliseconds=1)


@given(AWARE)
def test_ids_have_the_bits_of_the_rfc(moment: datetime) -> None:
    event_id = new_event_id(moment)
    assert event_id.version == 7
    assert event_id.variant == RFC_4122


@given(st.lists(AWARE, min_size=2, max_size=20))
def test_ids_sort_by_time_then_by_arrival(moments: list[datetime]) -> None:
    made = [new_event_id(moment) for moment in moments]
    expected = sorted(made, key=lambda one: (time_of(one) or EPOCH, made.index(one)))
    assert sorted(made) == expected


def test_the_order_of_arrival_is_kept_within_one_timestamp() -> None:
    made = [new_event_id(NOON) for _ in range(50_000)]
    assert made == sorted(made)
    assert len(set(made)) == len(made)


def test_threads_never_share_an_id_and_each_keeps_its_order() -> None:
    with ThreadPoolExecutor(8) as pool:
        runs = list(pool.map(lambda _: [new_event_id(NOON) for _ in range(5_000)], range(8)))
    assert len({one for run in runs for one in run}) == 40_000
    for run in runs:
        assert run == sorted(run)


def test_the_order_is_kept_over_processes() -> None:
    program = (
        "from datetime import UTC, datetime; from mnemolite.ids import new_event_id;"
        "print(new_event_id(datetime(2024, 5, 8, 12, tzinfo=UTC)))"
    )
    before = new_event_id(NOON)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    time.sleep(0.002)  # ids of two processes are ordered by the millisecond they were made in
    assert before < UUID(done.stdout.strip()) < new_event_id(NOON)


def test_a_clock_set_back_does_not_turn_the_order(monkeypatch: pytest.MonkeyPatch) -> None:
    before = new_event_id(NOON)
    an_hour_ago = time.time_ns() - 3600 * 10**9
    monkeypatch.setattr(time, "time_ns", lambda: an_hour_ago)
    later = [new_event_id(NOON) for _ in range(70_000)]
    assert [before, *later] == sorted([before, *later])
    assert len(set(later)) == len(later)


def test_times_before_1970_count_as_1970_and_stay_in_order() -> None:
    made = [new_event_id(datetime(1950, 6, 1, tzinfo=UTC)) for _ in range(100)]
    assert made == sorted(made)
    assert {time_of(one) for one in made} == {EPOCH}


def test_the_last_millisecond_of_the_calendar_fits() -> None:
    last = datetime.max.replace(tzinfo=UTC)
    assert time_of(new_event_id(last)) == last.replace(microsecond=999_000)


def test_time_of_a_foreign_version_7() -> None:
    assert time_of(RFC_EXAMPLE) == datetime(2022, 2, 22, 19, 22, 22, tzinfo=UTC)


@pytest.mark.parametrize(
    "event_id",
    [
        uuid4(),
        UUID(int=0),
        UUID(int=2**128 - 1),
        UUID("C232AB00-9414-11EC-B3C8-9F6BDECED846"),  # version 1
        UUID("1EC9414C-232A-6B00-B3C8-9F6BDECED846"),  # version 6
        UUID("017F22E2-79B0-7CC3-18C4-DC0C0C07398F"),  # version 7's digit, but another variant
    ],
)
def test_other_uuids_carry_no_time(event_id: UUID) -> None:
    assert time_of(event_id) is None


def test_a_version_7_beyond_the_calendar_carries_no_time() -> None:
    assert time_of(UUID("FFFFFFFF-FFFF-7CC3-98C4-DC0C0C07398F")) is None


@given(AWARE, st.binary(min_size=32, max_size=32), st.integers(0, 2**22 - 1))
def test_a_derived_id_carries_its_time_and_the_digest(
    moment: datetime, digest: bytes, place: int
) -> None:
    event_id = derived_event_id(moment, digest, place=place)
    assert event_id == derived_event_id(moment, digest, place=place)
    assert (event_id.variant, event_id.version) == (RFC_4122, 7)
    assert time_of(event_id) == time_of(new_event_id(moment))
    other = bytes([digest[0] ^ 1]) + digest[1:]
    assert derived_event_id(moment, other, place=place) != event_id


@given(AWARE, st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32))
def test_derived_ids_of_one_time_are_in_the_order_of_their_places(
    moment: datetime, one: bytes, other: bytes
) -> None:
    ids = [derived_event_id(moment, (one, other)[n % 2], place=n) for n in range(9)]
    assert ids == sorted(ids)


@given(st.binary(min_size=32, max_size=32))
def test_a_timeless_id_carries_no_time(digest: bytes) -> None:
    event_id = timeless_id(digest)
    assert (event_id.variant, event_id.version) == (RFC_4122, 8)
    assert time_of(event_id) is None
    assert timeless_id(bytes([digest[0] ^ 1]) + digest[1:]) != event_id
