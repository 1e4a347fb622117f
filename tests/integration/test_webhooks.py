"""Webhooks: each change is told at least once and in order, whatever the target does."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from mnemolite.courier import running_courier
from mnemolite.memory import Memory
from mnemolite.models import CreatedWebhook, NewEvent, NewWebhook
from mnemolite.settings import Settings
from mnemolite.settings.webhooks import WebhookSettings
from tests.webhook_target import WebhookTarget

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Targets on this machine, and short waits."""
    webhooks = WebhookSettings(
        allow_private=True,
        timeout_seconds=1,
        poll_seconds=0.05,
        retry_seconds=0.05,
        retry_max_seconds=0.1,
        max_attempts=4,
    )
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
    async with asyncio.timeout(30):
        while True:
            state = await memory.webhooks.state()
            async with memory.database.connection() as connection:
                behind = await connection.execute(
                    "SELECT FROM webhooks w WHERE enabled AND EXISTS (SELECT FROM event_changes c "
                    "WHERE (c.xid, c.n) > (w.xid, w.n))"
                )
                if not state.pending and not behind.rowcount:
                    return
            await asyncio.sleep(0.02)


async def test_what_becomes_of_an_event_is_told_in_order(
    delivering: Memory, target: WebhookTarget
) -> None:
    hook = await add(delivering, target)
    event = await delivering.add(NewEvent(content="The ferry leaves.", metadata={"n": 1}))
    await until_told(delivering)
    changed = await delivering.merge_metadata(event.id, {"n": 2})
    await until_told(delivering)
    await delivering.delete(event.id)
    await until_told(delivering)
    assert [one.json["type"] for one in target.received] == [
        "event.added", "event.changed", "event.deleted"
    ]  # fmt: skip
    assert target.received[1].json["data"] == changed.model_dump(mode="json")
    deleted = target.received[2].json["data"]
    assert deleted == {"id": str(event.id), "namespace": "default",
                       "timestamp": event.model_dump(mode="json")["timestamp"]}  # fmt: skip
    assert hook.enabled
