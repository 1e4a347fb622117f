"""Routes of webhooks: add, list, change and remove targets; the log of what is told to them."""

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Body, Query, Response
from pydantic import BaseModel

from mnemolite.api.deps import MemoryDep, StrictJsonRoute
from mnemolite.api.problems import DATABASE, WITH_BODY, WRITING, example, responses
from mnemolite.errors import (
    CursorGoneError,
    ForbiddenAddressError,
    InvalidCursorError,
    InvalidFilterError,
    InvalidInputError,
    InvalidTextError,
    InvalidTimestampError,
    MnemoliteError,
    UnknownHostError,
    WebhookNotFoundError,
)
from mnemolite.models import (
    CountMeta,
    CreatedWebhook,
    DeliveryPage,
    DeliveryQuery,
    NewWebhook,
    Webhook,
    WebhookChange,
)

router = APIRouter(prefix="/v1/webhooks", tags=["webhooks"], route_class=StrictJsonRoute)

_ID = "0199c0de-0000-7000-8000-000000000001"
_EXAMPLE_NEW: dict[str, Any] = {
    "url": "https://agents.example.com/memory",
    "namespace": "travel",
    "kinds": ["added", "deleted"],
    "where": {"user": "ada"},
}
_EXAMPLE: dict[str, Any] = {
    **_EXAMPLE_NEW,
    "all_namespaces": False,
    "session": None,
    "id": _ID,
    "created_at": "2026-01-02T03:04:05.678901Z",
    "enabled": True,
    "disabled_reason": None,
    "cursor": "5f3a9c01-812-0",
    "gap_at": None,
    "pending": 0,
    "dead": 0,
    "failures": 0,
    "paused_until": None,
    "last_success_at": "2026-01-02T04:04:05Z",
    "last_failure_at": None,
    "last_error": None,
}
_EXAMPLE_DELIVERY: dict[str, Any] = {
    "id": "0199c0de-0000-7000-8000-000000000002",
    "cursor": "5f3a9c01-812-57",
    "kind": "added",
    "changed_at": "2026-01-02T03:04:05Z",
    "event_id": "0187fb9b-6600-7d2a-9c31-3f0a5b6c7d8e",
    "namespace": "travel",
    "timestamp": "2026-01-02T03:04:05Z",
    "status": "dead",
    "attempts": 15,
    "created_at": "2026-01-02T03:04:05Z",
    "next_attempt_at": None,
    "tried_at": "2026-01-02T08:04:05Z",
    "ended_at": "2026-01-02T08:04:05Z",
    "milliseconds": 12,
    "response_status": 500,
    "error": "The target answered 500.",
}
_ADDRESS: tuple[type[MnemoliteError], ...] = (
    *WITH_BODY,
    *WRITING,
    InvalidTextError,
    UnknownHostError,
    ForbiddenAddressError,
)


class WebhookList(BaseModel):
    """Every webhook, the oldest first."""

    data: list[Webhook]
    meta: CountMeta


class RetriedDeliveries(BaseModel):
    """How many deliveries were given another round of tries."""

    retried: int


@router.post(
    "",
    status_code=201,
    summary="Add a webhook",
    responses={
        201: example(_EXAMPLE | {"secret": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"}),
        **responses(*_ADDRESS, InvalidFilterError, InvalidTimestampError, InvalidCursorError,
                    CursorGoneError),
    },
)  # fmt: skip
async def add_webhook(
    memory: MemoryDep,
    webhook: Annotated[NewWebhook, Body(examples=[_EXAMPLE_NEW])],
    *,
    response: Response,
) -> CreatedWebhook:
    """The changes of a part of the feed are sent to the address from now on, or from `after` on.
    The answer holds the secret that they are signed with; it is never shown again."""
    added = await memory.webhooks.add(webhook)
    response.headers["Location"] = f"/v1/webhooks/{added.id}"
    return added


@router.get(
    "",
    summary="List webhooks",
    responses={200: example({"data": [_EXAMPLE], "meta": {"count": 1}}), **responses(*DATABASE)},
)
async def list_webhooks(memory: MemoryDep) -> WebhookList:
    """With how each of them fares; without their secrets."""
    webhooks = await memory.webhooks.all()
    return WebhookList(data=webhooks, meta=CountMeta(count=len(webhooks)))


@router.get(
    "/{webhook_id}",
    summary="Get a webhook",
    responses={
        200: example(_EXAMPLE),
        **responses(InvalidInputError, WebhookNotFoundError, *DATABASE),
    },
)
async def get_webhook(memory: MemoryDep, webhook_id: UUID) -> Webhook:
    """What it is told, how it fares, and how far it has come."""
    return await memory.webhooks.get(webhook_id)


@router.patch(
    "/{webhook_id}",
    summary="Change a webhook",
    responses={200: example(_EXAMPLE), **responses(*_ADDRESS, WebhookNotFoundError)},
)
async def change_webhook(
    memory: MemoryDep,
    webhook_id: UUID,
    *,
    change: Annotated[WebhookChange, Body(examples=[{"enabled": True}])],
) -> Webhook:
    """Send to another address, stop sending, or go on where it was."""
    return await memory.webhooks.change(webhook_id, change)


@router.delete(
    "/{webhook_id}",
    status_code=204,
    summary="Remove a webhook",
    responses=responses(InvalidInputError, WebhookNotFoundError, *WRITING),
)
async def remove_webhook(memory: MemoryDep, webhook_id: UUID) -> None:
    """With its log, and with what is still to be delivered."""
    await memory.webhooks.remove(webhook_id)


@router.get(
    "/{webhook_id}/deliveries",
    summary="List deliveries",
    responses={
        200: example({"data": [_EXAMPLE_DELIVERY], "meta": {"next_cursor": None, "count": 1}}),
        **responses(InvalidInputError, InvalidCursorError, WebhookNotFoundError, *DATABASE),
    },
)
async def list_deliveries(
    memory: MemoryDep, webhook_id: UUID, *, params: Annotated[DeliveryQuery, Query()]
) -> DeliveryPage:
    """What is told to a webhook and what came of it, the newest first."""
    return await memory.webhooks.log(webhook_id, params)


@router.post(
    "/{webhook_id}/deliveries/retry",
    summary="Retry dead letters",
    responses={
        200: example({"retried": 2}),
        **responses(InvalidInputError, WebhookNotFoundError, *WRITING),
    },
)
async def retry_deliveries(
    memory: MemoryDep,
    webhook_id: UUID,
    *,
    delivery: Annotated[
        UUID | None, Query(description="Only this one; by default all that were given up.")
    ] = None,
) -> RetriedDeliveries:
    """Deliveries that were given up are due again, with all their tries."""
    return RetriedDeliveries(retried=await memory.webhooks.retry(webhook_id, delivery))
