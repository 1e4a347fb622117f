"""The nouns: timestamps, JSON that can be kept, the forms of content, ranges and queries."""

from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from urllib.parse import parse_qs

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from pydantic_core import PydanticCustomError

from mnemolite.models import (
    MAX_JSON_DEPTH,
    EventQuery,
    Hit,
    NewEvent,
    SearchQuery,
    Space,
    check_json,
    format_duration,
    format_timestamp,
    parse_duration,
    parse_timestamp,
)

ZONES = st.integers(-1439, 1439).map(lambda minutes: timezone(timedelta(minutes=minutes)))
MOMENTS = st.datetimes(datetime(1, 1, 3), datetime(9999, 12, 29), timezones=ZONES)
NOON = datetime(2024, 5, 8, 12, tzinfo=UTC)
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=20)
LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXTS
JSON = st.recursive(
    LEAVES.filter(lambda leaf: leaf not in (float("inf"), float("-inf"))),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)


def kind_of(raised: pytest.ExceptionInfo[ValidationError]) -> str:
    return raised.value.errors()[0]["type"]


# --- Timestamps ---------------------------------------------------------------------------------


@given(MOMENTS)
def test_a_timestamp_survives_text_and_back(moment: datetime) -> None:
    parsed = parse_timestamp(moment.isoformat())
    assert parsed == moment
    assert parsed.utcoffset() == timedelta(0)
    assert parse_timestamp(format_timestamp(parsed)) == moment


@given(MOMENTS)
def test_a_plus_that_a_url_turned_into_a_space_is_forgiven(moment: datetime) -> None:
    stamp = moment.isoformat()
    assert parse_timestamp(parse_qs(f"since={stamp}")["since"][0]) == moment


@given(MOMENTS)
def test_an_event_keeps_its_time_through_json(moment: datetime) -> None:
    event = NewEvent(content={"text": "x"}, timestamp=moment)
    assert NewEvent.model_validate_json(event.model_dump_json()) == event


@pytest.mark.parametrize(
    "stamp",
    [
        "2024-05-08T12:00:00Z",
        "2024-05-08t12:00:00z",
        "2024-05-08 12:00:00Z",
        "2024-05-08T12:00Z",
        "2024-05-08T12Z",
        "2024-05-08T12:00:00Z ",
        "2024-05-08T14:00:00+02:00",
        "2024-05-08T14:00:00+0200",
        "2024-05-08T14:00:00 02:00",
        "2024-05-08T14:00:00 0200",
        "2024-05-08T14:00:00.000 02:00",
        "2024-05-08T06:30:00-05:30",
        "2024-05-08T12:00:00-00:00",
    ],
)
def test_forms_of_the_same_moment(stamp: str) -> None:
    assert parse_timestamp(stamp) == NOON


@pytest.mark.parametrize(
    "value",
    [
        "2024-05-08T12:00:00",
        "2024-05-08",
        "20240508T120000Z",
        "1715169600",
        1715169600,
        1715169600.5,
        True,
        [],
        "",
        "now",
        "infinity",
        "-infinity",
        "NaN",
        "2024-02-30T00:00:00Z",
        "2024-05-08T24:30:00Z",
        "2024-05-08T12:00:00+25:00",
        "2024-05-08T12:00:00Z; DROP TABLE events",
        "0001-01-01T00:00:00+14:00",
        "9999-12-31T23:59:59-01:00",
        "10000-01-01T00:00:00Z",
        "-2024-05-08T12:00:00Z",
        datetime(2024, 5, 8, 12),
    ],
)
def test_what_is_no_timestamp(value: object) -> None:
    with pytest.raises(ValidationError) as raised:
        NewEvent.model_validate({"content": "x", "timestamp": value})
    assert kind_of(raised) == "invalid_timestamp"


@given(st.text())
def test_no_text_at_all_breaks_the_parser(value: str) -> None:
    try:
        read = NewEvent.model_validate({"content": "x", "timestamp": value}).timestamp
    except ValidationError as error:
        refused = [fault["type"] for fault in error.errors()]
    else:
        refused = [] if read is not None and read.tzinfo is UTC else ["not in UTC"]
    assert refused in ([], ["invalid_timestamp"])


@pytest.mark.parametrize(
    ("moment", "text"),
    [
        (NOON, "2024-05-08T12:00:00Z"),
        (NOON.replace(microsecond=5), "2024-05-08T12:00:00.000005Z"),
        (NOON.astimezone(timezone(timedelta(hours=-8))), "2024-05-08T12:00:00Z"),
    ],
)
def test_timestamps_are_written_in_utc(moment: datetime, text: str) -> None:
    assert format_timestamp(moment) == text


# --- JSON ---------------------------------------------------------------------------------------


@given(JSON)
def test_json_that_can_be_stored_is_kept_as_it_is(value: Any) -> None:
    event = NewEvent(content={"value": value}, metadata={"value": value})
    assert event.content == {"value": value}
    assert event.metadata == {"value": value}


@given(JSON, st.sampled_from(["\x00", "\ud800", "a\udfff"]), st.booleans())
def test_a_character_that_cannot_be_stored_is_found_anywhere(
    value: Any, bad: str, as_key: bool
) -> None:
    hidden = {bad: value} if as_key else {"good": [value, {"deep": bad}]}
    for field in ("content", "metadata"):
        with pytest.raises(ValidationError) as raised:
            NewEvent.model_validate({"content": "x"} | {field: hidden})
        assert kind_of(raised) == "invalid_text"
        assert raised.value.errors()[0]["loc"][0] == field


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"a": {"b": ["x", "\x00"]}}, "a.b[1]: NUL"),
        ({"a": "\ud83d"}, "a: lone surrogates"),
        ({"a": {"k\x00": 1}}, "a key in a: NUL"),
        ({"a": [float("nan")]}, "a[0] must be a finite number"),
        ({"a": float("-inf")}, "a must be a finite number"),
    ],
)
def test_the_path_of_the_value_at_fault_is_named(value: object, said: str) -> None:
    with pytest.raises(PydanticCustomError) as raised:
        check_json(value)
    assert said in raised.value.message()


def nested(levels: int) -> Any:
    value: Any = "x"
    for _ in range(levels):
        value = {"v": value}
    return value


def test_json_may_be_nested_so_deep_and_no_deeper() -> None:
    check_json(nested(MAX_JSON_DEPTH))
    for depth in (MAX_JSON_DEPTH + 1, 5_000):
        with pytest.raises(PydanticCustomError) as raised:
            check_json(nested(depth))
        assert raised.value.type == "too_deep"


# --- Events -------------------------------------------------------------------------------------


@given(TEXTS)
def test_a_plain_string_is_text(text: str) -> None:
    assert NewEvent.model_validate({"content": text}).content == {"text": text}


@pytest.mark.parametrize("content", [None, 5, True, ["x"], b"x", 1.5])
def test_content_is_an_object_or_a_string(content: object) -> None:
    with pytest.raises(ValidationError) as raised:
        NewEvent.model_validate({"content": content})
    assert raised.value.errors()[0]["loc"] == ("content",)


@pytest.mark.parametrize("name", ["", "a\nb", "\t", "a\x7f", "n" * 201, 5, ["a"]])
@pytest.mark.parametrize("field", ["namespace", "session"])
def test_names_that_cannot_be(field: str, name: object) -> None:
    with pytest.raises(ValidationError) as raised:
        NewEvent.model_validate({"content": "x", field: name})
    assert raised.value.errors()[0]["loc"] == (field,)


@pytest.mark.parametrize("name", ["a", "n" * 200, "日本", "with space", "a/b:c", "'; DROP--"])
def test_names_that_can_be(name: str) -> None:
    event = NewEvent(content={}, namespace=name, session=name)
    assert (event.namespace, event.session) == (name, name)


def test_an_event_is_frozen_and_knows_no_other_fields() -> None:
    event = NewEvent(content={})
    with pytest.raises(ValidationError):
        setattr(event, "namespace", "other")  # noqa: B010 - mypy knows it is frozen
    with pytest.raises(ValidationError) as raised:
        NewEvent.model_validate({"content": "x", "metdata": {}})
    assert kind_of(raised) == "extra_forbidden"


# --- Queries ------------------------------------------------------------------------------------


@given(MOMENTS, MOMENTS)
def test_a_span_of_time_runs_forward(since: datetime, until: datetime) -> None:
    if since <= until:
        assert EventQuery(since=since, until=until).since == since
        return
    with pytest.raises(ValidationError) as raised:
        EventQuery(since=since, until=until)
    assert kind_of(raised) == "invalid_range"


@pytest.mark.parametrize(
    "fields", [{}, {"q": " \n"}, {"q": "", "vector": [1.0], "mode": "text"}, {"mode": "text"}]
)
def test_a_search_needs_something_to_look_for(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as raised:
        SearchQuery(**fields)
    assert kind_of(raised) == "invalid_query"


def test_a_vector_can_stand_for_the_words() -> None:
    assert SearchQuery(vector=[0.5, 1]).vector == [0.5, 1.0]
    with pytest.raises(ValidationError):
        SearchQuery(vector=[float("inf")])


def test_a_space_names_its_own_table_and_index() -> None:
    values = {name: None for name in Space.model_fields} | {"id": 7}
    space = Space.model_construct(**values)  # type: ignore[arg-type]
    assert (space.table, space.hnsw_index) == ("embeddings_7", "embeddings_7_hnsw_idx")


def test_every_field_that_clients_see_of_a_hit_says_what_it_is() -> None:
    named = {"score", "distance", "similarity", "text_score", "ranks"}
    described = {name for name, field in Hit.model_fields.items() if field.description}
    assert named <= described


# --- Durations ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "length"),
    [
        ("12h", timedelta(hours=12)),
        ("30d", timedelta(days=30)),
        ("1.5 d", timedelta(hours=36)),
        ("2w", timedelta(weeks=2)),
        ("P30D", timedelta(days=30)),
        ("PT90M", timedelta(minutes=90)),
        ("P1Y", timedelta(days=365)),
        (timedelta(days=3), timedelta(days=3)),
    ],
)
def test_a_duration_has_a_unit(text: object, length: timedelta) -> None:
    assert parse_duration(text) == length


@pytest.mark.parametrize(
    "bad",
    [
        "30", 30, 30.0, "", "d", "-3d", "P-3D", "0d", "5m", "soon", "PT1S", "36501d",
        "9" * 40 + "d", "P9999999999D", "30 days", "\x00", "\uff11d", None, True, ["1d"],
    ],
)  # fmt: skip
def test_what_is_no_duration_is_refused(bad: object) -> None:
    with pytest.raises(PydanticCustomError) as raised:
        parse_duration(bad)
    assert raised.value.type == "invalid_duration"


@given(st.timedeltas(timedelta(minutes=1), timedelta(days=36_500)))
def test_a_duration_survives_text_and_back(length: timedelta) -> None:
    assert parse_duration(format_duration(length)) == length
