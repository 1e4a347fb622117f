"""Prometheus metrics of this process."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal

import psutil
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from mnemolite.models import PartitionWatch, QueueState, WebhookState

REGISTRY = CollectorRegistry()

REQUESTS = Counter(
    "mnemolite_requests", "Requests answered.", ["method", "route", "status"], registry=REGISTRY
)
REQUEST_SECONDS = Histogram(
    "mnemolite_request_seconds",
    "Time to answer a request.",
    ["method", "route"],
    buckets=(0.002, 0.005, 0.01, 0.02, 0.04, 0.08, 0.15, 0.3, 0.6, 1.2, 2.5, 5, 10),
    registry=REGISTRY,
)
ADDED_EVENTS = Counter("mnemolite_added_events", "Events stored.", registry=REGISTRY)
EMBEDDED_EVENTS = Counter("mnemolite_embedded_events", "Events embedded.", registry=REGISTRY)
EMBEDDING_FAILURES = Counter(
    "mnemolite_embedding_failures", "Events whose embedding failed once.", registry=REGISTRY
)
CLAIMS_TAKEN_OVER = Counter(
    "mnemolite_claims_taken_over",
    "Events taken over from a worker that had gone.",
    registry=REGISTRY,
)
EMBEDDING_SECONDS = Histogram(
    "mnemolite_embedding_seconds",
    "Time the model took for one call.",
    ["kind"],
    buckets=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5),
    registry=REGISTRY,
)
EMBEDDING_REFUSED = Counter(
    "mnemolite_embedding_refused",
    "Queries refused because too many waited for the model.",
    registry=REGISTRY,
)
SEARCH_SECONDS = Histogram(
    "mnemolite_search_seconds",
    "Time of a search, the embedding of the query included.",
    ["mode"],
    buckets=(0.002, 0.005, 0.01, 0.02, 0.04, 0.08, 0.15, 0.3, 0.6, 1.2, 2.5),
    registry=REGISTRY,
)
SEARCHES = Counter(
    "mnemolite_searches",
    "Searches by whether they have bounds of time.",
    ["time"],
    registry=REGISTRY,
)
PARTITIONED = Gauge(
    "mnemolite_partitioned", "1 when the events are partitioned, else 0.", registry=REGISTRY
)
PARTITIONS_ADVISED = Gauge(
    "mnemolite_partitions_advised",
    "1 when the events are one table that has passed the threshold, else 0.",
    registry=REGISTRY,
)
PARTITIONS_MISSING = Gauge(
    "mnemolite_partitions_missing",
    "Partitions that should be made ahead and are not.",
    registry=REGISTRY,
)
PARTITIONS_DEFAULT_ROWS = Gauge(
    "mnemolite_partitions_default_rows",
    "Rows in default partitions, of each counted up to 10,000.",
    registry=REGISTRY,
)
PARTITIONS_UNFINISHED = Gauge(
    "mnemolite_partitions_unfinished",
    "1 when a change of the layout is not finished, else 0.",
    registry=REGISTRY,
)
FEED_READERS = Gauge(
    "mnemolite_feed_readers", "Readers of the change feed in this process.", registry=REGISTRY
)
FEED_DROPPED = Counter(
    "mnemolite_feed_dropped", "Streams ended by the server.", ["reason"], registry=REGISTRY
)
FEED_LAG_SECONDS = Gauge(
    "mnemolite_feed_lag_seconds",
    "Age of the oldest change that this process has not read yet.",
    registry=REGISTRY,
)
WEBHOOK_DELIVERIES = Counter(
    "mnemolite_webhook_deliveries",
    "Tries to tell a webhook of a change.",
    ["outcome"],
    registry=REGISTRY,
)
WEBHOOK_PENDING = Gauge(
    "mnemolite_webhook_pending", "Deliveries that are still to be made.", registry=REGISTRY
)
WEBHOOK_OLDEST_SECONDS = Gauge(
    "mnemolite_webhook_oldest_seconds", "Age of the oldest pending delivery.", registry=REGISTRY
)
WEBHOOK_DEAD = Gauge("mnemolite_webhook_dead", "Deliveries that were given up.", registry=REGISTRY)
WEBHOOKS_DISABLED = Gauge(
    "mnemolite_webhooks_disabled", "Webhooks that are told nothing.", registry=REGISTRY
)
RERANK_SECONDS = Histogram(
    "mnemolite_rerank_seconds",
    "Time a search waited for the reranker.",
    ["outcome"],
    buckets=(0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.7, 1, 2, 5, 10),
    registry=REGISTRY,
)
SEARCH_PART_SECONDS = Histogram(
    "mnemolite_search_part_seconds",
    "Time of a search by what it waited for.",
    ["part"],
    buckets=(0.001, 0.002, 0.005, 0.01, 0.02, 0.04, 0.08, 0.15, 0.3, 0.6, 1.2, 2.5),
    registry=REGISTRY,
)
QUEUE_PENDING = Gauge(
    "mnemolite_queue_pending", "Events that wait for their embedding.", registry=REGISTRY
)
QUEUE_PARKED = Gauge(
    "mnemolite_queue_parked", "Events whose embedding was given up.", registry=REGISTRY
)
QUEUE_OLDEST_SECONDS = Gauge(
    "mnemolite_queue_oldest_seconds", "Age of the oldest pending event.", registry=REGISTRY
)
QUEUE_DUE_SECONDS = Gauge(
    "mnemolite_queue_due_seconds",
    "How long the oldest due event has waited for a worker.",
    registry=REGISTRY,
)
QUEUE_REFUSED = Counter(
    "mnemolite_queue_refused", "Writes refused because too many events wait.", registry=REGISTRY
)
WORKERS = Gauge(
    "mnemolite_workers", "Workers of the active space, on all machines.", registry=REGISTRY
)
WORKER_SUCCESS_SECONDS = Gauge(
    "mnemolite_worker_success_seconds",
    "Time since the last success of any worker of the active space.",
    registry=REGISTRY,
)
READY = Gauge(
    "mnemolite_ready", "1 when a check of readiness is passed.", ["check"], registry=REGISTRY
)
CACHE_HITS = Gauge("mnemolite_cache_hits", "Query vectors found in the cache.", registry=REGISTRY)
CACHE_MISSES = Gauge("mnemolite_cache_misses", "Query vectors not in the cache.", registry=REGISTRY)
CACHE_EVICTIONS = Gauge(
    "mnemolite_cache_evictions", "Query vectors dropped from the cache.", registry=REGISTRY
)
CACHE_BYTES = Gauge("mnemolite_cache_bytes", "Memory of the cache.", registry=REGISTRY)
SHARED_CACHE_HITS = Gauge(
    "mnemolite_shared_cache_hits", "Query vectors found in Redis.", registry=REGISTRY
)
SHARED_CACHE_MISSES = Gauge(
    "mnemolite_shared_cache_misses", "Query vectors not in Redis.", registry=REGISTRY
)
SHARED_CACHE_FAULTS = Gauge(
    "mnemolite_shared_cache_faults", "Calls of Redis that failed.", registry=REGISTRY
)
REDIS_UP = Gauge(
    "mnemolite_redis_up", "1 when the last call of Redis succeeded, else 0.", registry=REGISTRY
)
MODEL_BYTES = Gauge(
    "mnemolite_model_bytes", "Growth of resident memory by loading the model.", registry=REGISTRY
)
REPLICA_LAG_SECONDS = Gauge(
    "mnemolite_replica_lag_seconds", "How far the read replica lags at most.", registry=REGISTRY
)
REPLICA_FALLBACKS = Counter(
    "mnemolite_replica_fallbacks",
    "Searches that the primary answered in place of the read replica.",
    registry=REGISTRY,
)
RESIDENT_BYTES = Gauge(
    "mnemolite_resident_bytes", "Resident memory of this process.", registry=REGISTRY
)
RESIDENT_BYTES.set_function(lambda: float(resident_bytes()))


Part = Literal["embedding", "database"]
# When a wait began and ended.
Wait = tuple[Part, float, float]
_waits: ContextVar[list[Wait] | None] = ContextVar("waits", default=None)


@contextmanager
def search_time(mode: str) -> Iterator[None]:
    """Observe a search: how long it took, and how much of that it waited for each part."""
    waits: list[Wait] = []
    token = _waits.set(waits)
    started = time.perf_counter()
    try:
        yield
    finally:
        _waits.reset(token)
        seconds = time.perf_counter() - started
        SEARCH_SECONDS.labels(mode).observe(seconds)
        for part, share in share_out(waits, seconds).items():
            SEARCH_PART_SECONDS.labels(part).observe(share)


@contextmanager
def part_time(part: Part) -> Iterator[None]:
    """Note a wait; it counts only inside a search, the tasks that the search starts included."""
    waits = _waits.get()
    started = time.perf_counter()
    try:
        yield
    finally:
        if waits is not None:
            waits.append((part, started, time.perf_counter()))


def share_out(waits: Sequence[Wait], seconds: float) -> dict[str, float]:
    """Split the seconds of a search: the shares add up, whatever ran at the same time.

    While model and database work side by side, the time is the model's.
    """
    embedding = _covered([wait for wait in waits if wait[0] == "embedding"])
    waited = _covered(waits)
    return {
        "embedding": embedding,
        "database": waited - embedding,
        "rest": max(0.0, seconds - waited),
    }


def _covered(waits: Sequence[Wait]) -> float:
    """The seconds in which at least one of the waits went on."""
    total, reached = 0.0, 0.0
    for _, started, ended in sorted(waits, key=lambda wait: wait[1]):
        total += max(0.0, ended - max(started, reached))
        reached = max(reached, ended)
    return total


def observe_queue(state: QueueState) -> None:
    """Set the gauges of the queue."""
    QUEUE_PENDING.set(state.pending)
    QUEUE_PARKED.set(state.parked)
    QUEUE_OLDEST_SECONDS.set(state.oldest_pending_seconds or 0)


def observe_partitions(watch: PartitionWatch) -> None:
    """Set the gauges of the partitions."""
    PARTITIONED.set(watch.mode == "partitioned")
    PARTITIONS_ADVISED.set(any(concern.about == "size" for concern in watch.concerns))
    PARTITIONS_MISSING.set(watch.missing)
    PARTITIONS_DEFAULT_ROWS.set(watch.default_rows)
    PARTITIONS_UNFINISHED.set(watch.change is not None)


def count_search(*, bounded: bool) -> None:
    """Count a search by whether its time is bounded."""
    SEARCHES.labels("bounded" if bounded else "unbounded").inc()


def observe_webhooks(state: WebhookState) -> None:
    """Set the gauges of the webhooks."""
    WEBHOOK_PENDING.set(state.pending)
    WEBHOOK_OLDEST_SECONDS.set(state.oldest_pending_seconds or 0)
    WEBHOOK_DEAD.set(state.dead)
    WEBHOOKS_DISABLED.set(state.disabled)


def observe_cache(stats: Mapping[str, int]) -> None:
    """Set the gauges of the query cache and of the one in Redis."""
    CACHE_HITS.set(stats["hits"])
    CACHE_MISSES.set(stats["misses"])
    CACHE_EVICTIONS.set(stats["evictions"])
    CACHE_BYTES.set(stats["bytes"])
    SHARED_CACHE_HITS.set(stats.get("shared_hits", 0))
    SHARED_CACHE_MISSES.set(stats.get("shared_misses", 0))
    SHARED_CACHE_FAULTS.set(stats.get("shared_faults", 0))


def resident_bytes() -> int:
    """Resident memory of this process."""
    return int(psutil.Process().memory_info().rss)


def render() -> bytes:
    """All metrics in Prometheus' text format."""
    return generate_latest(REGISTRY)
