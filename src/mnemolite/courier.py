"""The courier: tell targets of changes, several at a time, and each of them in order."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Sequence
from uuid import uuid4

import structlog

from mnemolite import metrics
from mnemolite.addresses import parse_target
from mnemolite.deliveries import Deliveries, Due, Outcome, Round, Turn, wait_seconds
from mnemolite.errors import DatabaseError, MnemoliteError
from mnemolite.memory import VERSION, Memory
from mnemolite.models import DeliveryStatus, format_timestamp
from mnemolite.notifications import end, listen
from mnemolite.posting import Answer, Poster
from mnemolite.settings.webhooks import WebhookSettings
from mnemolite.signing import sign

log = structlog.get_logger(__name__)

_WEBHOOKS_AT_ONCE = 16
# Then the webhook waits for its next turn, if others are waiting.
_ROUNDS = 20
_FAULT_PAUSE_SECONDS = 1.0
# One change that the target cannot take says nothing of the others.
_TOLERATED_FAILURES = 3


class Courier:
    """Delivers to webhooks until told to stop; any number of them share the work."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._id = uuid4()
        self._deliveries: Deliveries = memory.webhooks.deliveries
        self._settings = memory.settings.webhooks
        self._awake = asyncio.Event()
        self._stopping = asyncio.Event()
        self._turns: set[asyncio.Task[None]] = set()
        self._listener: asyncio.Task[None] | None = None

    def stop(self) -> None:
        """End after the requests at hand."""
        self._stopping.set()
        self._awake.set()

    async def run(self) -> None:
        """Work until ``stop`` is called."""
        try:
            while not self._stopping.is_set():
                self._awake.clear()
                pause = await self._take_turns()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self._awake.wait()
            if self._turns:
                await asyncio.wait(self._turns)
        finally:
            for task in list(self._turns):
                await end(task)
            if self._listener is not None:
                await end(self._listener)

    async def _take_turns(self) -> float:
        """Take on the webhooks that something waits for; how long to pause then."""
        try:
            while len(self._turns) < _WEBHOOKS_AT_ONCE and not self._stopping.is_set():
                turn = await self._deliveries.claim(self._id)
                if turn is None:
                    break
                self._take(turn)
        except DatabaseError as error:
            log.warning("courier_waits", code=error.code, error=str(error))
            return _FAULT_PAUSE_SECONDS
        return self._settings.poll_seconds

    def _take(self, turn: Turn) -> None:
        if self._listener is None:  # a memory without webhooks needs no connection for them
            listening = listen(self._memory.database, self._awake.set)
            self._listener = asyncio.create_task(listening)
        task = asyncio.create_task(self._serve(turn))
        self._turns.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._turns.discard(task)
        self._awake.set()
        if not task.cancelled() and (crash := task.exception()):
            # Its claim lapses: the webhook has another turn, and nothing was lost.
            log.error("courier_crash", exc_info=crash)

    async def _serve(self, turn: Turn) -> None:
        """One webhook's turn: read what is new, send what is due, as long as there is any."""
        rest = self._settings.poll_seconds
        try:
            if await turn.collect():
                rest = 0.0
            async with self._poster(turn) as poster:
                for _ in range(_ROUNDS):
                    if self._stopping.is_set() or not await self._round(turn, poster):
                        break
                    rest = 0.0
        except MnemoliteError as error:
            log.warning("courier_fault", code=error.code, error=str(error))
            rest = _FAULT_PAUSE_SECONDS
        with contextlib.suppress(DatabaseError):  # then the claim lapses
            await turn.release(rest)

    async def _round(self, turn: Turn, poster: Poster) -> bool:
        """Whether there was anything to do."""
        due = await turn.due(self._settings.parallel)
        if due is None:
            return False
        deliveries, failures = due
        if deliveries:
            tries = [self._deliver(turn, delivery, poster=poster) for delivery in deliveries]
            answers = await asyncio.gather(*tries)
            await self._record(turn, deliveries, answers=answers, failures=failures)
        if len(deliveries) < self._settings.parallel:
            return await turn.collect() or bool(deliveries)
        return True

    async def _deliver(self, turn: Turn, delivery: Due, *, poster: Poster) -> Answer | None:
        """Send one change; None when there is nothing left to send."""
        if delivery.data is None:
            return None
        body = body_of(delivery)
        seconds = int(time.time())
        message_id = str(delivery.id)
        return await poster.post(
            body,
            {
                "Content-Type": "application/json",
                "User-Agent": f"MnemoLite/{VERSION}",
                "webhook-id": message_id,
                "webhook-timestamp": str(seconds),
                "webhook-signature": sign(
                    turn.secret, body, message_id=message_id, seconds=seconds
                ),
            },
        )

    async def _record(
        self,
        turn: Turn,
        deliveries: Sequence[Due],
        *,
        answers: Sequence[Answer | None],
        failures: int,
    ) -> None:
        outcomes = [
            outcome_of(delivery, answer, settings=self._settings)
            for delivery, answer in zip(deliveries, answers, strict=True)
        ]
        made = [answer for answer in answers if answer is not None]
        round_ = round_of(outcomes, made, failures=failures, settings=self._settings)
        await turn.record(round_)
        for outcome, answer in zip(outcomes, answers, strict=True):
            _tell(turn, outcome, answer=answer)
        if round_.gone:
            log.warning("webhook_disabled", webhook=str(turn.webhook), reason="410 Gone")

    def _poster(self, turn: Turn) -> Poster:
        return Poster(
            turn.url,
            seconds=self._settings.timeout_seconds,
            allow_private=self._settings.allow_private,
        )


def body_of(delivery: Due) -> bytes:
    """What is sent: JSON in UTF-8."""
    head = {
        "type": f"event.{delivery.kind}",
        "timestamp": format_timestamp(delivery.changed_at),
        "cursor": delivery.cursor,
    }
    return f'{json.dumps(head)[:-1]}, "data": {delivery.data}}}'.encode()


def outcome_of(delivery: Due, answer: Answer | None, *, settings: WebhookSettings) -> Outcome:
    """What becomes of a delivery by what the target answered."""
    if answer is None:
        return Outcome(delivery.id, "skipped", tried=False)
    status, wait = _status_of(delivery, answer, settings=settings)
    return Outcome(
        delivery.id,
        status,
        wait_seconds=wait,
        milliseconds=round(answer.seconds * 1000),
        response_status=answer.status,
        error=answer.error,
    )


def _status_of(
    delivery: Due, answer: Answer, *, settings: WebhookSettings
) -> tuple[DeliveryStatus, float]:
    """What a delivery is from now on, and how many seconds it waits."""
    if answer.taken:
        return "delivered", 0.0
    if answer.gone:  # it waits until somebody enables the webhook
        return "pending", 0.0
    attempts = delivery.attempts + 1
    if attempts >= settings.max_attempts:
        return "dead", 0.0
    return "pending", max(answer.retry_after_seconds, wait_seconds(attempts, settings))


def round_of(
    outcomes: Sequence[Outcome],
    answers: Sequence[Answer],
    *,
    failures: int,
    settings: WebhookSettings,
) -> Round:
    """What a round of requests says of the target, and for how long it is left alone."""
    succeeded = any(answer.taken for answer in answers)
    failed = [answer for answer in answers if not answer.taken]
    strikes = 0 if succeeded else failures + 1
    pause = max((answer.retry_after_seconds for answer in failed), default=0.0)
    if any(answer.away for answer in failed):
        pause = max(pause, wait_seconds(strikes, settings))
    elif strikes > _TOLERATED_FAILURES:
        pause = max(pause, wait_seconds(strikes - _TOLERATED_FAILURES, settings))
    return Round(
        outcomes,
        failures=strikes,
        pause_seconds=pause,
        succeeded=succeeded,
        gone=any(answer.gone for answer in failed),
        error=failed[0].error if failed else None,
    )


def _tell(turn: Turn, outcome: Outcome, *, answer: Answer | None) -> None:
    """Into the log goes the host alone: the rest of an address can be a secret."""
    said = "failed" if outcome.status == "pending" else outcome.status
    metrics.WEBHOOK_DELIVERIES.labels(said).inc()
    if answer is None or answer.taken:
        return
    write = log.error if said == "dead" else log.warning
    write(
        "webhook_failed",
        webhook=str(turn.webhook),
        host=parse_target(turn.url).host,
        delivery=str(outcome.delivery),
        error=answer.error,
        given_up=said == "dead",
    )


@contextlib.asynccontextmanager
async def running_courier(memory: Memory) -> AsyncIterator[Courier]:
    """A courier beside what the block does; it ends with the requests at hand.

    What takes longer than MNEMO_SHUTDOWN_SECONDS is cut off, and sent again by whoever is next.
    """
    courier = Courier(memory)
    task = asyncio.create_task(courier.run(), name="courier")
    try:
        yield courier
    finally:
        courier.stop()
        done, _ = await asyncio.wait([task], timeout=memory.settings.server.shutdown_seconds)
        if not done:
            log.warning("courier_cut_off")
            await end(task)
