"""Routes about partitions: how events and embeddings are laid out in time."""

from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel

from mnemolite.api.deps import MemoryDep
from mnemolite.api.problems import DATABASE, responses
from mnemolite.models import PartitionLayout, PartitionState

router = APIRouter(tags=["system"])


class PartitionMeta(PartitionLayout):
    """The layout as a whole."""

    count: int


class Partitions(BaseModel):
    """Every partition, those of the events first, each table's oldest first."""

    data: list[PartitionState]
    meta: PartitionMeta


EXAMPLE_WATCH = {
    "mode": "partitioned",
    "estimated_events": 812_400,
    "threshold": 500_000,
    "default_rows": 0,
    "missing": 0,
    "change": None,
    "detail": "partitioned by month, managed by native, nothing is missing",
    "concerns": [],
}
_EXAMPLE: dict[str, Any] = {
    "data": [
        {
            "table": "events",
            "name": "events_p20260301",
            "since": "2026-03-01T00:00:00Z",
            "until": "2026-04-01T00:00:00Z",
            "is_default": False,
            "rows": 41_220,
            "bytes": 61_341_696,
            "index": None,
            "cache_hit_rate": 0.993,
        }
    ],
    "meta": {
        "mode": "partitioned",
        "events": 812_431,
        "interval": "month",
        "embeddings_interval": "year",
        "premake": 4,
        "retention": None,
        "manager": "native",
        "manager_version": None,
        "watch": EXAMPLE_WATCH,
        "count": 1,
    },
}


@router.get(
    "/v1/partitions",
    summary="List partitions",
    responses={
        **responses(*DATABASE),
        200: {"content": {"application/json": {"example": _EXAMPLE}}},
    },
)
async def list_partitions(memory: MemoryDep) -> Partitions:
    """What each holds, and what is watched; where there are none, the whole tables."""
    report = await memory.partitions.report()
    layout = report.model_dump(exclude={"partitions"})
    meta = PartitionMeta.model_validate(layout | {"count": len(report.partitions)})
    return Partitions(data=report.partitions, meta=meta)
