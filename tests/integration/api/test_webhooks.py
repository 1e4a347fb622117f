"""Webhooks over REST: their routes, and the clear answer to each thing sent wrong."""

import base64
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import httpx
import pytest

from mnemolite.courier import running_courier
from mnemolite.memory import Memory
from mnemolite.settings import Settings
from mnemolite.settings.webhooks import WebhookSettings
from tests.webhook_target import Reply, WebhookTarget

HOOKS = "/v1/webhooks"
SECRET = "whsec_" + base64.b64encode(b"k" * 32).decode()


@pytest.fixture
def settings(settings: Settings) -> Settings:
    webhooks = WebhookSettings(
        allow_private=True, poll_seconds=0.05, retry_seconds=0.01, max_attempts=1
    )
    return settings.model_copy(update={"webhooks": webhooks})


@pytest.fixture
def target() -> Iterator[WebhookTarget]:
    with WebhookTarget().running() as running:
        yield running


async def test_a_webhook_from_its_beginning_to_its_end(
    client: httpx.AsyncClient, memory: Memory, target: WebhookTarget
) -> None:
    body = {"url": target.url, "namespace": "n", "where": {"user": "ada"}, "kinds": ["added"]}
    added = await client.post(HOOKS, json=body)
    assert added.status_code == 201
    hook = added.json()
    assert hook.pop("secret").startswith("whsec_")
    address = added.headers["location"]
    assert address == f"{HOOKS}/{hook['id']}"
    assert hook.items() >= body.items()
    assert (await client.get(address)).json() == hook
    assert (await client.get(HOOKS)).json() == {"data": [hook], "meta": {"count": 1}}

    target.reply = lambda _: Reply(400)
    event = {"namespace": "n", "content": "x", "metadata": {"user": "ada"}}
    assert (await client.post("/v1/events", json=event)).status_code == 201
    async with running_courier(memory):
        for outcome in ("dead", "delivered"):
            while True:
                query = {"status": outcome, "limit": 1}
                page = (await client.get(f"{address}/deliveries", params=query)).json()
                if page["data"]:
                    break
            assert page["meta"] == {"next_cursor": None, "count": 1}
            target.reply = lambda _: Reply()
            retried = await client.post(f"{address}/deliveries/retry")
            assert retried.json() == {"retried": int(outcome == "dead")}
    assert len(target.received) == 2

    changed = await client.patch(address, json={"enabled": False})
    assert changed.json()["enabled"] is False
    assert (await client.delete(address)).status_code == 204
    gone = await client.get(address)
    assert (gone.status_code, gone.json()["code"]) == (404, "webhook_not_found")


async def test_a_secret_of_ones_own_is_told_once(
    client: httpx.AsyncClient, target: WebhookTarget
) -> None:
    added = await client.post(HOOKS, json={"url": target.url, "secret": SECRET})
    assert added.json()["secret"] == SECRET
    for address in (HOOKS, added.headers["location"]):
        assert SECRET not in (await client.get(address)).text
    changed = await client.patch(added.headers["location"], json={"url": target.url + "&x"})
    assert SECRET not in changed.text
    assert changed.json()["url"] == target.url + "&x"


BAD: list[tuple[Any, str, str | None]] = [
    ({}, "invalid_input", "url"),
    ({"url": None}, "invalid_input", "url"),
    ({"url": 5}, "invalid_input", "url"),
    ({"url": ""}, "invalid_input", "url"),
    ({"url": "x" * 2001}, "invalid_input", "url"),
    ({"url": "http://a\x00b"}, "invalid_text", "url"),
    ({"url": "ftp://127.0.0.1"}, "invalid_input", "url"),
    ({"url": "http://user:hunter2@127.0.0.1"}, "invalid_input", "url"),
    ({"url": "http://nowhere.invalid"}, "unknown_host", "url"),
    ({"namespace": ""}, "invalid_input", "namespace"),
    ({"session": 5}, "invalid_input", "session"),
    ({"kinds": []}, "invalid_input", "kinds"),
    ({"kinds": ["moved"]}, "invalid_input", "kinds[0]"),
    ({"where": []}, "invalid_input", "where"),
    ({"where": {"a": {"$near": 1}}}, "invalid_filter", None),
    ({"after": "yesterday"}, "invalid_cursor", "after"),
    ({"after": "2024-01-01"}, "invalid_timestamp", "after"),
    ({"secret": "hunter2"}, "invalid_input", "secret"),
    ({"secret": 5}, "invalid_input", "secret"),
    ({"secret": SECRET + "\x00"}, "invalid_input", "secret"),
    ({"secrets": SECRET}, "invalid_input", "secrets"),
    ([], "invalid_input", None),
]


@pytest.mark.parametrize(("wrong", "code", "field"), BAD)
async def test_a_wrong_webhook_is_refused_and_not_stored(
    client: httpx.AsyncClient, wrong: Any, code: str, field: str | None
) -> None:
    good = {"url": "http://127.0.0.1:9/"} if wrong and "url" not in wrong else {}
    answer = await client.post(HOOKS, json=good | wrong if isinstance(wrong, dict) else wrong)
    problem = answer.json()
    assert (answer.status_code, problem["code"]) == (422, code)
    assert field is None or problem["field"] == field
    assert "hunter2" not in answer.text
    assert (await client.get(HOOKS)).json()["data"] == []


@pytest.mark.parametrize(
    ("body", "status"),
    [(b'{"url": "http://\\ud800"}', 422), (b"{", 400), (b'{"url": NaN}', 400)],
)
async def test_a_body_that_is_no_text_is_refused(
    client: httpx.AsyncClient, body: bytes, status: int
) -> None:
    headers = {"Content-Type": "application/json"}
    assert (await client.post(HOOKS, content=body, headers=headers)).status_code == status


async def test_a_cursor_that_is_gone_is_told(client: httpx.AsyncClient) -> None:
    body = {"url": "http://127.0.0.1:9/", "after": "00000000-1-1"}
    answer = await client.post(HOOKS, json=body)
    assert (answer.status_code, answer.json()["code"]) == (410, "cursor_gone")


@pytest.mark.parametrize("change", [{}, {"enabled": None}, {"enabled": "perhaps"}, {"n": 1}])
async def test_a_wrong_change_is_refused(
    client: httpx.AsyncClient, target: WebhookTarget, change: dict[str, Any]
) -> None:
    added = await client.post(HOOKS, json={"url": target.url})
    answer = await client.patch(added.headers["location"], json=change)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_input")


async def test_an_unknown_id_is_said_to_be_unknown(client: httpx.AsyncClient) -> None:
    address = f"{HOOKS}/{uuid4()}"
    answers = [
        await client.get(address),
        await client.patch(address, json={"enabled": True}),
        await client.delete(address),
        await client.get(f"{address}/deliveries"),
        await client.post(f"{address}/deliveries/retry"),
    ]
    codes = {(answer.status_code, answer.json()["code"]) for answer in answers}
    assert codes == {(404, "webhook_not_found")}
    malformed = await client.get(f"{HOOKS}/five")
    assert (malformed.status_code, malformed.json()["field"]) == (422, "webhook_id")


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ({"status": "lost"}, "invalid_input"),
        ({"limit": 0}, "invalid_input"),
        ({"limit": 1001}, "invalid_input"),
        ({"cursor": "rubbish"}, "invalid_cursor"),
        ({"page": 2}, "invalid_input"),
    ],
)
async def test_a_wrong_page_is_refused(
    client: httpx.AsyncClient, target: WebhookTarget, query: dict[str, Any], code: str
) -> None:
    added = await client.post(HOOKS, json={"url": target.url})
    answer = await client.get(f"{added.headers['location']}/deliveries", params=query)
    assert (answer.status_code, answer.json()["code"]) == (422, code)
