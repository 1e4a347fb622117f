"""A batch: what a worker has claimed is embedded and stored, slice by slice, or put back."""

import asyncio
from collections.abc import Iterator, Sequence
from typing import Protocol

import structlog

from mnemolite import metrics
from mnemolite.embeddings import Span
from mnemolite.embeddings.batching import BatchingEmbedder
from mnemolite.embeddings.templates import recall_text
from mnemolite.errors import (
    MODEL_FAULTS,
    EmbeddingError,
    InvalidInputError,
    MnemoliteError,
    ModelUnavailableError,
)
from mnemolite.queue import Claim, EmbeddedPassage, PendingEvent

log = structlog.get_logger(__name__)

# Some ten seconds of work on two cores. What is stored is safe, and its vectors leave the memory.
_SLICE_CHARACTERS = 500_000
_HARMLESS_TEXT = "MnemoLite"


class Store(Protocol):
    """How what is embedded gets to the database."""

    async def __call__(
        self, events: Sequence[PendingEvent], *, passages: Sequence[EmbeddedPassage]
    ) -> None: ...


class Batch:
    """The events of one claim on their way through the model."""

    def __init__(
        self, claim: Claim, embedder: BatchingEmbedder, *, store: Store, retry_seconds: float
    ) -> None:
        self._claim = claim
        self._embedder = embedder
        self._store = store
        self._retry_seconds = retry_seconds

    async def run(self) -> None:
        """Be done with each event in one way or another.

        Raises what the model raises when it is out of reach, which is no fault of the texts.
        """
        for events in _slices(self._claim.events):
            await self._embed_and_store(events)

    async def _embed_and_store(self, events: Sequence[PendingEvent]) -> None:
        """Embed all at once; if that fails, each half, until the bad texts are alone."""
        try:
            passages = await self._embed(events)
        except MODEL_FAULTS:
            raise
        except (EmbeddingError, InvalidInputError) as error:
            if len(events) == 1:
                await self._check_model(error)
                await self._put_back(events[0], error)
                return
            half = len(events) // 2
            await self._embed_and_store(events[:half])
            await self._embed_and_store(events[half:])
            return
        await self._store(events, passages=passages)

    async def _embed(self, events: Sequence[PendingEvent]) -> list[EmbeddedPassage]:
        parts = await asyncio.to_thread(_cut, events, self._embedder)
        texts = [
            recall_text(event.text[slice(*span)], speaker=event.speaker, timestamp=event.timestamp)
            for event, _, span in parts
            if event.text
        ]
        vectors = await self._embedder.embed_documents(texts)
        return [
            EmbeddedPassage(event, number, span, vector)
            for (event, number, span), vector in zip(parts, vectors, strict=True)
        ]

    async def _check_model(self, error: MnemoliteError) -> None:
        """Raise ModelUnavailableError if the model fails on a harmless text as well."""
        try:
            await self._embedder.embed_documents([_HARMLESS_TEXT])
        except MODEL_FAULTS:
            raise
        except EmbeddingError as fault:
            raise ModelUnavailableError(f"The model fails on any text: {fault}") from error

    async def _put_back(self, event: PendingEvent, error: MnemoliteError) -> None:
        said = f"{error.code}: {error}"
        parked = await self._claim.fail(event, said, retry_seconds=self._retry_seconds)
        metrics.EMBEDDING_FAILURES.inc()
        log.warning(
            "embedding_failed", event_id=str(event.event_id), parked=parked, error=str(error)
        )


def _slices(events: Sequence[PendingEvent]) -> Iterator[list[PendingEvent]]:
    """The events in their order, in slices of a bounded number of characters."""
    part: list[PendingEvent] = []
    characters = 0
    for event in events:
        length = len(event.text or "")
        if part and characters + length > _SLICE_CHARACTERS:
            yield part
            part, characters = [], 0
        part.append(event)
        characters += length
    if part:
        yield part


def _cut(
    events: Sequence[PendingEvent], embedder: BatchingEmbedder
) -> list[tuple[PendingEvent, int, Span]]:
    """The passages of the events, numbered within each; long texts take their time."""
    return [
        (event, number, span)
        for event in events
        if event.text and not event.text.isspace()
        for number, span in enumerate(embedder.passages(event.text))
    ]
