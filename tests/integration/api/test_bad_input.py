"""Every way to send something wrong, and the clear answer to each: status, code, field."""

import json
from typing import Any

import pytest
from httpx import AsyncClient

GOOD: dict[str, Any] = {"content": "x"}
JSON = {"Content-Type": "application/json"}
DEEP: Any = "x"
for _ in range(70):
    DEEP = [DEEP]

EVENTS = [
    ({}, "invalid_input", "content"),
    ({"content": None}, "invalid_input", "content"),
    ({"content": 5}, "invalid_input", "content"),
    ({"content": ["x"]}, "invalid_input", "content"),
    ({"content": True}, "invalid_input", "content"),
    ({"content": "a\x00b"}, "invalid_text", "content"),
    ({"content": {"a": ["b", {"c": "\x00"}]}}, "invalid_text", "content"),
    ({"content": {"a\x00": 1}}, "invalid_text", "content"),
    ({"content": {"a": DEEP}}, "invalid_input", "content"),
    (GOOD | {"metadata": []}, "invalid_input", "metadata"),
    (GOOD | {"metadata": "x"}, "invalid_input", "metadata"),
    (GOOD | {"metadata": None}, "invalid_input", "metadata"),
    (GOOD | {"metadata": {"k": "\x00"}}, "invalid_text", "metadata"),
    (GOOD | {"namespace": ""}, "invalid_input", "namespace"),
    (GOOD | {"namespace": None}, "invalid_input", "namespace"),
    (GOOD | {"namespace": 5}, "invalid_input", "namespace"),
    (GOOD | {"namespace": "n" * 201}, "invalid_input", "namespace"),
    (GOOD | {"namespace": "a\nb"}, "invalid_input", "namespace"),
    (GOOD | {"namespace": "a\x00b"}, "invalid_text", "namespace"),
    (GOOD | {"session": ""}, "invalid_input", "session"),
    (GOOD | {"session": 5}, "invalid_input", "session"),
    (GOOD | {"session": "s" * 201}, "invalid_input", "session"),
    (GOOD | {"session": "\x00"}, "invalid_text", "session"),
    (GOOD | {"timestamp": "2024-01-01T00:00:00"}, "invalid_timestamp", "timestamp"),
    (GOOD | {"timestamp": "2024-01-01"}, "invalid_timestamp", "timestamp"),
    (GOOD | {"timestamp": "infinity"}, "invalid_timestamp", "timestamp"),
    (GOOD | {"timestamp": "-infinity"}, "invalid_timestamp", "timestamp"),
    (GOOD | {"timestamp": "2024-02-30T00:00:00Z"}, "invalid_timestamp", "timestamp"),
    (GOOD | {"timestamp": "2024-01-01T25:00:00Z"}, "invalid_timestamp", "timestamp"),
    (GOOD | {"timestamp": "10000-01-01T00:00:00Z"}, "invalid_timestamp", "timestamp"),
    (GOOD | {"timestamp": "0001-01-01T00:00:00+14:00"}, "invalid_timestamp", "timestamp"),
    (GOOD | {"timestamp": 1700000000}, "invalid_timestamp", "timestamp"),
    (GOOD | {"timestamp": "1700000000"}, "invalid_timestamp", "timestamp"),
    (GOOD | {"timestamp": True}, "invalid_timestamp", "timestamp"),
    (GOOD | {"timestamp": ""}, "invalid_timestamp", "timestamp"),
    (GOOD | {"id": "not-a-uuid"}, "invalid_input", "id"),
    (GOOD | {"id": 5}, "invalid_input", "id"),
    (GOOD | {"metdata": {}}, "invalid_input", "metdata"),
    ([GOOD], "invalid_input", None),
    ("x", "invalid_input", None),
    (5, "invalid_input", None),
]

BODIES = [
    (b"", 400, "malformed_json"),
    (b"{", 400, "malformed_json"),
    (b'{"content": NaN}', 400, "malformed_json"),
    (b'{"content": {"a": Infinity}}', 400, "malformed_json"),
    (b'{"content": {"a": -Infinity}}', 400, "malformed_json"),
    (b'{"content": "\xff"}', 400, "malformed_json"),
    (b'{"content": {"a": 1e999}}', 422, "invalid_input"),
    (b'{"content": {"a": 1' + b"0" * 5000 + b"}}", 400, "malformed_json"),
    (b'{"content": "\\ud800"}', 422, "invalid_text"),
    (b'{"content": {"\\udfff": 1}}', 422, "invalid_text"),
    (b'{"content": "\\u0000"}', 422, "invalid_text"),
    (b"[" * 100_000, 400, "malformed_json"),
]

SEARCHES = [
    ({}, "invalid_query", "q"),
    ({"q": ""}, "invalid_query", "q"),
    ({"q": "  "}, "invalid_query", "q"),
    ({"q": 5}, "invalid_input", "q"),
    ({"q": "x" * 10_001}, "invalid_input", "q"),
    ({"q": "\x00"}, "invalid_text", "q"),
    ({"q": "x", "mode": "magic"}, "invalid_input", "mode"),
    ({"q": "x", "limit": 0}, "invalid_input", "limit"),
    ({"q": "x", "limit": 201}, "invalid_input", "limit"),
    ({"q": "x", "limit": "ten"}, "invalid_input", "limit"),
    ({"q": "x", "min_similarity": 1.5}, "invalid_input", "min_similarity"),
    ({"q": "x", "min_similarity": -0.1}, "invalid_input", "min_similarity"),
    ({"q": "x", "dates": "maybe"}, "invalid_input", "dates"),
    ({"q": "x", "now": "2024-01-01"}, "invalid_timestamp", "now"),
    ({"q": "x", "now": "tomorrow"}, "invalid_timestamp", "now"),
    ({"q": "x", "recency_half_life": "30"}, "invalid_input", "recency_half_life"),
    ({"q": "x", "recency_half_life": "soon"}, "invalid_input", "recency_half_life"),
    ({"q": "x", "recency_half_life": "-1d"}, "invalid_input", "recency_half_life"),
    ({"q": "x", "recency_half_life": "0d"}, "invalid_input", "recency_half_life"),
    ({"q": "x", "recency_half_life": "9" * 400 + "d"}, "invalid_input", "recency_half_life"),
    ({"q": "x", "importance": -1}, "invalid_input", "importance"),
    ({"q": "x", "importance": 11}, "invalid_input", "importance"),
    ({"q": "x", "importance": "high"}, "invalid_input", "importance"),
    ({"q": "x", "diversity": 1.1}, "invalid_input", "diversity"),
    ({"q": "x", "diversity": -0.1}, "invalid_input", "diversity"),
    ({"q": "x", "diversity": None}, "invalid_input", "diversity"),
    ({"q": "x", "since": "2024-01-01"}, "invalid_timestamp", "since"),
    ({"q": "x", "until": "soon"}, "invalid_timestamp", "until"),
    ({"q": "x", "since": "2024-01-02T00:00:00Z", "until": "2024-01-01T00:00:00Z"},
     "invalid_input", "since"),
    ({"q": "x", "namespace": ""}, "invalid_input", "namespace"),
    ({"q": "x", "wher": {}}, "invalid_input", "wher"),
    ({"q": "x", "where": []}, "invalid_input", "where"),
    ({"q": "x", "where": {"a": {"$near": 1}}}, "invalid_filter", "where.a.$near"),
    ({"q": "x", "where": {"$where": "1"}}, "invalid_filter", "where.$where"),
    ({"q": "x", "where": {"$or": []}}, "invalid_filter", "where.$or"),
    ({"q": "x", "where": {"a": {"$in": 1}}}, "invalid_filter", "where.a.$in"),
    ({"q": "x", "where": {"a": "\x00"}}, "invalid_filter", "where.a"),
    ({"vector": []}, "invalid_input", "vector"),
    ({"vector": ["a"]}, "invalid_input", "vector[0]"),
    ({"vector": [1.0, 2.0]}, "invalid_vector", "vector"),
    ({"vector": [0.0] * 16}, "invalid_vector", "vector"),
    ({"vector": [1.0] * 15 + [1e300]}, "invalid_vector", "vector"),
    ({"vector": [1.0] * 16, "mode": "text"}, "invalid_query", "q"),
]  # fmt: skip

INJECTIONS = [
    "a'; DROP TABLE events;--",
    "a') OR 1=1 --",
    'a"; SELECT 1;',
    "a}",
    "a,b",
    "%s",
    "%(namespace)s",
    "{}",
    "\\",
    "'||pg_sleep(5)||'",
]


def check(response: Any, status: int, code: str, field: str | None = None) -> None:
    assert response.status_code == status, response.text
    problem = response.json()
    assert response.headers["content-type"] == "application/problem+json"
    assert problem["code"] == code
    assert problem["status"] == status
    assert problem.get("field") == field
    assert problem["detail"]


@pytest.mark.parametrize(("body", "code", "field"), EVENTS)
async def test_bad_events(client: AsyncClient, body: Any, code: str, field: str | None) -> None:
    check(await client.post("/v1/events", json=body), 422, code, field)
    assert (await client.get("/v1/events")).json()["data"] == []


@pytest.mark.parametrize(("body", "status", "code"), BODIES)
async def test_bad_bodies(client: AsyncClient, body: bytes, status: int, code: str) -> None:
    response = await client.post("/v1/events", content=body, headers=JSON)
    check(response, status, code, None if status == 400 else "content")


@pytest.mark.parametrize(("body", "code", "field"), SEARCHES)
async def test_bad_searches(client: AsyncClient, body: Any, code: str, field: str | None) -> None:
    check(await client.post("/v1/search", json=body), 422, code, field)


@pytest.mark.parametrize("path", INJECTIONS)
async def test_injections_are_just_names(client: AsyncClient, path: str) -> None:
    await client.post("/v1/events", json={"content": "x", "metadata": {path: path}})
    await client.post("/v1/events", json={"content": "y"})
    escaped = path.replace("\\", "\\\\").replace(".", "\\.")
    for where in ({escaped: path}, {escaped: {"$in": [path]}}, {escaped: {"$contains": path}}):
        response = await client.get("/v1/events", params={"where": json.dumps(where)})
        assert response.status_code == 200, response.text
        assert [event["text"] for event in response.json()["data"]] == ["x"]
    response = await client.get("/v1/events", params={"where": json.dumps({escaped: 1})})
    assert response.json()["data"] == []


async def test_numbers_that_are_not_in_a_vector(client: AsyncClient) -> None:
    body = b'{"vector": [NaN]}'
    check(await client.post("/v1/search", content=body, headers=JSON), 400, "malformed_json")
    body = b'{"vector": [1e999]}'
    response = await client.post("/v1/search", content=body, headers=JSON)
    check(response, 422, "invalid_input", "vector[0]")


async def test_bad_query_strings(client: AsyncClient) -> None:
    for params, code, field in (
        ({"limit": "0"}, "invalid_input", "limit"),
        ({"limit": "1001"}, "invalid_input", "limit"),
        ({"order": "random"}, "invalid_input", "order"),
        ({"since": "2024-01-01"}, "invalid_timestamp", "since"),
        ({"cursor": "rubbish"}, "invalid_cursor", "cursor"),
        ({"cursor": "WzEsMiwzXQ=="}, "invalid_cursor", "cursor"),
        ({"where": "{"}, "invalid_filter", "where"),
        ({"where": "[]"}, "invalid_input", "where"),
        ({"where": '{"a": {"$gt": NaN}}'}, "invalid_filter", "where"),
        ({"namespace": ""}, "invalid_input", "namespace"),
        ({"unknown": "1"}, "invalid_input", "unknown"),
    ):
        check(await client.get("/v1/events", params=params), 422, code, field)


async def test_a_cursor_of_the_other_order(client: AsyncClient) -> None:
    for text in "ab":
        await client.post("/v1/events", json={"content": text})
    page = (await client.get("/v1/events", params={"limit": 1})).json()
    params = {"cursor": page["meta"]["next_cursor"], "order": "oldest"}
    check(await client.get("/v1/events", params=params), 422, "invalid_cursor", "cursor")


async def test_bad_ids_and_patches(client: AsyncClient) -> None:
    check(await client.get("/v1/events/5"), 422, "invalid_input", "event_id")
    check(await client.delete("/v1/events/x'--"), 422, "invalid_input", "event_id")
    stored = (await client.post("/v1/events", json=GOOD)).json()
    url = f"/v1/events/{stored['id']}/metadata"
    check(await client.patch(url, json=[]), 422, "invalid_input")
    check(await client.patch(url, json={"a": "\x00"}), 422, "invalid_text")


async def test_bad_batches(client: AsyncClient) -> None:
    url = "/v1/events/batch"
    check(await client.post(url, json={"events": []}), 422, "invalid_input", "events")
    check(await client.post(url, json={}), 422, "invalid_input", "events")
    check(await client.post(url, json={"events": [GOOD] * 1001}), 422, "invalid_input", "events")
    response = await client.post(url, json=[GOOD, {"content": 5}])
    check(response, 422, "invalid_input", "events[1].content")
    response = await client.post(url, params={"wait": "long"}, json=[GOOD])
    check(response, 422, "invalid_input", "wait")


async def test_a_text_too_long_to_be_searched(client: AsyncClient) -> None:
    response = await client.post("/v1/events", json={"content": "x" * 1_100_000})
    check(response, 413, "payload_too_large", "content")
    response = await client.post("/v1/events/batch", json=[GOOD, {"content": "é" * 600_000}])
    check(response, 413, "payload_too_large", "events[1].content")
    prose = "All happy families are alike, each unhappy one in its own way. " * 15_000
    response = await client.post("/v1/events", json={"content": prose})
    assert response.status_code == 201, response.text


async def test_a_text_of_more_words_than_an_index_row_holds(client: AsyncClient) -> None:
    letters = "bcdfghjklm"
    words = ("".join(letters[int(digit)] for digit in f"{number:08}") for number in range(80_000))
    unique = " ".join(f"{word}-{next(words)}" for word in words)
    response = await client.post("/v1/events", json={"content": unique})
    check(response, 413, "payload_too_large")
    assert (await client.get("/v1/events")).json()["data"] == []


async def test_a_body_that_is_too_large(client: AsyncClient) -> None:
    body = b'{"content": {"a": "' + b"x" * (17 * 2**20) + b'"}}'
    response = await client.post("/v1/events", content=body, headers=JSON)
    check(response, 413, "payload_too_large")


async def test_a_body_of_another_kind(client: AsyncClient) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded", ""):
        response = await client.post(
            "/v1/events", content=b'{"content": "x"}', headers={"Content-Type": kind}
        )
        check(response, 415, "unsupported_media_type")


async def test_places_that_do_not_exist(client: AsyncClient) -> None:
    check(await client.get("/v1/nothing"), 404, "not_found")
    check(await client.put("/v1/events"), 405, "method_not_allowed")
