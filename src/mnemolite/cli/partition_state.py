"""`mnemolite partitions status, advise, maintain, drain`: look at the partitions, and keep them."""

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from mnemolite.cli.terminal import FAILED, DataDir, Json, out, run, settings_of

if TYPE_CHECKING:
    from mnemolite.memory import Memory
    from mnemolite.models import Maintained, PartitionReport, PartitionState

DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")]
MaxRows = Annotated[
    int, typer.Option("--max-rows", min=1, help="Rows that are moved at once, for a partition.")
]

MAX_ROWS = 20_000
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")
_STEP = 1024
_WIDE = 90


def status(*, as_json: Json = False, data_dir: DataDir = None) -> None:
    """Show every partition: what it holds, its size, its index, its cache hit rate."""

    async def read(memory: "Memory") -> "PartitionReport":
        return await memory.partitions.report()

    report = _with_memory(data_dir, read)
    if as_json:
        out.print_json(report.model_dump_json())
        return
    _show_layout(report)
    out.print(_table_of(report))
    for concern in report.watch.concerns:
        colour = "bold red" if concern.urgent else "yellow"
        out.print(f"[{colour}]{escape(concern.detail)}[/]")
        out.print(f"  {escape(concern.remedy)}", soft_wrap=True)


def advise(*, as_json: Json = False, data_dir: DataDir = None) -> None:
    """Say whether partitions are worth their price here, by the figures of this database."""

    async def read(memory: "Memory") -> Any:
        return await memory.partitions.advise()

    advice = _with_memory(data_dir, read)
    if as_json:
        out.print_json(advice.model_dump_json())
        return
    said = {
        "stay": "Leave the events in one table.",
        "optional": "Partitions are possible; whether they pay is yours to say.",
        "enable": "Partition the events.",
        "keep": "Keep the partitions.",
        "disable": "Go back to one table.",
    }
    out.print(f"[bold]{said[advice.verdict]}[/]")
    for reason in advice.reasons:
        out.print(f"- {escape(reason)}")
    if advice.command:
        out.print(f"\n{escape(advice.command)}", soft_wrap=True)


def maintain(
    *,
    dry_run: DryRun = False,
    max_rows: MaxRows = MAX_ROWS,
    as_json: Json = False,
    data_dir: DataDir = None,
) -> None:
    """Make the partitions ahead, as a worker does every hour; for cron."""

    async def keep(memory: "Memory") -> "Maintained":
        return await memory.partitions.maintain(dry_run=dry_run, max_rows=max_rows)

    _tell(_with_memory(data_dir, keep), as_json=as_json, nothing="No partition is missing.")


def drain(
    *,
    dry_run: DryRun = False,
    max_rows: MaxRows = MAX_ROWS,
    as_json: Json = False,
    data_dir: DataDir = None,
) -> None:
    """Give the rows of the default partition partitions of their own, as far as they reach."""

    async def keep(memory: "Memory") -> "Maintained":
        return await memory.partitions.drain(dry_run=dry_run, max_rows=max_rows)

    nothing = "The default partition holds nothing that a partition could take."
    done = _with_memory(data_dir, keep)
    _tell(done, as_json=as_json, nothing=nothing)
    if done.skipped:
        raise typer.Exit(FAILED)


def _with_memory(data_dir: Any, work: "Callable[[Memory], Awaitable[Any]]") -> Any:
    settings = settings_of(data_dir)

    async def opened() -> Any:
        from mnemolite.memory import Memory

        async with Memory.open(settings, with_model=False, with_reranker=False) as memory:
            return await work(memory)

    return run(opened())


def _tell(done: "Maintained", *, as_json: bool, nothing: str) -> None:
    if as_json:
        out.print_json(done.model_dump_json())
        return
    if done.skipped:
        out.print(f"Nothing was done: {escape(done.skipped)}.")
        return
    if done.mode == "unpartitioned":
        out.print("The events are not partitioned: there is nothing to maintain.")
        return
    verb = "would be made" if done.dry_run else "made"
    for each in done.created:
        rows = f", rows moved: {each.rows:,}" if each.rows else ""
        out.print(f"{each.name}: {_span(each.since, each.until)} {verb}{rows}")
    for held in done.held_back:
        span = _span(held.since, held.until)
        stay = "1 row stays" if held.rows == 1 else f"{held.rows:,} rows stay"
        out.print(f"[yellow]{held.table}: {stay}[/] ({span}): {escape(held.reason)}")
    if not done.created and not done.held_back:
        out.print(nothing)


def _show_layout(report: "PartitionReport") -> None:
    if report.mode == "unpartitioned":
        out.print(
            f"{report.events:,} events in one table; partitions are advised from "
            f"{report.watch.threshold:,} on."
        )
        return
    version = f" {report.manager_version}" if report.manager_version else ""
    retention = f"kept for {report.retention}" if report.retention else "kept for ever"
    out.print(
        f"{report.events:,} events, a partition for each {report.interval}, {retention}; "
        f"embeddings by {report.embeddings_interval}.\n"
        f"{report.premake} partitions are made ahead, by the manager {report.manager}{version}."
    )


def _table_of(report: "PartitionReport") -> Table:
    gap = 2 if out.width >= _WIDE else 1
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, gap, 0, 0))
    table.add_column("partition", overflow="fold", min_width=12)
    table.add_column("holds", no_wrap=True)
    for name in ("rows", "size", "hnsw", "cache"):
        table.add_column(name, no_wrap=True, justify="left" if name == "hnsw" else "right")
    before = None
    for state in report.partitions:
        if before not in (None, state.table):
            table.add_section()
            table.add_row()
        before = state.table
        table.add_row(*_cells(state))
    return table


def _cells(state: "PartitionState") -> tuple[str, ...]:
    colours = {"valid": "green", "needed": "yellow", "invalid": "bold red", "none": "dim"}
    index = f"[{colours[state.index]}]{state.index}[/]" if state.index else ""
    rate = "" if state.cache_hit_rate is None else f"{state.cache_hit_rate:.0%}"
    holds = "all others" if state.is_default else _span(state.since, state.until)
    rows = f"[yellow]{state.rows:,}[/]" if state.is_default and state.rows else f"{state.rows:,}"
    return state.name, holds, rows, _size(state.bytes), index, rate


def _span(since: datetime | None, until: datetime | None) -> str:
    if since is None and until is None:
        return "everything"
    return f"{_day(since)} to {_day(until)}"


def _day(moment: datetime | None) -> str:
    if moment is None:
        return "any time"
    at_midnight = moment == moment.replace(hour=0, minute=0, second=0, microsecond=0)
    return f"{moment:%Y-%m-%d}" if at_midnight else f"{moment:%Y-%m-%d %H:%M}"


def _size(count: float) -> str:
    unit = _UNITS[0]
    for unit in _UNITS:
        if count < _STEP or unit == _UNITS[-1]:
            break
        count /= _STEP
    return f"{count:.0f} {unit}" if count >= 10 or unit == "B" else f"{count:.1f} {unit}"  # noqa: PLR2004 (digits)
