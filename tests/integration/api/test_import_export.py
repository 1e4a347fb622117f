"""Import and export over HTTP: streams, packed or plain, with a report of what is bad."""

import gzip
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from mnemolite.memory import Memory
from mnemolite.models import EventQuery

NDJSON = {"Content-Type": "application/x-ndjson"}


def jsonl(*rows: Any) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


async def chunks(data: bytes, size: int) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]


@pytest.mark.parametrize("size", [1, 7, 1000, 10**6])
@pytest.mark.parametrize("packed", [False, True])
async def test_a_stream_is_stored(client: httpx.AsyncClient, size: int, packed: bool) -> None:
    rows = [{"text": f"turn {n} é", "n": n} for n in range(40)]
    data = jsonl(*rows[:20]) + b"not json\n" + jsonl(*rows[20:])
    headers = NDJSON | ({"Content-Encoding": "gzip"} if packed else {})
    body = gzip.compress(data) if packed else data
    answer = await client.post(
        "/v1/events/import?namespace=streamed", content=chunks(body, size), headers=headers
    )
    assert answer.status_code == 200
    report = answer.json()
    assert (report["stored"], report["bad"], report["format"]) == (40, 1, "jsonl")
    assert report["bad_lines"][0]["number"] == 21
    assert report["kept_in_metadata"] == ["n"]
    again = await client.post("/v1/events/import?namespace=streamed", content=data, headers=NDJSON)
    assert (again.json()["stored"], again.json()["already_there"]) == (0, 40)


async def test_more_than_a_request_may_hold(client: httpx.AsyncClient, memory: Memory) -> None:
    limit = memory.settings.server.max_body
    line = jsonl({"text": "x" * 1000})
    count = limit // len(line) + 1500
    body = gzip.compress(b"".join(
        jsonl({"text": "word " * 200, "n": n}) for n in range(count)))  # fmt: skip
    answer = await client.post("/v1/events/import", content=body, headers=NDJSON)
    assert (answer.status_code, answer.json()["stored"]) == (200, count)


async def test_options(client: httpx.AsyncClient, memory: Memory) -> None:
    row = {"when": "2024-07-01T12:00:00", "body": "Hi"}
    answer = await client.post(
        "/v1/events/import",
        params={"map": ["when=timestamp", "body=content.text"], "timezone": "Europe/Paris"},
        content=jsonl(row),
        headers=NDJSON,
    )
    assert answer.json()["zoneless"] == 1
    page = await memory.list_events(EventQuery())
    assert page.data[0].timestamp.isoformat() == "2024-07-01T10:00:00+00:00"


@pytest.mark.parametrize(
    ("query", "headers", "content", "status", "code"),
    [
        ("", {"Content-Type": "text/html"}, b"{}", 415, "unsupported_media_type"),
        ("", {}, b"{}", 415, "unsupported_media_type"),
        ("", NDJSON | {"Content-Encoding": "br"}, b"{}", 415, "unsupported_media_type"),
        ("format=csv", NDJSON, b"{}", 422, "invalid_input"),
        ("timezone=Mars", NDJSON, b"{}", 422, "invalid_input"),
        ("map=a", NDJSON, b"{}", 422, "invalid_input"),
        ("nothing=1", NDJSON, b"{}", 422, "invalid_input"),
        ("strict=true", NDJSON, b'{"text": "a"}\nbad\n', 422, "invalid_input"),
        ("", NDJSON, gzip.compress(b'{"text": "a"}\n' * 99, mtime=0)[:-9], 422, "invalid_file"),
    ],
)
async def test_what_is_refused(
    client: httpx.AsyncClient,
    query: str,
    headers: dict[str, str],
    content: bytes,
    status: int,
    code: str,
) -> None:
    answer = await client.post(f"/v1/events/import?{query}", content=content, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (status, code)


async def test_an_empty_body_is_no_fault(client: httpx.AsyncClient) -> None:
    answer = await client.post("/v1/events/import", content=b"", headers=NDJSON)
    assert (answer.status_code, answer.json()["stored"]) == (200, 0)


async def test_an_export_is_an_import(client: httpx.AsyncClient, memory: Memory) -> None:
    rows = [{"text": f"turn {n}", "n": n, "session": f"s{n % 2}"} for n in range(1200)]
    await client.post("/v1/events/import", content=jsonl(*rows), headers=NDJSON)
    whole = await client.get("/v1/events/export")
    assert whole.headers["content-type"] == "application/x-ndjson"
    assert json.loads(whole.text.splitlines()[-1]) == {"mnemolite": "end", "events": 1200}
    again = await client.post("/v1/events/import", content=whole.content, headers=NDJSON)
    assert (again.json()["format"], again.json()["already_there"]) == ("mnemolite", 1200)
    some = await client.get(
        "/v1/events/export", params={"session": "s1", "where": '{"n": {"$lt": 4}}'}
    )
    events = [json.loads(line) for line in some.text.splitlines()]
    assert [event["metadata"]["n"] for event in events if "id" in event] == [1, 3]


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("where={", "invalid_filter"),
        ('where={"n": {"$no": 1}}', "invalid_filter"),
        ("since=yesterday", "invalid_timestamp"),
        ("session=", "invalid_input"),
        ("limit=5", "invalid_input"),
    ],
)
async def test_a_wrong_export_is_a_problem(
    client: httpx.AsyncClient, query: str, code: str
) -> None:
    answer = await client.get(f"/v1/events/export?{query}")
    assert (answer.status_code, answer.json()["code"]) == (422, code)
