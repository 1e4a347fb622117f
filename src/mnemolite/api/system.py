"""Routes about the memory itself: namespaces, spaces, figures, health, metrics."""

from typing import Any

from fastapi import APIRouter, Response
from fastapi.responses import PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel

from mnemolite import metrics
from mnemolite.api.deps import MemoryDep
from mnemolite.api.problems import responses
from mnemolite.errors import ModelUnavailableError
from mnemolite.models import CountMeta, Health, Namespace, Space, Stats

router = APIRouter(tags=["system"])


class Namespaces(BaseModel):
    """Every namespace, by name."""

    data: list[Namespace]
    meta: CountMeta


class Spaces(BaseModel):
    """Every embedding space, oldest first."""

    data: list[Space]
    meta: CountMeta


class Alive(BaseModel):
    """The process answers."""

    status: str = "alive"


_HEALTH_RESPONSES: dict[int | str, dict[str, Any]] = {503: {"model": Health, "description": "Not ready; the checks say why."}}


@router.get("/v1/namespaces", summary="List namespaces", responses=responses())
async def list_namespaces(memory: MemoryDep) -> Namespaces:
    """With what each of them holds."""
    namespaces = await memory.namespaces()
    return Namespaces(data=namespaces, meta=CountMeta(count=len(namespaces)))


@router.get("/v1/spaces", summary="List embedding spaces", responses=responses())
async def list_spaces(memory: MemoryDep) -> Spaces:
    """One of them is active: that is the one searched."""
    spaces = await memory.list_spaces()
    return Spaces(data=spaces, meta=CountMeta(count=len(spaces)))


@router.get("/v1/stats", summary="Figures", responses=responses(ModelUnavailableError))
async def get_stats(memory: MemoryDep) -> Stats:
    """Events, embeddings, the queue, the cache, the process."""
    return await memory.stats()


@router.get("/health", summary="Summary of health", responses={**responses(), **_HEALTH_RESPONSES})
async def get_health(memory: MemoryDep, response: Response) -> Health:
    """503 when a part does not work."""
    health = await memory.health()
    response.status_code = 200 if health.status == "ok" else 503
    return health


@router.get("/health/live", summary="Whether the process is up")
async def get_liveness() -> Alive:
    """Needs no key, and says nothing of database or model."""
    return Alive()


@router.get(
    "/health/ready",
    summary="Whether requests succeed",
    responses={**responses(), **_HEALTH_RESPONSES},
)
async def get_readiness(memory: MemoryDep, response: Response) -> Health:
    """For load balancers: 503 when database or model do not work."""
    return await get_health(memory, response)


@router.get(
    "/metrics",
    summary="Prometheus metrics",
    response_class=PlainTextResponse,
    responses=responses(ModelUnavailableError),
)
async def get_metrics(memory: MemoryDep) -> Response:
    """In Prometheus' text format."""
    await memory.refresh_gauges()
    return Response(metrics.render(), media_type=CONTENT_TYPE_LATEST)
