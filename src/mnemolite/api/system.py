"""Routes about the memory itself: namespaces, spaces, figures, health, metrics."""

from typing import Any

from fastapi import APIRouter, Response
from fastapi.responses import PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel

from mnemolite import metrics
from mnemolite.api.deps import MemoryDep
from mnemolite.api.partitions import EXAMPLE_WATCH
from mnemolite.api.problems import DATABASE, WRITING, responses
from mnemolite.errors import ModelUnavailableError
from mnemolite.models import CountMeta, Health, Namespace, SpaceState, Stats

router = APIRouter(tags=["system"])
open_router = APIRouter(tags=["system"])  # needs no key


class Namespaces(BaseModel):
    """Every namespace, by name."""

    data: list[Namespace]
    meta: CountMeta


class Spaces(BaseModel):
    """Every embedding space, oldest first."""

    data: list[SpaceState]
    meta: CountMeta


class Alive(BaseModel):
    """The process answers."""

    status: str = "alive"


_EXAMPLE_NAMESPACE = {
    "name": "conv-26",
    "language": "english",
    "events": 419,
    "first_timestamp": "2023-05-08T13:56:00Z",
    "last_timestamp": "2023-10-22T09:55:00Z",
}
_EXAMPLE_SPACE = {
    "id": 1,
    "provider": "onnx",
    "model": "all-MiniLM-L6-v2",
    "revision": "1",
    "dimension": 384,
    "query_prefix": "",
    "document_prefix": "",
    "pooling": "mean",
    "normalisation": "l2",
    "template": "dated-1",
    "max_tokens": 256,
    "digest": "9f2c",
    "status": "active",
    "created_at": "2026-01-02T03:04:05Z",
    "filled_at": "2026-01-02T03:04:05Z",
    "activated_at": "2026-01-02T03:04:05Z",
}
_EXAMPLE_SPACE_STATE = {
    **_EXAMPLE_SPACE,
    "progress": {
        "phase": "complete",
        "embedded": 5882,
        "pending": 0,
        "parked": 0,
        "share": 1.0,
        "events_per_second": None,
        "seconds_left": None,
    },
    "searched_by": 1,
}
_EXAMPLE_WORKER = {
    "id": "0b2f6d0e-8a57-4d1c-9f0e-5d0f6f2f7c11",
    "space": 1,
    "host": "memory-1",
    "pid": 4711,
    "started_at": "2026-01-02T03:04:05Z",
    "seen_at": "2026-01-02T04:04:05Z",
    "last_success_at": "2026-01-02T04:04:01Z",
    "claimed": 512,
    "events_per_second": 180.5,
}
_EXAMPLE_STATS = {
    "events": 5882,
    "embeddings": 5882,
    "namespaces": 10,
    "database_bytes": 41_943_040,
    "queue": {"pending": 0, "parked": 0, "oldest_pending_seconds": None, "errors": []},
    "workers": [_EXAMPLE_WORKER],
    "webhooks": {
        "enabled": 1,
        "disabled": 0,
        "pending": 0,
        "dead": 0,
        "oldest_pending_seconds": None,
    },
    "space": _EXAMPLE_SPACE,
    "partitions": EXAMPLE_WATCH,
    "cache": {"hits": 12, "misses": 30, "evictions": 0, "bytes": 55_680},
    "resident_bytes": 220_000_000,
    "model_bytes": 90_000_000,
}
_EXAMPLE_HEALTH = {
    "status": "ok",
    "version": "0.1.0",
    "checks": {
        "model": {"ok": True, "detail": "all-MiniLM-L6-v2, space 1"},
        "database": {"ok": True, "detail": "answers"},
        "writes": {"ok": True, "detail": "are taken"},
        "lag": {"ok": True, "detail": "nothing is due"},
        "workers": {"ok": True, "detail": "1 at work, the last success 4 s ago"},
    },
}
_EXAMPLE_UNHEALTHY = {
    "status": "not_ready",
    "version": "0.1.0",
    "checks": {
        "model": {"ok": True, "detail": "all-MiniLM-L6-v2, space 1"},
        "database": {"ok": False, "detail": "The database cannot be reached."},
    },
}


def _example(value: object) -> dict[int | str, dict[str, Any]]:
    return {200: {"content": {"application/json": {"example": value}}}}


_HEALTH_RESPONSES: dict[int | str, dict[str, Any]] = {
    **responses(),
    **_example(_EXAMPLE_HEALTH),
    503: {
        "model": Health,
        "description": "Not ready; the checks say why.",
        "content": {"application/json": {"example": _EXAMPLE_UNHEALTHY}},
    },
}


@router.get(
    "/v1/namespaces",
    summary="List namespaces",
    responses={
        **responses(*DATABASE),
        **_example({"data": [_EXAMPLE_NAMESPACE], "meta": {"count": 1}}),
    },
)
async def list_namespaces(memory: MemoryDep) -> Namespaces:
    """With what each of them holds."""
    namespaces = await memory.namespaces()
    return Namespaces(data=namespaces, meta=CountMeta(count=len(namespaces)))


@router.get(
    "/v1/spaces",
    summary="List embedding spaces",
    responses={
        **responses(*DATABASE),
        **_example({"data": [_EXAMPLE_SPACE_STATE], "meta": {"count": 1}}),
    },
)
async def list_spaces(memory: MemoryDep) -> Spaces:
    """One of them is active: that is the one searched. The others are being filled, or kept."""
    spaces = await memory.list_spaces()
    return Spaces(data=spaces, meta=CountMeta(count=len(spaces)))


@router.get(
    "/v1/stats",
    summary="Figures",
    responses={**responses(ModelUnavailableError, *DATABASE), **_example(_EXAMPLE_STATS)},
)
async def get_stats(memory: MemoryDep) -> Stats:
    """Events, embeddings, the queue, the workers, the cache, the process."""
    return await memory.stats()


class Retried(BaseModel):
    """How many events were given another round of tries."""

    retried: int


@router.post(
    "/v1/queue/retry",
    summary="Retry parked events",
    responses={**responses(ModelUnavailableError, *WRITING), **_example({"retried": 2})},
)
async def retry_parked(memory: MemoryDep) -> Retried:
    """Events whose embedding was given up are due again; a worker embeds them."""
    return Retried(retried=await memory.retry_parked())


@router.get("/health", summary="Summary of health", responses=_HEALTH_RESPONSES)
async def get_health(memory: MemoryDep, response: Response) -> Health:
    """503 when a part does not work: the checks say which, and why."""
    health = await memory.health()
    response.status_code = 200 if health.status == "ok" else 503
    return health


@open_router.get(
    "/health/live",
    summary="Whether the process is up",
    responses=_example({"status": "alive"}),
)
async def get_liveness() -> Alive:
    """Needs no key, and says nothing of database or model."""
    return Alive()


@router.get(
    "/health/ready",
    summary="Whether requests succeed",
    responses=_HEALTH_RESPONSES,
)
async def get_readiness(memory: MemoryDep, response: Response) -> Health:
    """For load balancers: 503 when the database, its writes, the model or the embedding of events
    do not work."""
    return await get_health(memory, response)


@router.get(
    "/metrics",
    summary="Prometheus metrics",
    response_class=PlainTextResponse,
    responses={
        **responses(ModelUnavailableError, *DATABASE),
        200: {"content": {"text/plain": {"example": "mnemolite_queue_pending 0.0\n"}}},
    },
)
async def get_metrics(memory: MemoryDep) -> Response:
    """In Prometheus' text format."""
    await memory.refresh_gauges()
    return Response(metrics.render(), media_type=CONTENT_TYPE_LATEST)
