"""Webhooks: targets that are told of changes, and the log of what has been told to them."""

from typing import Annotated, Literal, Self
from uuid import UUID

from pydantic import BeforeValidator, Field, SecretStr, model_validator
from pydantic_core import PydanticCustomError

from mnemolite.models.events import PageMeta
from mnemolite.models.feed import ChangeKind, FeedQuery, FeedScope
from mnemolite.models.values import MAX_LIMIT, Frozen, Timestamp, Where, check_text
from mnemolite.signing import key_of

DeliveryStatus = Literal["pending", "delivered", "skipped", "dead"]


def _check_url(value: object) -> object:
    return check_text(value) if isinstance(value, str) else value


def _check_secret(value: object) -> object:
    if isinstance(value, str):
        try:
            key_of(value)
        except ValueError as error:
            raise PydanticCustomError("invalid_secret", "{why}", {"why": str(error)}) from None
    return value


Url = Annotated[
    str,
    BeforeValidator(_check_url),
    Field(min_length=1, max_length=2000, description="Where to send: https://host/path."),
]
Secret = Annotated[
    SecretStr | None,
    BeforeValidator(_check_secret),
    Field(description="whsec_ and the base64 of 24 to 64 bytes; made by the server by default."),
]


class NewWebhook(FeedQuery):
    """A target, and which part of the feed it is told."""

    url: Url
    secret: Secret = None


class WebhookChange(Frozen):
    """What is to be different."""

    url: Url | None = None
    enabled: bool | None = Field(
        None, description="false: nothing is told. true: it goes on where it was."
    )

    @model_validator(mode="after")
    def _something(self) -> Self:
        if self.url is None and self.enabled is None:
            raise PydanticCustomError("nothing_to_change", "url or enabled must be given")
        return self


class Webhook(FeedScope):
    """A target, what it is told, and how it fares."""

    id: UUID
    url: str
    where: Where = None
    created_at: Timestamp
    enabled: bool
    disabled_reason: str | None = Field(description="Why the server disabled it; null otherwise.")
    cursor: str = Field(description="Up to here the feed has been turned into deliveries.")
    gap_at: Timestamp | None = Field(
        description="When it was last found that the feed no longer held what followed."
    )
    pending: int = Field(description="Deliveries that are still to be made.")
    dead: int = Field(description="Deliveries that were given up.")
    failures: int = Field(description="Rounds of requests that failed since the last success.")
    paused_until: Timestamp | None = Field(description="The target is left alone until then.")
    last_success_at: Timestamp | None
    last_failure_at: Timestamp | None
    last_error: str | None


class CreatedWebhook(Webhook):
    """A new webhook with its secret, which is told this once."""

    secret: str = Field(description="The key of the signatures; it is never shown again.")


class Delivery(Frozen):
    """One change that is told to one target."""

    id: UUID = Field(description="Sent as the header webhook-id, the same with every try.")
    cursor: str = Field(description="Place of the change in the feed.")
    kind: ChangeKind
    changed_at: Timestamp
    event_id: UUID
    namespace: str
    timestamp: Timestamp = Field(description="Of the event.")
    status: DeliveryStatus = Field(
        description="skipped: there was nothing left to tell. dead: given up."
    )
    attempts: int
    created_at: Timestamp
    next_attempt_at: Timestamp | None
    tried_at: Timestamp | None = Field(description="When the last try was over.")
    ended_at: Timestamp | None
    milliseconds: int | None = Field(description="How long the last try took.")
    response_status: int | None = Field(description="What the target answered to it.")
    error: str | None


class DeliveryQuery(Frozen):
    """A page of deliveries, the newest first."""

    status: DeliveryStatus | None = Field(None, description="Only those.")
    limit: int = Field(50, ge=1, le=MAX_LIMIT, description="Deliveries per page.")
    cursor: str | None = Field(None, description="`meta.next_cursor` of the page before.")


class DeliveryPage(Frozen):
    """One page of deliveries."""

    data: list[Delivery]
    meta: PageMeta


class WebhookState(Frozen):
    """All webhooks together."""

    enabled: int
    disabled: int
    pending: int = Field(description="Deliveries that are still to be made.")
    dead: int = Field(description="Deliveries that were given up.")
    oldest_pending_seconds: float | None = Field(description="Age of the oldest pending one.")
