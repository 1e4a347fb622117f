"""The stream of changes over real HTTP: its form, resuming it, and how it ends."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
import uvicorn
from httpx_sse import ServerSentEvent, aconnect_sse

from mnemolite import metrics
from mnemolite.app import create_app
from mnemolite.memory import Memory
from mnemolite.models import NewEvent
from mnemolite.settings import ServerSettings, Settings

pytestmark = pytest.mark.timeout(60)
STREAM = "/v1/events/stream"


@asynccontextmanager
async def served(memory: Memory) -> AsyncIterator[httpx.AsyncClient]:
    """The application on a port of its own; a transport in this process would not stream."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    config = uvicorn.Config(
        create_app(memory), log_config=None, lifespan="off", timeout_graceful_shutdown=5
    )
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    try:
        async with httpx.AsyncClient(base_url=url, timeout=30) as client:
            yield client
    finally:
        memory.feed.end_readers()
        server.should_exit = True
        await serving


@pytest.fixture
async def client(memory: Memory) -> AsyncIterator[httpx.AsyncClient]:
    async with served(memory) as opened:
        yield opened


@pytest.fixture
def hasty(settings: Settings) -> Settings:
    """Short waits."""
    changed = {"keep_alive_seconds": 0.05, "stall_seconds": 2, "buffer": 5}
    return settings.model_copy(update={"feed": settings.feed.model_copy(update=changed)})


async def messages(
    client: httpx.AsyncClient, count: int, *, skip: str | None = None, **request: Any
) -> list[ServerSentEvent]:
    """The first messages of a stream, ``ready`` included."""
    heard = []
    async with aconnect_sse(client, "GET", STREAM, **request) as stream:
        async for message in stream.aiter_sse():
            if message.event == skip:
                continue
            heard.append(message)
            if len(heard) == count:
                break
    return heard


async def test_a_stream_tells_changes_as_events_with_ids(
    client: httpx.AsyncClient, memory: Memory
) -> None:
    following = asyncio.create_task(messages(client, 4))
    while not memory.feed.readers:
        await asyncio.sleep(0.01)
    content = {"text": "a\nb\r\u2028c\x85\x0b\u2029é", "n": [1, None]}
    event = await memory.add(NewEvent(content=content, session="s"))
    await asyncio.sleep(0.05)
    await memory.merge_metadata(event.id, {"user": "ada"})
    await asyncio.sleep(0.05)
    await memory.delete(event.id)
    ready, added, changed, deleted = await following
    assert (ready.event, ready.json()) == ("ready", {"cursor": ready.id})
    assert [told.event for told in (added, changed, deleted)] == ["added", "changed", "deleted"]
    assert added.json() == json.loads(event.model_dump_json())
    assert changed.json()["metadata"] == {"user": "ada"}
    assert deleted.json() == {
        "id": str(event.id),
        "namespace": "default",
        "timestamp": json.loads(event.model_dump_json())["timestamp"],
    }


async def test_a_stream_goes_on_behind_the_last_id(
    client: httpx.AsyncClient, memory: Memory
) -> None:
    for number in range(6):
        await memory.add(str(number))
    heard = await messages(client, 4, params={"after": "start"})
    assert [message.json()["text"] for message in heard[1:]] == ["0", "1", "2"]
    # The header wins: browsers come back to the same address.
    headers = {"Last-Event-ID": heard[-1].id}
    rest = await messages(client, 4, params={"after": "start"}, headers=headers)
    assert [message.json()["text"] for message in rest[1:]] == ["3", "4", "5"]
    rest = await messages(client, 3, params={"after": heard[2].id})
    assert [message.json()["text"] for message in rest[1:]] == ["2", "3"]


async def test_a_stream_takes_filters(client: httpx.AsyncClient, memory: Memory) -> None:
    await memory.add_many(
        [NewEvent(content=str(n), namespace="n", metadata={"n": n}) for n in range(8)]
    )
    params = {
        "after": "start",
        "namespace": "n",
        "where": '{"n": {"$in": [3, 5]}}',
        "kinds": "added,deleted",
    }
    heard = await messages(client, 3, params=params)
    assert [message.json()["text"] for message in heard[1:]] == ["3", "5"]


@pytest.mark.parametrize(
    ("params", "status", "code", "field"),
    [
        ({"after": "yesterday"}, 422, "invalid_cursor", "after"),
        ({"after": "2024-01-02T03:04:05"}, 422, "invalid_timestamp", "after"),
        ({"after": "00000000-12-3"}, 410, "cursor_gone", "after"),
        ({"after": "\x00"}, 422, "invalid_cursor", "after"),
        ({"after": "00000000-" + "9" * 40 + "-1"}, 422, "invalid_cursor", "after"),
        ({"where": "{"}, 422, "invalid_filter", "where"),
        ({"where": '{"a": {"$gtt": 1}}'}, 422, "invalid_filter", "where.a.$gtt"),
        ({"kinds": "added,moved"}, 422, "invalid_input", "kinds[1]"),
        ({"kinds": ""}, 422, "invalid_input", "kinds[0]"),
        ({"namespace": "a\x00"}, 422, "invalid_text", "namespace"),
        ({"from": "start"}, 422, "invalid_input", "from"),
    ],
)
async def test_a_bad_request_is_answered_before_the_stream(
    client: httpx.AsyncClient, params: dict[str, str], status: int, code: str, field: str
) -> None:
    answer = await client.get(STREAM, params=params)
    problem = answer.json()
    assert (answer.status_code, problem["code"], problem["field"]) == (status, code, field)


async def test_a_stray_last_event_id_is_refused(client: httpx.AsyncClient) -> None:
    answer = await client.get(STREAM, headers={"Last-Event-ID": "12"})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_cursor")


async def test_a_silent_stream_is_kept_alive_and_its_cursor_moves_on(hasty: Settings) -> None:
    async with (
        Memory.open(hasty) as memory,
        served(memory) as client,
        client.stream("GET", STREAM, params={"namespace": "quiet"}) as answer,
    ):
        assert answer.headers["content-type"] == "text/event-stream"
        assert answer.headers["cache-control"] == "no-store"
        lines = answer.aiter_lines()
        retry, id, event, *_ = [await anext(lines) for _ in range(5)]
        assert (retry, event) == ("retry: 1000", "event: ready")
        while await anext(lines) != ": keep-alive":
            pass
        await memory.add("not for this stream")
        while await anext(lines) != "event: position":
            pass
        moved = json.loads((await anext(lines)).removeprefix("data: "))["cursor"]
        assert int(moved.split("-")[1]) > int(id.split("-")[1])


async def test_a_client_that_leaves_leaves_nothing_behind(
    client: httpx.AsyncClient, memory: Memory
) -> None:
    for _ in range(5):
        await messages(client, 1)
    while memory.feed.readers or any(t.get_name() == "feed" for t in asyncio.all_tasks()):
        await asyncio.sleep(0.01)


async def test_a_client_that_takes_nothing_is_dropped_and_slows_nobody(hasty: Settings) -> None:
    dropped = metrics.FEED_DROPPED.labels("slow_reader")
    before = dropped._value.get()
    async with Memory.open(hasty) as memory, served(memory) as client:
        url = client.base_url
        _, stuck = await asyncio.open_connection(url.host, url.port, limit=1)
        stuck.write(b"GET /v1/events/stream HTTP/1.1\r\nHost: a\r\n\r\n")
        # On a busy machine a keep-alive can fall due between two events.
        following = asyncio.create_task(messages(client, 101, skip="position"))
        while memory.feed.readers < 2:
            await asyncio.sleep(0.01)
        try:
            for number in range(100):
                await memory.add(NewEvent(content={"text": str(number), "filler": "x" * 100_000}))
            heard = await following
            assert [told.json()["text"] for told in heard[1:]] == list(map(str, range(100)))
            while dropped._value.get() == before:
                await asyncio.sleep(0.01)
        finally:
            stuck.transport.abort()


async def test_a_cursor_that_is_lost_on_the_way_ends_the_stream_with_a_reason(
    client: httpx.AsyncClient, memory: Memory
) -> None:
    following = asyncio.create_task(messages(client, 2))
    while not memory.feed.readers:
        await asyncio.sleep(0.01)
    async with memory.database.connection() as connection:
        await connection.execute("UPDATE feed SET epoch = 'ffffffff'")
    await memory.add("wakes the follower")
    _, error = await following
    assert (error.event, error.json()["code"]) == ("error", "cursor_gone")


async def test_a_stopping_server_ends_streams(memory: Memory) -> None:
    async with served(memory) as client:
        following = asyncio.create_task(messages(client, 2))
        while not memory.feed.readers:
            await asyncio.sleep(0.01)
        memory.feed.end_readers()
        assert [message.event for message in await following] == ["ready"]
        assert [message.event for message in await messages(client, 2)] == ["ready"]


async def test_a_stream_needs_the_key_and_is_counted(settings: Settings) -> None:
    server = ServerSettings(api_key="open-sesame")
    guarded = settings.model_copy(update={"server": server})
    requests = metrics.REQUESTS.labels("GET", STREAM, "200")
    before = requests._value.get()
    async with Memory.open(guarded) as memory, served(memory) as client:
        assert (await client.get(STREAM)).status_code == 401
        await messages(client, 1, headers={"Authorization": "Bearer open-sesame"})
        while requests._value.get() == before:
            await asyncio.sleep(0.01)
