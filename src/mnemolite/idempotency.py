"""Idempotency keys: a request that is sent again under its key is answered as it was before."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Literal
from uuid import UUID

from mnemolite.database import Connection, Database
from mnemolite.errors import IdempotencyConflictError, IdempotencyGoneError, InvalidInputError
from mnemolite.models import DEFAULT_NAMESPACE, NewEvent
from mnemolite.sql import load

_queries = load("idempotency")

HEADER = "Idempotency-Key"
_MOST_CHARACTERS = 255
_UNFIT = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")
_PURGE_STEP = 500

Form = Literal["event", "batch"]


@dataclass(frozen=True, slots=True)
class KeyedRequest:
    """A client's key, and what was asked for under it.

    A key belongs to the namespace of the request's first event.
    """

    key: str
    namespace: str
    digest: bytes

    @classmethod
    def of(cls, key: str, events: Sequence[NewEvent], *, form: Form) -> "KeyedRequest":
        """``form`` says how the answer is shaped. Raises InvalidInputError for an unfit key."""
        if not 1 <= len(key) <= _MOST_CHARACTERS or _UNFIT.search(key):
            raise InvalidInputError(
                f"A key has 1 to {_MOST_CHARACTERS} characters, none of them a control character.",
                field=HEADER,
                remedy="Send a new UUID for each new request, and the same one for its retries.",
            )
        namespace = events[0].namespace if events else DEFAULT_NAMESPACE
        return cls(key, namespace, _digest(events, form))


@dataclass(frozen=True, slots=True)
class Answer:
    """How a request was answered: its events, which of them were pending, and how many new."""

    event_ids: Sequence[UUID]
    pending: Sequence[bool]
    created: int


class IdempotencyKeys:
    """Remembers for some hours which request came under which key."""

    def __init__(self, database: Database, *, hours: int) -> None:
        self._database = database
        self._hours = hours

    async def answer(self, connection: Connection, request: KeyedRequest) -> Answer | None:
        """How the request was answered, None if it is new.

        Others with the same key wait from now on until the transaction ends. Raises
        IdempotencyConflictError when the key belongs to another request, IdempotencyGoneError when
        an event of the answer was deleted since.
        """
        place = {"namespace": request.namespace, "key": request.key}
        row = await (await connection.execute(_queries["answer"], place)).fetchone()
        if row is None:
            return None
        if row["digest"] is None:
            raise gone(request)
        if row["digest"] != request.digest:
            raise IdempotencyConflictError(
                f"The key {request.key!r} was used for another request in the namespace "
                f"{request.namespace!r}.",
                field=HEADER,
                remedy="Send the first request again as it was, or this one under a new key.",
            )
        return Answer(row["event_ids"], row["pending"], row["created"])

    async def record(
        self, connection: Connection, request: KeyedRequest, *, answer: Answer
    ) -> None:
        """Remember the answer, in the transaction that stores the events."""
        parameters = {
            "namespace": request.namespace,
            "key": request.key,
            "digest": request.digest,
            "event_ids": list(answer.event_ids),
            "pending": list(answer.pending),
            "created": answer.created,
            "hours": self._hours,
        }
        await connection.execute(_queries["record"], parameters)

    async def purge(self) -> int:
        """Forget some of the keys whose time is over; how many."""
        async with self._database.connection() as connection:
            return (await connection.execute(_queries["purge"], {"step": _PURGE_STEP})).rowcount


def gone(request: KeyedRequest) -> IdempotencyGoneError:
    """What a retry is told whose event is no more."""
    return IdempotencyGoneError(
        f"An event that was stored under the key {request.key!r} has been deleted since.",
        field=HEADER,
        remedy="Nothing was stored now. To store it anew on purpose, send it under a new key.",
    )


def _digest(events: Sequence[NewEvent], form: Form) -> bytes:
    """SHA-256 of what was asked for, as it came: before the time of an undated event is set.

    Defaults are left out, so that a later version's new fields do not change it.
    """
    asked = [form, *(event.model_dump(mode="json", exclude_defaults=True) for event in events)]
    return sha256(json.dumps(asked, sort_keys=True).encode()).digest()
