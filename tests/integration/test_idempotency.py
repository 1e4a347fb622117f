"""Idempotency keys: a request that is sent again is answered alike and stores nothing."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any
from uuid import uuid4

import httpx
import psycopg
import pytest

from mnemolite.errors import IdempotencyConflictError, InvalidInputError
from mnemolite.memory import Memory
from mnemolite.models import EventQuery, NewEvent
from mnemolite.settings import Settings
from mnemolite.worker import Worker, running_worker

Sql = psycopg.Connection[tuple[Any, ...]]

EVENT = {"namespace": "n", "content": {"text": "I like tea."}, "metadata": {"topic": "drinks"}}
KEY = "7f0c1d9e"


@pytest.fixture
def sql(memory: Memory) -> Iterator[Sql]:
    """Somebody with psql, in the memory's database."""
    with psycopg.connect(memory.database.dsn, autocommit=True) as connection:
        yield connection


@pytest.fixture
async def other(memory: Memory, settings: Settings) -> AsyncIterator[Memory]:
    """A second process's memory on the same database."""
    async with Memory.open(settings) as opened:
        yield opened


async def post(client: httpx.AsyncClient, body: Any = EVENT, *, key: str = KEY) -> httpx.Response:
    return await client.post("/v1/events", json=body, headers={"Idempotency-Key": key})


async def post_batch(client: httpx.AsyncClient, events: list[Any]) -> httpx.Response:
    return await client.post("/v1/events/batch", json=events, headers={"Idempotency-Key": KEY})


def count(sql: Sql, table: str) -> int:
    row = sql.execute(f"SELECT count(*) FROM {table}".encode()).fetchone()
    return int(row[0]) if row else 0


def assert_replayed(again: httpx.Response, first: httpx.Response) -> None:
    assert "idempotency-replayed" not in first.headers
    assert again.headers["idempotency-replayed"] == "true"
    assert (again.status_code, again.json()) == (first.status_code, first.json())
    assert again.headers.get("location") == first.headers.get("location")


async def test_a_retry_is_answered_as_the_first_try(client: httpx.AsyncClient, sql: Sql) -> None:
    first = await post(client)
    assert first.status_code == 201
    assert_replayed(await post(client), first)
    assert count(sql, "events") == 1


async def test_a_retry_of_a_batch_is_answered_as_the_first_try(
    client: httpx.AsyncClient, sql: Sql
) -> None:
    stored = (await client.post("/v1/events", json=EVENT | {"id": str(uuid4())})).json()
    known = EVENT | {"id": stored["id"], "timestamp": stored["timestamp"]}
    twice = EVENT | {"id": str(uuid4())}
    events = [EVENT | {"content": ""}, known, twice, twice, EVENT]
    first = await post_batch(client, events)
    assert first.json()["meta"] == {"count": 5, "created": 3}
    assert [event["pending"] for event in first.json()["data"]] == [False, True, True, True, True]
    assert_replayed(await post_batch(client, events), first)
    assert count(sql, "events") == 4


async def test_the_answer_stays_that_of_the_first_try_after_embedding(
    client: httpx.AsyncClient, memory: Memory
) -> None:
    first = await post(client)
    await Worker(memory).drain()
    assert (await client.get(first.headers["location"])).json()["pending"] is False
    assert_replayed(await post(client), first)


async def test_a_stored_event_under_a_new_key_stays_a_200(client: httpx.AsyncClient) -> None:
    event = EVENT | {"id": str(uuid4())}
    await client.post("/v1/events", json=event)
    first = await post(client, event)
    assert first.status_code == 200
    assert_replayed(await post(client, event), first)


async def test_waiting_is_no_part_of_the_request(client: httpx.AsyncClient, memory: Memory) -> None:
    first = await post(client)
    async with running_worker(memory):
        waited = await client.post(
            "/v1/events?wait=embedded", json=EVENT, headers={"Idempotency-Key": KEY}
        )
    assert waited.headers["idempotency-replayed"] == "true"
    assert waited.json() == first.json() | {"pending": False}


async def test_the_same_in_other_words_is_the_same_request(client: httpx.AsyncClient) -> None:
    first = await post(client, {"namespace": "default", "content": {"text": "tea", "n": 1}})
    again = await post(client, {"content": {"n": 1, "text": "tea"}, "metadata": {}})
    assert_replayed(again, first)


@pytest.mark.parametrize(
    "change",
    [
        {"content": "I like coffee."},
        {"metadata": {}},
        {"session": "s"},
        {"timestamp": "2024-01-01T00:00:00Z"},
        {"id": str(uuid4())},
    ],
)
async def test_a_key_of_another_request_is_refused(
    client: httpx.AsyncClient, sql: Sql, change: dict[str, Any]
) -> None:
    await post(client)
    refused = await post(client, EVENT | change)
    problem = refused.json()
    assert (refused.status_code, problem["code"]) == (409, "idempotency_conflict")
    assert problem["field"] == "Idempotency-Key"
    assert problem["remedy"]
    assert count(sql, "events") == 1


async def test_one_event_and_a_batch_of_one_are_two_requests(client: httpx.AsyncClient) -> None:
    await post(client)
    assert (await post_batch(client, [EVENT])).status_code == 409


async def test_a_key_belongs_to_the_namespace_of_the_first_event(
    client: httpx.AsyncClient, sql: Sql
) -> None:
    await post(client)
    elsewhere = await post(client, EVENT | {"namespace": "m"})
    assert elsewhere.status_code == 201
    assert "idempotency-replayed" not in elsewhere.headers
    assert count(sql, "events") == 2


async def test_python_has_keys_too(memory: Memory, sql: Sql) -> None:
    first = await memory.add("tea", idempotency_key=KEY)
    assert await memory.add("tea", idempotency_key=KEY) == first
    many = await memory.add_many([NewEvent(content={"text": "tea"})], idempotency_key="other")
    again = await memory.add_many([NewEvent(content={"text": "tea"})], idempotency_key="other")
    assert again == many
    with pytest.raises(IdempotencyConflictError):
        await memory.add("coffee", idempotency_key=KEY)
    assert await memory.add_many([], idempotency_key="none") == ([], 0)
    assert count(sql, "events") == 2


@pytest.mark.parametrize("key", ["", "k" * 256, "a\x00b", "a\x1fb", "a\x7fb", "\ud800"])
async def test_unfit_keys(memory: Memory, sql: Sql, key: str) -> None:
    with pytest.raises(InvalidInputError) as raised:
        await memory.add("tea", idempotency_key=key)
    assert raised.value.field == "Idempotency-Key"
    assert raised.value.remedy
    assert count(sql, "events") == 0


async def test_an_unfit_key_names_its_header(client: httpx.AsyncClient) -> None:
    for key in ("", "k" * 256):
        response = await post(client, key=key)
        assert (response.status_code, response.json()["field"]) == (422, "Idempotency-Key")


@pytest.mark.parametrize("key", ["k" * 255, "é 日本 🎉", "'; DROP TABLE events", "a%sb", '"q"'])
async def test_any_other_text_is_a_key(memory: Memory, key: str) -> None:
    first = await memory.add("tea", idempotency_key=key)
    assert await memory.add("tea", idempotency_key=key) == first


async def test_a_request_that_failed_takes_no_key(client: httpx.AsyncClient, sql: Sql) -> None:
    taken = (await client.post("/v1/events", json=EVENT)).json()["id"]
    assert (await post(client, EVENT | {"id": taken, "content": "else"})).status_code == 409
    assert (await post(client, EVENT | {"timestamp": "yesterday"})).status_code == 422
    assert count(sql, "idempotency_keys") == 0
    assert (await post(client)).status_code == 201


# --- At the same time ---------------------------------------------------------------------------


async def test_one_key_from_many_clients_at_once_is_one_event(
    memory: Memory, other: Memory, sql: Sql
) -> None:
    batch = [NewEvent(content={"text": f"turn {n}"}) for n in range(20)]
    memories = [memory, other]
    tries = [memories[n % 2].store(batch, idempotency_key=KEY) for n in range(20)]
    answers = await asyncio.gather(*tries)
    assert [answer.replayed for answer in answers].count(False) == 1
    assert len({tuple(event.model_dump_json() for event in a.events) for a in answers}) == 1
    assert {answer.created for answer in answers} == {20}
    assert count(sql, "events") == 20


async def test_one_key_for_two_requests_at_once_is_a_conflict(
    memory: Memory, other: Memory, sql: Sql
) -> None:
    memories = [memory, other]
    tries = [memories[n % 2].add(f"text {n % 2}", idempotency_key=KEY) for n in range(10)]
    answers = await asyncio.gather(*tries, return_exceptions=True)
    assert [isinstance(answer, IdempotencyConflictError) for answer in answers].count(True) == 5
    assert count(sql, "events") == 1


async def test_many_keys_for_one_id_at_once_are_one_event(memory: Memory, other: Memory) -> None:
    new = NewEvent(content={"text": "tea"}, id=uuid4())
    memories = [memory, other]
    tries = [memories[n % 2].store([new], idempotency_key=f"key {n % 5}") for n in range(20)]
    answers = await asyncio.gather(*tries)
    assert sum(answer.created for answer in answers if not answer.replayed) == 1
    assert len({answer.events[0].model_dump_json() for answer in answers}) == 1


# --- What a key outlives ------------------------------------------------------------------------


async def test_a_late_retry_does_not_bring_back_what_was_deleted(
    client: httpx.AsyncClient, sql: Sql
) -> None:
    first = await post_batch(client, [EVENT, EVENT])
    kept, deleted = first.json()["data"]
    await client.delete(f"/v1/events/{deleted['id']}")
    for body in ([EVENT, EVENT], [EVENT | {"content": "else"}]):
        again = await post_batch(client, body)
        assert (again.status_code, again.json()["code"]) == (410, "idempotency_gone")
        assert again.json()["remedy"]
    page = (await client.get("/v1/events", params={"namespace": "n"})).json()["data"]
    assert [event["id"] for event in page] == [kept["id"]]
    assert sql.execute("SELECT digest, event_ids, pending FROM idempotency_keys").fetchall() == [
        (None, [], [])
    ]


async def test_an_event_that_went_with_its_partition_does_not_come_back(
    client: httpx.AsyncClient, sql: Sql
) -> None:
    await post(client)
    sql.execute("ALTER TABLE events DISABLE TRIGGER idempotency_keys_blank")
    sql.execute("DELETE FROM events")  # as a dropped partition, which fires no trigger
    assert (await post(client)).json()["code"] == "idempotency_gone"
    assert count(sql, "events") == 0


async def test_a_dropped_namespace_takes_its_keys_along(
    client: httpx.AsyncClient, sql: Sql
) -> None:
    await post(client)
    sql.execute("DELETE FROM events")
    sql.execute("DELETE FROM namespaces")
    assert count(sql, "idempotency_keys") == 0


async def test_no_text_is_kept_with_a_key(client: httpx.AsyncClient, sql: Sql) -> None:
    await post(client)
    row = sql.execute("SELECT idempotency_keys::text FROM idempotency_keys").fetchone()
    assert row is not None
    assert KEY in row[0]
    assert "tea" not in row[0]
    assert "drinks" not in row[0]


# --- The end of a key ---------------------------------------------------------------------------


async def test_a_key_lives_as_long_as_set(memory: Memory, sql: Sql) -> None:
    await memory.add("tea", idempotency_key=KEY)
    left = (
        "SELECT (extract(epoch FROM expires_at - created_at) / 3600)::integer FROM idempotency_keys"
    )
    assert sql.execute(left.encode()).fetchone() == (memory.settings.idempotency.hours,)


async def test_a_key_that_has_expired_is_free(memory: Memory, sql: Sql) -> None:
    first = await memory.add("tea", idempotency_key=KEY)
    sql.execute("UPDATE idempotency_keys SET expires_at = now()")
    second = await memory.add("coffee", idempotency_key=KEY)
    assert second.id != first.id
    assert await memory.add("coffee", idempotency_key=KEY) == second


async def test_an_idle_worker_forgets_expired_keys(memory: Memory, sql: Sql) -> None:
    for number in range(3):
        await memory.add("tea", idempotency_key=f"key {number}")
    sql.execute("UPDATE idempotency_keys SET expires_at = now() WHERE key <> 'key 1'")
    async with running_worker(memory):
        for _ in range(200):
            if count(sql, "idempotency_keys") == 1:
                break
            await asyncio.sleep(0.05)
    assert sql.execute("SELECT key FROM idempotency_keys").fetchall() == [("key 1",)]
    assert (await memory.list_events(EventQuery())).meta.count == 3
