"""Health: whether the model works, the database takes writes, and what is pending gets embedded."""

import asyncio
import math
import time
from dataclasses import dataclass

from mnemolite import metrics
from mnemolite.database import Database
from mnemolite.embedders import Embedders
from mnemolite.errors import DatabaseError, MnemoliteError
from mnemolite.heartbeats import SILENT_SECONDS
from mnemolite.models import Check, Space
from mnemolite.replica import Replica
from mnemolite.reranking.stage import RerankStage
from mnemolite.settings.pipeline import PipelineSettings
from mnemolite.spaces import SpaceStore
from mnemolite.sql import load

_queries = load("health")

_PROBE_SECONDS = 2.0
# A full disk may still take the probe, which needs no new page: a refusal counts for so long.
_REFUSAL_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Pipeline:
    """How the embedding of a space goes on, in seconds before now; None: never, or nothing."""

    waiting_seconds: float | None
    success_seconds: float | None
    started_seconds: float | None
    workers: int

    def check_lag(self, limit: float) -> Check:
        """Whether the oldest due event has waited longer than the limit."""
        if self.waiting_seconds is None:
            return Check(ok=True, detail="nothing is due")
        said = f"the oldest due event has waited for {self.waiting_seconds:.0f} s"
        if self.waiting_seconds <= limit:
            return Check(ok=True, detail=said)
        return Check(ok=False, detail=f"{said}, longer than {limit:g} s; more workers may help")

    def check_workers(self, limit: float) -> Check:
        """Whether there was a success lately; a worker that has just started has yet to begin."""
        last = "never" if self.success_seconds is None else f"{self.success_seconds:.0f} s ago"
        said = f"{self.workers} at work, the last success {last}"
        signs = (self.success_seconds, self.started_seconds)
        moved = any(seconds is not None and seconds <= limit for seconds in signs)
        if moved or (self.waiting_seconds or 0) <= limit:
            return Check(ok=True, detail=said)
        remedy = "the log of the worker says why" if self.workers else "start `mnemolite worker`"
        waiting = f"events have waited for {self.waiting_seconds:.0f} s"
        return Check(ok=False, detail=f"{said}; {waiting}: {remedy}")


class HealthChecks:
    """Every check that a memory can make of itself."""

    def __init__(
        self,
        database: Database,
        embedders: Embedders,
        *,
        reranking: RerankStage,
        replica: Replica | None,
        limits: PipelineSettings,
    ) -> None:
        self._database = database
        self._spaces = SpaceStore(database)
        self._embedders = embedders
        self._reranking = reranking
        self._replica = replica
        self._limits = limits
        self._probing = asyncio.Lock()
        self._probed: tuple[float, Check] | None = None

    async def run(self) -> dict[str, Check]:
        """Each part by its name, ready or not; also sets their metrics."""
        checks = {"model": self._check_model(), "database": await self._check_database()}
        if checks["database"].ok:
            checks["writes"] = await self._check_writes()
            checks |= await self._check_pipeline()
        if (reranker := self._reranking.check()) is not None:
            checks["reranker"] = reranker
        if self._replica is not None:
            checks["replica"] = self._replica.check()
        served = self._embedders.current
        if served and served.embedder and (fault := served.embedder.cache_fault()):
            checks["cache"] = Check(ok=True, detail=fault)  # searches go on without it
        for name, check in checks.items():
            metrics.READY.labels(name).set(check.ok)
        return checks

    async def pipeline(self, space: Space) -> Pipeline:
        """How the embedding of a space goes on."""
        values = {"space": space.id, "silent": SILENT_SECONDS}
        async with self._database.connection() as connection:
            row = await (await connection.execute(_queries["pipeline"], values)).fetchone()
        return Pipeline(**row) if row else Pipeline(None, None, None, workers=0)

    async def _check_pipeline(self) -> dict[str, Check]:
        served = self._embedders.current
        if served is None:
            return {}
        try:
            pipeline = await self.pipeline(served.space)
        except DatabaseError as error:
            return {"lag": Check(ok=False, detail=str(error))}
        metrics.QUEUE_DUE_SECONDS.set(pipeline.waiting_seconds or 0)
        metrics.WORKERS.set(pipeline.workers)
        success = pipeline.success_seconds
        metrics.WORKER_SUCCESS_SECONDS.set(math.inf if success is None else success)
        return {
            "lag": pipeline.check_lag(self._limits.ready_max_pending_seconds),
            "workers": pipeline.check_workers(self._limits.ready_max_idle_seconds),
        }

    async def _check_writes(self) -> Check:
        """By a write of one row, shared by all who ask within two seconds."""
        async with self._probing:
            now = time.monotonic()
            if self._probed is None or now - self._probed[0] >= _PROBE_SECONDS:
                self._probed = now, await self._probe_writes()
            _, check = self._probed
        refusal = self._database.out_of_room
        if check.ok and refusal is not None and now - refusal < _REFUSAL_SECONDS:
            detail = f"the database had no room {now - refusal:.0f} s ago"
            return Check(ok=False, detail=detail)
        return check

    async def _probe_writes(self) -> Check:
        try:
            async with self._database.connection() as connection:
                await connection.execute(_queries["probe_writes"])
        except DatabaseError as error:
            return Check(ok=False, detail=f"{error.code}: {error}")
        return Check(ok=True, detail="are taken")

    async def _check_database(self) -> Check:
        try:
            active = await self._spaces.active()
        except MnemoliteError as error:
            return Check(ok=False, detail=str(error))
        return Check(ok=True, detail="answers" if active else "answers; it has no space yet")

    def _check_model(self) -> Check:
        served = self._embedders.current
        if served is None or served.embedder is None:
            return Check(ok=False, detail="no model is loaded")
        space = served.space
        detail = f"{space.model}, space {space.id}"
        if space.status == "active":
            return Check(ok=True, detail=detail)
        # It answers, from vectors that are kept complete; a red light would take it out of service.
        return Check(
            ok=True, detail=f"{detail}, which is no longer the active one: restart with its model"
        )
