"""Webhooks: each change is told at least once and in order, whatever the target does."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import timedelta
from random import Random
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from mnemolite import metrics
from mnemolite.courier import running_courier
from mnemolite.doctor import Finding, examine
from mnemolite.errors import ForbiddenAddressError, InvalidCursorError, WebhookNotFoundError
from mnemolite.memory import Memory
from mnemolite.models import (
    CreatedWebhook,
    Delivery,
    DeliveryQuery,
    FeedQuery,
    NewEvent,
    NewWebhook,
    Webhook,
    WebhookChange,
)
from mnemolite.settings import Settings
from mnemolite.settings.webhooks import WebhookSettings
from mnemolite.signing import sign
from tests.webhook_target import Received, Reply, WebhookTarget

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Targets on this machine, and short waits."""
    webhooks = WebhookSettings(
        allow_private=True,
        timeout_seconds=10,
        poll_seconds=0.05,
        retry_seconds=0.05,
        retry_max_seconds=0.1,
        max_attempts=4,
    )
    return settings.model_copy(update={"webhooks": webhooks})


@pytest.fixture
def hasty(settings: Settings) -> Settings:
    """A target that hangs is given up soon."""
    webhooks = settings.webhooks.model_copy(update={"timeout_seconds": 0.5})
    return settings.model_copy(update={"webhooks": webhooks})


@pytest.fixture
def target() -> Iterator[WebhookTarget]:
    with WebhookTarget().running() as running:
        yield running


@pytest.fixture
async def delivering(memory: Memory) -> AsyncIterator[Memory]:
    """A memory with a courier."""
    async with running_courier(memory):
        yield memory


async def add(memory: Memory, target: WebhookTarget, **options: Any) -> CreatedWebhook:
    return await memory.webhooks.add(NewWebhook(url=target.url, **options))


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not true():
            await asyncio.sleep(0.01)


async def until_told(memory: Memory) -> None:
    """Wait until nothing is pending, and the feed has been read to its end."""
    async with asyncio.timeout(100):
        while not await is_told(memory):
            await asyncio.sleep(0.02)


async def is_told(memory: Memory) -> bool:
    async with memory.database.connection() as connection:
        unread = await connection.execute(
            "SELECT FROM webhooks w WHERE enabled AND EXISTS (SELECT FROM event_changes c "
            "WHERE (c.xid, c.n) > (w.xid, w.n))"
        )
        # Read one after the other, and in this order: what is read becomes pending.
        return not unread.rowcount and not (await memory.webhooks.state()).pending


async def execute(memory: Memory, statement: str, **parameters: object) -> None:
    async with memory.database.connection() as connection:
        await connection.execute(statement.encode(), parameters)


async def log_of(memory: Memory, hook: Webhook, **query: Any) -> list[Delivery]:
    """A webhook's deliveries, the oldest first."""
    page = await memory.webhooks.log(hook.id, DeliveryQuery(**query))
    return page.data[::-1]


def first_is(reply: Reply) -> Callable[[Received], Reply]:
    """The first request gets the reply, all later ones are taken."""
    replies = iter([reply])
    return lambda _: next(replies, Reply())


# --- What is told -------------------------------------------------------------------------------


async def test_what_becomes_of_an_event_is_told_in_order(
    delivering: Memory, target: WebhookTarget
) -> None:
    await add(delivering, target)
    event = await delivering.add(NewEvent(content="The ferry leaves.", metadata={"n": 1}))
    await until_told(delivering)
    changed = await delivering.merge_metadata(event.id, {"n": 2})
    await until_told(delivering)
    await delivering.delete(event.id)
    await until_told(delivering)
    kinds = [one.json["type"] for one in target.received]
    assert kinds == ["event.added", "event.changed", "event.deleted"]
    assert target.received[1].json["data"] == changed.model_dump(mode="json")
    deleted = target.received[2].json["data"]
    place = event.model_dump(mode="json", include={"id", "namespace", "timestamp"})
    assert deleted == place


async def test_a_request_is_signed_and_addressed(delivering: Memory, target: WebhookTarget) -> None:
    hook = await add(delivering, target)
    await delivering.add("Grüße \u2028 \U0001f600")
    await until_told(delivering)
    (received,) = target.received
    (delivery,) = await log_of(delivering, hook)
    assert received.path == "/hook?from=memory"
    assert received.headers["host"] == f"127.0.0.1:{target.port}"
    assert received.headers["content-type"] == "application/json"
    assert received.headers["webhook-id"] == str(delivery.id)
    assert received.headers["webhook-signature"] == sign(
        hook.secret,
        received.body,
        message_id=str(delivery.id),
        seconds=int(received.headers["webhook-timestamp"]),
    )
    assert received.json["cursor"] == delivery.cursor
    assert received.text == "Grüße \u2028 \U0001f600"
    assert (delivery.status, delivery.attempts, delivery.response_status) == ("delivered", 1, 204)


async def test_a_webhook_is_told_what_it_asked_for(
    delivering: Memory, target: WebhookTarget
) -> None:
    await add(delivering, target, namespace="n", session="s", where={"user": "ada"})
    told = NewEvent(namespace="n", session="s", content="told", metadata={"user": "ada"})
    for other in ({"namespace": "m"}, {"session": "t"}, {"metadata": {"user": "bo"}}):
        await delivering.add(told.model_copy(update={"content": {"text": "not told"}, **other}))
    event = await delivering.add(told)
    gone = await delivering.add(told.model_copy(update={"session": "t"}))
    await until_told(delivering)
    await delivering.delete(gone.id)
    await until_told(delivering)
    told_of = [(one.json["type"], one.json["data"]["id"]) for one in target.received]
    assert told_of == [("event.added", str(event.id)), ("event.deleted", str(gone.id))]


async def test_kinds_and_every_namespace(delivering: Memory, target: WebhookTarget) -> None:
    await add(delivering, target, all_namespaces=True, kinds=["deleted"])
    for namespace in ("a", "b"):
        event = await delivering.add(NewEvent(namespace=namespace, content="x"))
        await delivering.delete(event.id)
    await until_told(delivering)
    told = [(one.json["type"], one.json["data"]["namespace"]) for one in target.received]
    assert sorted(told) == [("event.deleted", "a"), ("event.deleted", "b")]


async def test_a_webhook_begins_where_it_was_told_to(memory: Memory, target: WebhookTarget) -> None:
    for text in ("first", "second"):
        await memory.add(text)
    changes = [change async for change in memory.follow(FeedQuery(after="start"), wait=False)]
    with WebhookTarget().running() as whole, WebhookTarget().running() as rest:
        await add(memory, target)
        await add(memory, whole, after="start")
        await add(memory, rest, after=changes[0].cursor)
        await memory.add("third")
        async with running_courier(memory):
            await until_told(memory)
        assert target.texts == ["third"]
        assert sorted(map(str, whole.texts)) == ["first", "second", "third"]
        assert sorted(map(str, rest.texts)) == ["second", "third"]


async def test_what_was_deleted_is_not_brought_back(memory: Memory, target: WebhookTarget) -> None:
    hook = await add(memory, target)
    event = await memory.add(NewEvent(content="My secret is 4711.", metadata={"pin": 4711}))
    await memory.merge_metadata(event.id, {"pin": 4712})
    turn = await memory.webhooks.deliveries.claim(uuid4())
    assert turn is not None
    assert await turn.collect()
    await turn.release(0)
    await memory.delete(event.id)
    async with running_courier(memory):
        await until_told(memory)
    assert [one.json["type"] for one in target.received] == ["event.deleted"]
    log = await log_of(memory, hook)
    assert [one.status for one in log] == ["skipped", "skipped", "delivered"]
    async with memory.database.connection() as connection:
        cursor = await connection.execute(
            "SELECT row_to_json(d)::text AS d FROM webhook_deliveries d"
        )
        rows = [row["d"] async for row in cursor]
    assert len(rows) == 3
    assert not any("secret" in row or "pin" in row for row in rows)


async def test_what_matches_no_more_is_not_told(memory: Memory, target: WebhookTarget) -> None:
    hook = await add(memory, target, where={"public": True})
    event = await memory.add(NewEvent(content="x", metadata={"public": True}))
    turn = await memory.webhooks.deliveries.claim(uuid4())
    assert turn is not None
    assert await turn.collect()
    await turn.release(0)
    await memory.merge_metadata(event.id, {"public": False})
    async with running_courier(memory):
        await until_told(memory)
    assert target.received == []
    assert [one.status for one in await log_of(memory, hook)] == ["skipped"]


async def test_many_changes_are_each_told_once(delivering: Memory, target: WebhookTarget) -> None:
    await add(delivering, target)
    events = [NewEvent(content=f"event {number}") for number in range(600)]
    await delivering.add_many(events)
    await until_told(delivering)
    texts = [str(text) for text in target.texts]
    assert sorted(texts) == sorted(f"event {number}" for number in range(600))


async def test_large_events_are_told_few_at_a_time(
    delivering: Memory, target: WebhookTarget
) -> None:
    await add(delivering, target)
    noise = Random(5)
    for _ in range(4):
        content = {"text": "large", "data": noise.randbytes(2_500_000).hex()}
        await delivering.add(NewEvent(content=content))
    await until_told(delivering)
    assert target.texts == ["large"] * 4


# --- Targets that misbehave ---------------------------------------------------------------------

FAULTS = {
    "500": Reply(500),
    "404": Reply(404, body=b"x" * 100_000),
    "302": Reply(302, {"Location": "/elsewhere"}),
    "503": Reply(503),
    "closes": Reply(0),
}


@pytest.mark.parametrize("fault", FAULTS)
async def test_what_a_target_does_not_take_is_sent_again(
    delivering: Memory, target: WebhookTarget, fault: str
) -> None:
    target.reply = first_is(FAULTS[fault])
    hook = await add(delivering, target)
    await delivering.add("once more")
    await until_told(delivering)
    assert target.texts == ["once more"] * 2
    assert {one.path for one in target.received} == {"/hook?from=memory"}
    assert len({one.headers["webhook-id"] for one in target.received}) == 1
    (delivery,) = await log_of(delivering, hook)
    assert (delivery.status, delivery.attempts, delivery.error) == ("delivered", 2, None)
    fared = await delivering.webhooks.get(hook.id)
    assert fared.last_error is not None
    assert (fault in fared.last_error) == fault.isdigit()
    assert fared.failures == 0
    assert fared.last_success_at is not None


async def test_a_target_that_hangs_is_given_up(hasty: Settings, target: WebhookTarget) -> None:
    target.reply = first_is(Reply(hang=True))
    async with Memory.open(hasty) as memory, running_courier(memory):
        hook = await add(memory, target)
        await memory.add("once more")
        await until_told(memory)
        assert len({one.headers["webhook-id"] for one in target.received}) == 1
        (delivery,) = await log_of(memory, hook)
        assert (delivery.status, delivery.attempts) == ("delivered", len(target.received))
        assert "within 0.5 s" in ((await memory.webhooks.get(hook.id)).last_error or "")


async def test_a_target_that_is_away_is_waited_for(
    delivering: Memory, target: WebhookTarget
) -> None:
    with WebhookTarget().running() as other:
        hook = await add(delivering, other)
    await delivering.add("nobody there")
    while not (fared := await delivering.webhooks.get(hook.id)).last_error:
        await asyncio.sleep(0.01)
    assert "cannot be reached" in (fared.last_error or "")
    change = WebhookChange(url=target.url)
    await delivering.webhooks.change(hook.id, change)
    await until_told(delivering)
    assert target.texts == ["nobody there"]


async def test_a_target_is_left_alone_for_as_long_as_it_asks(
    delivering: Memory, target: WebhookTarget
) -> None:
    target.reply = lambda _: Reply(429, {"Retry-After": "3600"})
    hook = await add(delivering, target)
    await delivering.add("later")
    await until(lambda: bool(target.received))
    while not (fared := await delivering.webhooks.get(hook.id)).paused_until:
        await asyncio.sleep(0.01)
    await delivering.add("later too")
    while len(log := await log_of(delivering, hook)) < 2:
        await asyncio.sleep(0.01)
    assert fared.last_failure_at is not None
    assert fared.paused_until == fared.last_failure_at + timedelta(hours=1)
    assert (log[0].next_attempt_at or fared.created_at) >= fared.paused_until
    assert [one.attempts for one in log] == [1, 0]
    target.reply = lambda _: Reply()
    await delivering.webhooks.change(hook.id, WebhookChange(enabled=True))
    await until(lambda: len(target.received) == 2)
    assert target.texts == ["later", "later too"]


async def test_a_target_that_is_gone_is_told_nothing_more(
    delivering: Memory, target: WebhookTarget
) -> None:
    target.reply = first_is(Reply(410))
    hook = await add(delivering, target)
    await delivering.add("first")
    while (fared := await delivering.webhooks.get(hook.id)).enabled:
        await asyncio.sleep(0.01)
    assert fared.disabled_reason == "The target answered 410 Gone."
    await delivering.add("second")
    await asyncio.sleep(0.3)
    assert target.texts == ["first"]
    enabled = await delivering.webhooks.change(hook.id, WebhookChange(enabled=True))
    assert (enabled.enabled, enabled.disabled_reason, enabled.failures) == (True, None, 0)
    await until_told(delivering)
    assert sorted(map(str, target.texts)) == ["first", "first", "second"]


async def test_what_is_refused_again_and_again_is_a_dead_letter(
    delivering: Memory, target: WebhookTarget
) -> None:
    target.reply = lambda received: Reply(400 if received.text == "poison" else 204)
    hook = await add(delivering, target)
    await delivering.add("poison")
    for number in range(5):
        await delivering.add(f"harmless {number}")
    await until_told(delivering)
    (dead,) = await log_of(delivering, hook, status="dead")
    assert (dead.attempts, dead.response_status) == (4, 400)
    assert dead.error == "The target answered 400."
    assert target.texts.count("poison") == 4
    assert len(target.received) == 9
    assert (await delivering.webhooks.get(hook.id)).dead == 1
    assert (await delivering.stats()).webhooks.dead == 1

    target.reply = lambda _: Reply()
    assert await delivering.webhooks.retry(hook.id, uuid4()) == 0
    assert await delivering.webhooks.retry(hook.id, dead.id) == 1
    assert await delivering.webhooks.retry(hook.id) == 0
    await until_told(delivering)
    assert target.texts.count("poison") == 5
    assert await log_of(delivering, hook, status="dead") == []


async def test_changes_of_one_event_wait_for_each_other_and_others_do_not(
    memory: Memory, target: WebhookTarget
) -> None:
    refusals = iter([Reply(500), Reply(500)])
    target.reply = lambda received: next(refusals, Reply()) if received.text == "stuck" else Reply()
    await add(memory, target)
    stuck = await memory.add("stuck")
    await memory.merge_metadata(stuck.id, {"n": 1})
    await memory.add("other")
    async with running_courier(memory):
        await until_told(memory)
    kinds = [one.json["type"] for one in target.received if one.text == "stuck"]
    assert kinds == ["event.added"] * 3 + ["event.changed"]
    assert target.texts.index("other") < 2


async def test_a_slow_target_delays_nobody_else(delivering: Memory, target: WebhookTarget) -> None:
    with WebhookTarget().running() as slow:
        slow.reply = lambda _: Reply(hang=True)
        await add(delivering, slow)
        await add(delivering, target)
        for number in range(10):
            await delivering.add(f"event {number}")
            await until(lambda: f"event {number}" in target.texts)  # noqa: B023
        assert (await delivering.webhooks.state()).pending > 0


async def test_a_webhook_is_removed_in_the_middle(
    delivering: Memory, target: WebhookTarget
) -> None:
    with WebhookTarget().running() as slow:
        slow.reply = lambda _: Reply(hang=True)
        hook = await add(delivering, slow)
        await delivering.add("first")
        await until(lambda: bool(slow.received))
        await delivering.webhooks.remove(hook.id)
    with pytest.raises(WebhookNotFoundError):
        await delivering.webhooks.get(hook.id)
    await add(delivering, target)
    await delivering.add("second")
    await until_told(delivering)
    assert target.texts == ["second"]
    assert (await delivering.webhooks.state()).pending == 0


# --- Addresses ----------------------------------------------------------------------------------


@pytest.fixture
def strict(settings: Settings) -> Settings:
    """Targets on this machine are refused."""
    webhooks = settings.webhooks.model_copy(update={"allow_private": False})
    return settings.model_copy(update={"webhooks": webhooks})


async def test_an_address_inside_is_refused_when_it_is_added(
    strict: Settings, target: WebhookTarget
) -> None:
    async with Memory.open(strict) as memory:
        for url in (target.url, f"http://localhost:{target.port}"):
            with pytest.raises(ForbiddenAddressError) as refused:
                await memory.webhooks.add(NewWebhook(url=url))
            assert refused.value.field == "url"
        assert await memory.webhooks.all() == []


async def test_an_address_inside_is_refused_when_it_is_called(
    memory: Memory, strict: Settings, target: WebhookTarget
) -> None:
    """As one that led elsewhere when it was added."""
    hook = await memory.webhooks.add(NewWebhook(url=f"http://localhost:{target.port}/"))
    await memory.add("for nobody")
    async with Memory.open(strict) as other, running_courier(other):
        while not (log := await log_of(memory, hook)) or log[0].status != "dead":
            await asyncio.sleep(0.02)
    assert target.received == []
    assert (log[0].error or "").startswith("forbidden_address: localhost leads to")
    with pytest.raises(ForbiddenAddressError):
        async with Memory.open(strict) as other:
            await other.webhooks.change(hook.id, WebhookChange(url=target.url))


# --- The position in the feed -------------------------------------------------------------------


async def test_the_feed_waits_for_a_webhook(
    settings: Settings, memory: Memory, target: WebhookTarget
) -> None:
    await add(memory, target)
    await memory.add("old")
    await execute(memory, "UPDATE event_changes SET at = now() - interval '1 year'")
    assert await memory.feed.changes.purge() == 0
    async with running_courier(memory):
        await until_told(memory)
    assert target.texts == ["old"]
    assert await memory.feed.changes.purge() == 1


async def test_the_feed_does_not_wait_for_a_disabled_webhook(
    memory: Memory, target: WebhookTarget
) -> None:
    hook = await add(memory, target)
    await memory.webhooks.change(hook.id, WebhookChange(enabled=False))
    await memory.add("old")
    await execute(memory, "UPDATE event_changes SET at = now() - interval '1 year'")
    assert await memory.feed.changes.purge() == 1
    await memory.add("kept")
    await memory.webhooks.change(hook.id, WebhookChange(enabled=True))
    async with running_courier(memory):
        await until_told(memory)
    assert target.texts == ["kept"]
    assert (await memory.webhooks.get(hook.id)).gap_at is not None


async def test_a_disabled_webhook_goes_on_where_it_was(
    delivering: Memory, target: WebhookTarget
) -> None:
    hook = await add(delivering, target)
    await delivering.webhooks.change(hook.id, WebhookChange(enabled=False))
    await delivering.add("meanwhile")
    await asyncio.sleep(0.3)
    assert target.received == []
    await delivering.webhooks.change(hook.id, WebhookChange(enabled=True))
    await until_told(delivering)
    assert target.texts == ["meanwhile"]
    assert (await delivering.webhooks.get(hook.id)).gap_at is None


async def test_a_restored_database_is_told_of_from_the_start(
    memory: Memory, target: WebhookTarget
) -> None:
    hook = await add(memory, target)
    await execute(memory, "UPDATE webhooks SET xid = '9000000000'")
    await execute(memory, "UPDATE feed SET home = 'elsewhere'")
    await memory.feed.changes.settle()
    await memory.add("after the restore")
    async with running_courier(memory):
        await until(lambda: bool(target.received))
        await until_told(memory)
    assert target.texts == ["after the restore"]
    assert (await memory.webhooks.get(hook.id)).gap_at is not None


async def test_a_transaction_that_commits_late_is_told_of(
    delivering: Memory, dsn: str, target: WebhookTarget
) -> None:
    await add(delivering, target)
    await delivering.events.add_namespaces(["default"])
    async with await psycopg.AsyncConnection.connect(dsn) as slow:
        insert = 'INSERT INTO events (content) VALUES (\'{"text": "slow"}\')'
        await slow.execute(insert)
        await delivering.add("fast")
        await asyncio.sleep(0.3)
        assert target.received == []
        await slow.commit()
    await until_told(delivering)
    assert sorted(map(str, target.texts)) == ["fast", "slow"]


# --- Several deliverers -------------------------------------------------------------------------


async def test_two_deliverers_tell_each_change_once(
    settings: Settings, delivering: Memory, target: WebhookTarget
) -> None:
    with WebhookTarget().running() as second:
        async with Memory.open(settings) as other, running_courier(other):
            for one in (target, second):
                await add(delivering, one)
            for start in range(0, 200, 10):
                names = [f"event {start + number}" for number in range(10)]
                await delivering.add_many([NewEvent(content=name) for name in names])
            await until_told(delivering)
        for one in (target, second):
            texts = sorted(str(text) for text in one.texts)
            assert texts == sorted(f"event {number}" for number in range(200))


async def test_whoever_has_lost_the_claim_reads_nothing_on(
    memory: Memory, target: WebhookTarget
) -> None:
    hook = await add(memory, target)
    await memory.add("once")
    deliveries = memory.webhooks.deliveries
    late = await deliveries.claim(uuid4())
    assert late is not None
    assert await deliveries.claim(uuid4()) is None
    await execute(memory, "UPDATE webhooks SET claimed_until = now() - interval '1 second'")
    heir = await deliveries.claim(uuid4())
    assert heir is not None
    assert await heir.collect()
    assert not await late.collect()
    assert await late.due(8) is None
    await late.release(60)
    due = await heir.due(8)
    assert due is not None
    assert [one.kind for one in due[0]] == ["added"]
    assert len(await log_of(memory, hook)) == 1


# --- The log ------------------------------------------------------------------------------------


async def test_the_log_is_read_by_pages(delivering: Memory, target: WebhookTarget) -> None:
    hook = await add(delivering, target)
    await delivering.add_many([NewEvent(content=f"event {number}") for number in range(7)])
    await until_told(delivering)
    whole = (await delivering.webhooks.log(hook.id, DeliveryQuery())).data
    seen: list[Delivery] = []
    cursor = None
    while True:
        query = DeliveryQuery(limit=3, cursor=cursor, status="delivered")
        page = await delivering.webhooks.log(hook.id, query)
        seen += page.data
        if (cursor := page.meta.next_cursor) is None:
            break
    assert len(seen) == 7
    assert seen == whole
    with pytest.raises(InvalidCursorError):
        await delivering.webhooks.log(hook.id, DeliveryQuery(cursor="rubbish"))


async def test_the_log_is_purged_and_dead_letters_later(
    delivering: Memory, target: WebhookTarget
) -> None:
    target.reply = lambda received: Reply(400 if received.text == "poison" else 204)
    hook = await add(delivering, target)
    for text in ("harmless", "poison"):
        await delivering.add(text)
    await until_told(delivering)
    age = "UPDATE webhook_deliveries SET ended_at = now() - make_interval(days => %(days)s)"
    deliveries = delivering.webhooks.deliveries
    for days, left in ((6, 2), (8, 1), (31, 0)):
        await execute(delivering, age, days=days)
        await deliveries.purge()
        assert len(await log_of(delivering, hook)) == left


async def test_the_doctor_tells_of_dead_letters_and_of_disabled_webhooks(
    settings: Settings, delivering: Memory, target: WebhookTarget
) -> None:
    async def finding() -> Finding:
        return next(one for one in await examine(settings) if one.check == "webhooks")

    assert (await finding()).status == "ok"
    target.reply = lambda _: Reply(400)
    hook = await add(delivering, target)
    await delivering.add("poison")
    await until_told(delivering)
    found = await finding()
    assert (found.status, "1 given up" in found.detail) == ("wrong", True)
    target.reply = lambda _: Reply(410)
    await delivering.add("another")
    while (await delivering.webhooks.get(hook.id)).enabled:
        await asyncio.sleep(0.01)
    assert "410 Gone" in (await finding()).detail
    await delivering.refresh_gauges()
    text = metrics.render().decode()
    assert "mnemolite_webhook_dead 1.0" in text
    assert "mnemolite_webhooks_disabled 1.0" in text
