"""Routes of events, over a real database."""

from typing import Any
from uuid import uuid4

import pytest
from httpx import AsyncClient

from mnemolite.ids import time_of
from mnemolite.memory import Memory
from mnemolite.worker import Worker

EVENT: dict[str, Any] = {
    "namespace": "n",
    "session": "s",
    "timestamp": "2023-05-08T13:56:00Z",
    "content": {"speaker": "Ada", "text": "I like tea."},
    "metadata": {"topic": "drinks"},
}


async def add(client: AsyncClient, **fields: Any) -> dict[str, Any]:
    response = await client.post("/v1/events", json=EVENT | fields)
    assert response.status_code == 201, response.text
    answer: dict[str, Any] = response.json()
    return answer


async def test_an_event_comes_back_as_it_was_told(client: AsyncClient) -> None:
    stored = await add(client)
    assert {key: stored[key] for key in EVENT} == EVENT
    assert stored["text"] == "I like tea."
    assert stored["pending"] is True
    response = await client.get(f"/v1/events/{stored['id']}")
    assert response.json() == stored


async def test_the_answer_names_the_place_of_the_event(client: AsyncClient) -> None:
    response = await client.post("/v1/events", json=EVENT)
    assert response.headers["location"] == f"/v1/events/{response.json()['id']}"


async def test_a_plain_string_becomes_text(client: AsyncClient) -> None:
    stored = await add(client, content="hello")
    assert stored["content"] == {"text": "hello"}


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ({"text": "a", "content": "b"}, "a"),
        ({"role": "user", "content": "b"}, "b"),
        ({"message": "c"}, "c"),
        ({"role": "user", "content": [{"type": "text", "text": "d"}, {"text": "e"}]}, "d\ne"),
        ({"role": "tool", "tool": "fetch", "args": {"url": "f", "tries": 3}}, "f\n3\nfetch"),
        ({"role": "user"}, ""),
        ({}, ""),
    ],
)
async def test_text_is_taken_from_content(
    client: AsyncClient, content: dict[str, Any], text: str
) -> None:
    stored = await add(client, content=content)
    assert sorted(stored["text"].split("\n")) == sorted(text.split("\n"))
    assert stored["content"] == content
    assert stored["pending"] is bool(text)


@pytest.mark.parametrize(
    "value",
    [2**70, -(10**30), 0.1, 1e21, True, None, "", " x ", "é日本🎉", {"a": [1, {"b": []}]}, []],
)
async def test_json_is_kept_exactly(client: AsyncClient, value: object) -> None:
    stored = await add(client, content={"v": value}, metadata={"v": value})
    assert stored["content"] == {"v": value}
    assert stored["metadata"] == {"v": value}


async def test_an_id_carries_the_time_of_its_event(client: AsyncClient) -> None:
    from uuid import UUID

    stored = await add(client, timestamp="2023-05-08T13:56:00.123456+02:00")
    assert stored["timestamp"] == "2023-05-08T11:56:00.123456Z"
    time = time_of(UUID(stored["id"]))
    assert time is not None
    assert time.isoformat() == "2023-05-08T11:56:00.123000+00:00"


@pytest.mark.parametrize("stamp", ["0001-01-01T00:00:00Z", "1950-06-01T12:00:00+05:30",
                                   "9999-12-31T23:59:59.999999Z"])  # fmt: skip
async def test_any_year_can_be_remembered(client: AsyncClient, stamp: str) -> None:
    stored = await add(client, timestamp=stamp)
    assert (await client.get(f"/v1/events/{stored['id']}")).status_code == 200


async def test_the_same_event_again_is_stored_once(client: AsyncClient) -> None:
    event_id = str(uuid4())
    first = await add(client, id=event_id)
    again = await client.post("/v1/events", json=EVENT | {"id": event_id})
    assert (again.status_code, again.json()) == (200, first)
    listed = await client.get("/v1/events", params={"namespace": "n"})
    assert listed.json()["meta"]["count"] == 1


async def test_an_id_is_never_given_to_another_event(client: AsyncClient) -> None:
    event_id = str(uuid4())
    await add(client, id=event_id)
    for change in ({"content": "else"}, {"timestamp": "2024-01-01T00:00:00Z"}, {"namespace": "m"}):
        response = await client.post("/v1/events", json=EVENT | {"id": event_id} | change)
        assert response.status_code == 409
        assert response.json()["code"] == "event_conflict"
        assert response.json()["field"] == "id"


async def test_a_batch_is_stored_in_order(client: AsyncClient) -> None:
    texts = [f"turn {number}" for number in range(100)]
    events = [EVENT | {"content": text} for text in texts]
    response = await client.post("/v1/events/batch", json={"events": events})
    assert response.status_code == 201
    assert response.json()["meta"] == {"count": 100, "created": 100}
    assert [event["text"] for event in response.json()["data"]] == texts
    listed = await client.get(
        "/v1/events", params={"namespace": "n", "order": "oldest", "limit": 100}
    )
    assert [event["text"] for event in listed.json()["data"]] == texts


async def test_a_batch_is_all_or_nothing(client: AsyncClient) -> None:
    events = [EVENT, EVENT | {"timestamp": "yesterday"}]
    response = await client.post("/v1/events/batch", json={"events": events})
    assert response.status_code == 422
    assert response.json()["field"] == "events[1].timestamp"
    assert (await client.get("/v1/events", params={"namespace": "n"})).json()["data"] == []


async def test_a_conflict_in_a_batch_stores_nothing(client: AsyncClient) -> None:
    event_id = str(uuid4())
    await add(client, id=event_id)
    events = [EVENT, EVENT | {"id": event_id, "content": "else"}]
    response = await client.post("/v1/events/batch", json=events)
    assert (response.status_code, response.json()["field"]) == (409, "events[1].id")
    listed = await client.get("/v1/events", params={"namespace": "n"})
    assert listed.json()["meta"]["count"] == 1


async def test_one_id_twice_in_a_batch(client: AsyncClient) -> None:
    event = EVENT | {"id": str(uuid4())}
    response = await client.post("/v1/events/batch", json={"events": [event, event]})
    assert response.json()["meta"] == {"count": 2, "created": 1}
    other = EVENT | {"id": str(uuid4())}
    clash = [other, other | {"content": "else"}]
    response = await client.post("/v1/events/batch", json={"events": clash})
    assert response.json()["code"] == "event_conflict"


async def test_pages_show_every_event_once(client: AsyncClient) -> None:
    stamps = [f"2024-01-01T00:00:{second:02}Z" for second in (0, 0, 0, 1, 1, 2, 3)]
    ids = [(await add(client, timestamp=stamp))["id"] for stamp in stamps]
    for order, expected in (("oldest", ids), ("newest", ids[::-1])):
        seen: list[str] = []
        params: dict[str, Any] = {"namespace": "n", "limit": 2, "order": order}
        while True:
            page = (await client.get("/v1/events", params=params)).json()
            seen += [event["id"] for event in page["data"]]
            if page["meta"]["next_cursor"] is None:
                break
            params["cursor"] = page["meta"]["next_cursor"]
        assert seen == expected


async def test_lists_are_filtered(client: AsyncClient) -> None:
    await add(client, metadata={"n": 1}, session="a", timestamp="2024-01-01T00:00:00Z")
    await add(client, metadata={"n": 2}, session="b", timestamp="2024-01-02T00:00:00Z")
    await add(client, metadata={"n": 3}, session="b", timestamp="2024-01-03T00:00:00Z")

    async def found(**params: str) -> list[int]:
        response = await client.get("/v1/events", params={"namespace": "n", **params})
        return [event["metadata"]["n"] for event in response.json()["data"]]

    assert await found() == [3, 2, 1]
    assert await found(session="b") == [3, 2]
    assert await found(since="2024-01-02T00:00:00Z") == [3, 2]
    assert await found(until="2024-01-02T00:00:00Z") == [1]
    assert await found(since="2024-01-02T00:00:00+00:00", until="2024-01-03T00:00:00Z") == [2]
    assert await found(where='{"n": {"$gt": 1}}', session="b", limit="1") == [3]
    response = await client.get("/v1/events", params={"namespace": "other"})
    assert response.json()["data"] == []


async def test_metadata_is_merged(client: AsyncClient) -> None:
    stored = await add(client, metadata={"a": 1, "b": {"c": 2, "d": 3}, "e": [1]})
    patch = {"a": None, "b": {"c": None, "x": "y"}, "e": [2]}
    response = await client.patch(f"/v1/events/{stored['id']}/metadata", json=patch)
    assert response.status_code == 200
    assert response.json()["metadata"] == {"b": {"d": 3, "x": "y"}, "e": [2]}
    assert response.json() == stored | {"metadata": response.json()["metadata"]}


async def test_a_deleted_event_leaves_nothing(client: AsyncClient, memory: Memory) -> None:
    stored, other = await add(client), await add(client)
    await Worker(memory).drain()
    waiting = await add(client)
    for event in (stored, waiting):
        assert (await client.delete(f"/v1/events/{event['id']}")).status_code == 204
        assert (await client.get(f"/v1/events/{event['id']}")).status_code == 404
        assert (await client.delete(f"/v1/events/{event['id']}")).status_code == 404
    stats = (await client.get("/v1/stats")).json()
    assert (stats["events"], stats["embeddings"], stats["queue"]["pending"]) == (1, 1, 0)
    assert (await client.get(f"/v1/events/{other['id']}")).status_code == 200


async def test_unknown_ids(client: AsyncClient) -> None:
    for response in (
        await client.get(f"/v1/events/{uuid4()}"),
        await client.delete(f"/v1/events/{uuid4()}"),
        await client.patch(f"/v1/events/{uuid4()}/metadata", json={}),
    ):
        assert response.status_code == 404
        assert response.json()["code"] == "event_not_found"
        assert response.headers["content-type"] == "application/problem+json"


async def test_a_client_can_wait_for_the_embedding(
    client: AsyncClient, worked_memory: Memory
) -> None:
    response = await client.post("/v1/events", params={"wait": "embedded"}, json=EVENT)
    assert response.json()["pending"] is False
    assert (await worked_memory.stats()).embeddings == 1
