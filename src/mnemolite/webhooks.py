"""The store of webhooks: targets that are told of changes, added, listed, changed and removed."""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from mnemolite.addresses import parse_target, resolve
from mnemolite.changes import ChangeStore, Position, Selection, cursor_of
from mnemolite.database import Database
from mnemolite.deliveries import Deliveries
from mnemolite.errors import WebhookNotFoundError
from mnemolite.ids import new_event_id
from mnemolite.models import (
    CreatedWebhook,
    DeliveryPage,
    DeliveryQuery,
    NewWebhook,
    Webhook,
    WebhookChange,
    WebhookState,
)
from mnemolite.settings.webhooks import WebhookSettings
from mnemolite.signing import new_secret
from mnemolite.sql import load

_queries = load("webhooks")

_QUERY = {"namespace", "all_namespaces", "session", "kinds", "where"}


class Webhooks:
    """SQL in, models out."""

    def __init__(
        self, database: Database, changes: ChangeStore, *, settings: WebhookSettings
    ) -> None:
        self._database = database
        self._changes = changes
        self._settings = settings
        self.deliveries = Deliveries(database, changes, settings=settings)

    async def add(self, new: NewWebhook) -> CreatedWebhook:
        """A new webhook, and its secret, which nobody is told again.

        Raises InvalidInputError, UnknownHostError, ForbiddenAddressError for its address,
        InvalidFilterError, CursorGoneError.
        """
        await self._check(new.url)
        Selection.of(new)
        epoch, position = await self._changes.start(new.after)
        secret = new.secret.get_secret_value() if new.secret else new_secret()
        webhook = new_event_id(datetime.now(UTC))
        parameters = {
            "id": webhook,
            "url": new.url,
            "secret": secret,
            "query": new.model_dump_json(include=_QUERY),
            "epoch": epoch,
            "xid": str(position.xid),
            "n": position.n,
        }
        async with self._database.connection() as connection:
            await connection.execute(_queries["add"], parameters)
        added = await self.get(webhook)
        return CreatedWebhook(**added.model_dump(), secret=secret)

    async def all(self) -> list[Webhook]:
        """Every webhook, the oldest first."""
        return await self._read(None)

    async def get(self, webhook: UUID) -> Webhook:
        """One webhook. Raises WebhookNotFoundError."""
        for found in await self._read(webhook):
            return found
        raise _not_found(webhook)

    async def change(self, webhook: UUID, change: WebhookChange) -> Webhook:
        """Send elsewhere, or stop sending, or go on. Raises WebhookNotFoundError, and as ``add``.

        A webhook that goes on does so where it was, or with the oldest change that is kept.
        """
        if change.url is not None:
            await self._check(change.url)
        parameters = {"id": webhook, "url": change.url, "enabled": change.enabled}
        async with self._database.connection() as connection:
            await connection.execute(_queries["change"], parameters)
        return await self.get(webhook)

    async def remove(self, webhook: UUID) -> None:
        """Remove a webhook and its log. Raises WebhookNotFoundError."""
        async with self._database.connection() as connection:
            removed = await connection.execute(_queries["remove"], {"id": webhook})
        if not removed.rowcount:
            raise _not_found(webhook)

    async def log(self, webhook: UUID, query: DeliveryQuery) -> DeliveryPage:
        """A page of a webhook's deliveries. Raises WebhookNotFoundError, InvalidCursorError."""
        await self.get(webhook)
        return await self.deliveries.page(webhook, query)

    async def retry(self, webhook: UUID, delivery: UUID | None = None) -> int:
        """Try again what was given up; how many deliveries. Raises WebhookNotFoundError."""
        await self.get(webhook)
        return await self.deliveries.retry(webhook, delivery)

    async def state(self) -> WebhookState:
        """All webhooks in figures."""
        async with self._database.connection() as connection:
            row = await (await connection.execute(_queries["state"])).fetchone()
        return WebhookState.model_validate(row)

    async def _check(self, url: str) -> None:
        target = parse_target(url)
        await resolve(target, allow_private=self._settings.allow_private)

    async def _read(self, webhook: UUID | None) -> list[Webhook]:
        async with self._database.connection() as connection:
            cursor = await connection.execute(_queries["read"], {"id": webhook})
            return [_webhook(row) async for row in cursor]


def _webhook(row: dict[str, Any]) -> Webhook:
    epoch, xid, n, query = (row.pop(name) for name in ("epoch", "xid", "n", "query"))
    cursor = cursor_of(epoch, Position(int(xid), n))
    return Webhook.model_validate(row | query | {"cursor": cursor})


def _not_found(webhook: UUID) -> WebhookNotFoundError:
    return WebhookNotFoundError(
        f"No webhook has the id {webhook}.",
        field="webhook_id",
        remedy="GET /v1/webhooks lists them all.",
    )
