"""The mapping of an import: where the keys of a line go, and what is refused."""

import string
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from mnemolite.errors import InvalidInputError
from mnemolite.import_export import BadLine, ImportReport, LineMapping
from mnemolite.import_export.report import MAX_REMEMBERED
from mnemolite.models import NewEvent

ID = "017f22e2-79b0-7cc3-98c4-dc0c0c07398f"
OURS = {*NewEvent.model_fields, "text", "speaker", "role", "name"}
KEYS = st.text(string.ascii_lowercase + "_", min_size=1, max_size=12)


def read(row: dict[str, Any], *pairs: str, **options: Any) -> NewEvent:
    return LineMapping.parse(pairs, **options).to_event(row, ImportReport())


def test_keys_with_our_names_need_no_map() -> None:
    event = read({
        "id": ID, "namespace": "n", "session": "s", "timestamp": "2024-05-08T12:00:00Z",
        "speaker": "Ada", "role": "user", "name": "ada", "text": "Hello", "metadata": {"k": 1},
    })  # fmt: skip
    assert (str(event.id), event.namespace, event.session) == (ID, "n", "s")
    assert event.timestamp == datetime(2024, 5, 8, 12, tzinfo=UTC)
    assert event.content == {"speaker": "Ada", "role": "user", "name": "ada", "text": "Hello"}
    assert event.metadata == {"k": 1}


def test_a_row_in_another_shape_is_mapped() -> None:
    row = {"doc_id": "D1:3", "scope": "conv-26", "ts": "2023-05-08T13:56:00Z", "body": "Hi"}
    event = read(row, "doc_id=metadata.doc_id", "scope=namespace", "ts=timestamp",
                 "body=content.text")  # fmt: skip
    assert event.namespace == "conv-26"
    assert event.timestamp == datetime(2023, 5, 8, 13, 56, tzinfo=UTC)
    assert event.content == {"text": "Hi"}
    assert event.metadata == {"doc_id": "D1:3"}


def test_a_natural_key_can_be_sent_elsewhere() -> None:
    event = read({"name": "turn", "text": "a"}, "name=metadata.kind")
    assert (event.content, event.metadata) == ({"text": "a"}, {"kind": "turn"})


@given(st.dictionaries(KEYS.filter(lambda key: key not in OURS), st.integers() | KEYS))
def test_keys_nobody_asked_for_are_kept_and_reported(extra: dict[str, Any]) -> None:
    report = ImportReport()
    event = LineMapping.parse([]).to_event({"text": "a", **extra}, report)
    assert event.content == {"text": "a"}
    assert event.metadata == extra
    assert report.kept_in_metadata == set(extra)


def test_a_key_that_was_mapped_to_metadata_is_not_reported() -> None:
    report = ImportReport()
    LineMapping.parse(["seq=metadata.seq"]).to_event({"text": "a", "seq": 1, "x": 2}, report)
    assert report.kept_in_metadata == {"x"}


@pytest.mark.parametrize(
    "row",
    [
        {"content": {"a": 1}, "text": "b"},
        {"text": "b", "content": {"a": 1}},
    ],
)
def test_a_whole_object_and_a_part_of_it_are_merged(row: dict[str, Any]) -> None:
    assert read(row).content == {"a": 1, "text": "b"}


def test_a_whole_metadata_and_loose_keys_are_merged() -> None:
    for row in ({"text": "a", "metadata": {"k": 1}, "x": 2}, {"x": 2, "metadata": {"k": 1}}):
        assert read({"text": "a"} | row).metadata == {"k": 1, "x": 2}


def test_a_string_as_content_is_text() -> None:
    assert read({"content": "Hello"}).content == {"text": "Hello"}


def test_a_string_as_content_keeps_its_speaker() -> None:
    for row in ({"speaker": "Ada", "content": "Hello"}, {"content": "Hello", "speaker": "Ada"}):
        assert read(row).content == {"speaker": "Ada", "text": "Hello"}


def test_the_metadata_of_a_row_is_not_changed() -> None:
    row = {"text": "a", "metadata": {"k": 1}, "x": 2}
    read(row)
    assert row == {"text": "a", "metadata": {"k": 1}, "x": 2}


@pytest.mark.parametrize(("session", "expected"), [(7, "7"), (0, "0"), ("7", "7"), (None, None)])
def test_a_session_may_be_a_number(session: object, expected: str | None) -> None:
    assert read({"text": "a", "session": session}).session == expected


@pytest.mark.parametrize("session", [True, 1.5, ["a"], {}])
def test_a_session_of_another_kind_is_refused(session: object) -> None:
    with pytest.raises(ValidationError):
        read({"text": "a", "session": session})


@pytest.mark.parametrize(
    ("row", "option", "expected"),
    [
        ({}, None, "default"),
        ({}, "given", "given"),
        ({"namespace": None}, "given", "given"),
        ({"namespace": None}, None, "default"),
        ({"namespace": "own"}, "given", "own"),
    ],
)
def test_the_namespace_of_lines_that_name_none(
    row: dict[str, Any], option: str | None, expected: str
) -> None:
    assert read({"text": "a"} | row, namespace=option).namespace == expected


@pytest.mark.parametrize(
    ("stamp", "zone", "expected", "zoneless"),
    [
        ("2024-07-01T12:00:00", "UTC", "2024-07-01T12:00:00+00:00", 1),
        ("2024-07-01T12:00:00", "Europe/Paris", "2024-07-01T10:00:00+00:00", 1),
        ("2024-01-01T12:00:00", "Europe/Paris", "2024-01-01T11:00:00+00:00", 1),
        ("2024-07-01", "Europe/Paris", "2024-06-30T22:00:00+00:00", 1),
        ("2024-07-01T12:00:00Z", "Europe/Paris", "2024-07-01T12:00:00+00:00", 0),
        ("2024-07-01T12:00:00-07:00", "Europe/Paris", "2024-07-01T19:00:00+00:00", 0),
    ],
)
def test_zones(stamp: str, zone: str, expected: str, zoneless: int) -> None:
    report = ImportReport()
    event = LineMapping.parse([], zone=zone).to_event({"text": "a", "timestamp": stamp}, report)
    assert event.timestamp is not None
    assert event.timestamp.isoformat() == expected
    assert report.zoneless == zoneless


@pytest.mark.parametrize("stamp", ["yesterday", "", 1715169600, "2024-02-30T00:00:00"])
def test_what_is_no_date_is_refused_by_its_name(stamp: object) -> None:
    with pytest.raises(ValidationError) as raised:
        read({"text": "a", "timestamp": stamp})
    assert raised.value.errors()[0]["loc"] == ("timestamp",)


@pytest.mark.parametrize("zone", ["Mars/Olympus", "", "../etc/passwd", "/etc/localtime", "Europe"])
def test_what_is_no_zone_is_refused(zone: str) -> None:
    with pytest.raises(InvalidInputError) as raised:
        LineMapping.parse([], zone=zone)
    assert raised.value.field == "--timezone"


@pytest.mark.parametrize(
    ("pair", "key", "target"),
    [
        ("scope=namespace", "scope", "namespace"),
        ("a=id", "a", "id"),
        ("a=content", "a", "content"),
        ("a=metadata", "a", "metadata"),
        ("a=metadata.b", "a", "metadata.b"),
        ("a.b=content.text", "a.b", "content.text"),
        ("a=metadata.b=c", "a", "metadata.b=c"),
    ],
)
def test_good_pairs(pair: str, key: str, target: str) -> None:
    assert LineMapping.parse([pair]).targets == {key: target}


@pytest.mark.parametrize(
    "pair",
    ["", "=", "a", "a=", "=namespace", "a=text", "a=nowhere", "a=metadata.", "a=session.x",
     "a=Namespace", "a= namespace"],
)  # fmt: skip
def test_bad_pairs(pair: str) -> None:
    with pytest.raises(InvalidInputError) as raised:
        LineMapping.parse(["good=namespace", pair])
    assert raised.value.field == "--map"
    assert repr(pair) in raised.value.detail


def test_a_line_without_content_is_refused() -> None:
    with pytest.raises(ValidationError) as raised:
        read({"namespace": "n", "x": 1})
    assert raised.value.errors()[0]["loc"] == ("content",)


def test_a_report_counts_all_and_remembers_some() -> None:
    report = ImportReport()
    for number in range(MAX_REMEMBERED + 5):
        report.reject(BadLine(number, "bad"))
    assert report.bad == MAX_REMEMBERED + 5
    assert [bad.number for bad in report.bad_lines] == list(range(MAX_REMEMBERED))
