"""How fast a model turns text into vectors: by length, in batches, cached, and for many callers."""

import asyncio
import random
import re
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np

from mnemolite.embeddings import Embedder, create_embedder
from mnemolite.embeddings.batching import BatchingEmbedder, wrap_embedder
from mnemolite.metrics import resident_bytes
from mnemolite.settings import EmbeddingSettings

LENGTHS = (2, 50, 256)
BATCHES = (10, 100)
CALLERS = (1, 4, 16)
_BATCHED_LENGTH = 50
# Of a window, for the marks that a model puts around a text.
_MARKS = 2
_ROUNDS_A_BATCH = 5
_CACHED_CALLS = 2000
_CACHE_BYTES = 1024 * 1024
_TICK_SECONDS = 0.001

# English words that are one token each in the vocabularies of the usual models.
_WORDS = re.findall(
    r"\w+",
    """
    time people way day man world life hand part child eye woman place work week case point company
    number group problem fact water room mother area money story month lot right study book job word
    business issue side kind head house service friend father power hour game line end law car city
    name team minute idea body information back parent face level office door health person art war
    history party result change morning reason research girl guy moment air
    """,
)

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Subject:
    """A loaded provider, and what it cost to load."""

    embedder: Embedder
    front: BatchingEmbedder
    load_seconds: float
    resident_bytes: int  # what the process grew by, libraries included

    @classmethod
    def load(cls, settings: EmbeddingSettings) -> "Subject":
        """Load the model and let it embed once. Raises what ``create_embedder`` raises."""
        before = resident_bytes()
        started = time.perf_counter()
        embedder = create_embedder(settings)
        embedder.embed(["first"], "query")
        elapsed = time.perf_counter() - started
        own = settings.model_copy(update={"cache_size": _CACHE_BYTES, "redis_url": None})
        front = wrap_embedder(embedder, own)
        return cls(embedder, front, elapsed, resident_bytes() - before)


class Texts:
    """Texts of one length in tokens, no two alike, the same in every run."""

    def __init__(self) -> None:
        self._choice = random.Random(0)

    def some(self, count: int, *, length: int) -> list[str]:
        words = min(length, max(LENGTHS) - _MARKS)
        return [" ".join(self._choice.choices(_WORDS, k=words)) for _ in range(count)]


async def measure(
    providers: Mapping[str, EmbeddingSettings], *, rounds: int, progress: Progress
) -> dict[str, Any]:
    """The figures of each provider; they take turns, so that a busy machine slows all alike."""
    async with AsyncExitStack() as stack:
        subjects: dict[str, Subject] = {}
        for name, settings in providers.items():
            progress(f"loading {name}", len(subjects), len(providers))
            subjects[name] = await asyncio.to_thread(Subject.load, settings)
            await stack.enter_async_context(subjects[name].front)
        figures = {name: _describe(subject) for name, subject in subjects.items()}
        steps = list(_steps(rounds))
        for number, (group, label, step) in enumerate(steps):
            progress(f"{group} {label}", number, len(steps))
            for name, measured in (await step(subjects)).items():
                figures[name].setdefault(group, {})[label] = measured
    return {"rounds": rounds, "providers": figures}


Step = Callable[[Mapping[str, Subject]], Awaitable[dict[str, Any]]]


def _steps(rounds: int) -> Iterator[tuple[str, str, Step]]:
    """What is measured, by group and label."""
    texts = Texts()
    for length in LENGTHS:
        singles = [texts.some(1, length=length) for _ in range(rounds)]
        yield "single_ms", str(length), _timed(singles)
    for size in BATCHES:
        count = max(2, rounds // _ROUNDS_A_BATCH)
        batches = [texts.some(size, length=_BATCHED_LENGTH) for _ in range(count)]
        yield "batch_ms", str(size), _timed(batches)
    yield "cached_us", "hit", _cached
    for callers in CALLERS:
        asked = texts.some(2 * rounds, length=_BATCHED_LENGTH)
        yield "callers", str(callers), _concurrent(asked, callers)


def _timed(batches: Sequence[list[str]]) -> Step:
    """Each batch by each provider in turn, without the front."""

    async def step(subjects: Mapping[str, Subject]) -> dict[str, Any]:
        taken: dict[str, list[float]] = {name: [] for name in subjects}
        for batch in batches:
            for name, subject in subjects.items():
                started = time.perf_counter()
                await asyncio.to_thread(subject.embedder.embed, batch, "document")
                taken[name].append((time.perf_counter() - started) * 1000)
        return {name: _percentiles(values) for name, values in taken.items()}

    return step


async def _cached(subjects: Mapping[str, Subject]) -> dict[str, Any]:
    """A query that was asked before, in microseconds."""
    measured = {}
    for name, subject in subjects.items():
        await subject.front.embed_query("asked before")
        taken = []
        for _ in range(_CACHED_CALLS):
            started = time.perf_counter()
            await subject.front.embed_query("asked before")
            taken.append((time.perf_counter() - started) * 1_000_000)
        measured[name] = _percentiles(taken)
    return measured


def _concurrent(texts: Sequence[str], callers: int) -> Step:
    """So many callers, each asking for the next text as soon as it has its vector."""

    async def step(subjects: Mapping[str, Subject]) -> dict[str, Any]:
        return {name: await _one(subject) for name, subject in subjects.items()}

    async def _one(subject: Subject) -> dict[str, float]:
        unasked = iter(texts)
        taken: list[float] = []

        async def call() -> None:
            for text in unasked:
                asked = time.perf_counter()
                await subject.front.embed_query(text)
                taken.append((time.perf_counter() - asked) * 1000)

        stalls = Stalls()
        watcher = asyncio.create_task(stalls.watch())
        started = time.perf_counter()
        await asyncio.gather(*(call() for _ in range(callers)))
        elapsed = time.perf_counter() - started
        watcher.cancel()
        return {
            "per_second": round(len(texts) / elapsed, 1),
            "longest_stall_ms": round(stalls.longest * 1000, 1),
            **_percentiles(taken),
        }

    return step


class Stalls:
    """How long the event loop kept others waiting, at the longest."""

    def __init__(self) -> None:
        self.longest = 0.0

    async def watch(self) -> None:
        while True:
            started = time.perf_counter()
            await asyncio.sleep(_TICK_SECONDS)
            late = time.perf_counter() - started - _TICK_SECONDS
            self.longest = max(self.longest, late)


def _describe(subject: Subject) -> dict[str, Any]:
    info = subject.front.info
    return {
        "provider": info.provider,
        "model": info.model,
        "dimension": info.dimension,
        "load_seconds": round(subject.load_seconds, 2),
        "resident_bytes": subject.resident_bytes,
    }


def _percentiles(values: Sequence[float]) -> dict[str, float]:
    p50, p95, p99 = np.percentile(values, [50, 95, 99])
    return {"p50": round(float(p50), 3), "p95": round(float(p95), 3), "p99": round(float(p99), 3)}
