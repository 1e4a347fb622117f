"""`mnemolite reembed`: change the model while the memory is in use."""

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from mnemolite.cli.terminal import (
    DataDir,
    Json,
    counting_progress,
    err,
    out,
    run,
    settings_of,
    shown_in,
)
from mnemolite.settings import Settings

if TYPE_CHECKING:
    from mnemolite.memory import Memory
    from mnemolite.models import Comparison, SpaceState
    from mnemolite.reembed import Change

app = typer.Typer(help="Change the model while the memory is in use.", no_args_is_help=True)

_FOLLOW_SECONDS = 60.0
_SECONDS_A_MINUTE = 60

Force = Annotated[bool, typer.Option("--force", help="Give up what is not complete.")]
Wait = Annotated[float, typer.Option("--wait", min=0, help="Seconds to wait for the last events.")]


@app.command()
def start(
    *,
    model: Annotated[str | None, typer.Option(help="As EMBEDDING_MODEL. Default: that.")] = None,
    provider: Annotated[
        str | None, typer.Option(help="As MNEMO_EMBEDDING_PROVIDER; or mock.")
    ] = None,
    dimension: Annotated[int | None, typer.Option(help="As EMBEDDING_DIMENSION.")] = None,
    query_prefix: Annotated[str | None, typer.Option(help="Put before a query.")] = None,
    document_prefix: Annotated[str | None, typer.Option(help="Put before a document.")] = None,
    detach: Annotated[
        bool, typer.Option("--detach", help="Leave the embedding to running workers.")
    ] = False,
    data_dir: DataDir = None,
) -> None:
    """Fill a space for another model, beside the one in use; go on where it stopped."""
    from mnemolite.reembed import another_model

    given = another_model(
        model,
        provider=provider,
        dimension=dimension,
        query_prefix=query_prefix,
        document_prefix=document_prefix,
    )
    run(_start(settings_of(data_dir, embedding=given), detach=detach))


async def _start(settings: Settings, *, detach: bool) -> None:
    from mnemolite import reembed
    from mnemolite.memory import Memory
    from mnemolite.worker import running_worker

    async with Memory.open(settings, role="build") as memory:
        space = memory.space
        err.print(f"space {space.id}: {escape(space.model)}, {space.dimension} dimensions")
        with counting_progress() as progress:
            show = shown_in(progress)
            await reembed.queue_older(memory, show)
            if detach:
                out.print(f"Space {space.id} is queued; workers fill it.")
                return
            async with running_worker(memory):
                await reembed.embed_older(memory, show)
                await reembed.complete(memory, show)
        out.print(f"Space {space.id} is filled. Next: mnemolite reembed verify, then switch.")


@app.command()
def status(*, as_json: Json = False, data_dir: DataDir = None) -> None:
    """Show every space, how far it is filled, and how many processes search it."""

    async def read(memory: "Memory") -> "list[SpaceState]":
        return await memory.list_spaces()

    states = _with_memory(data_dir, read)
    if as_json:
        data = [state.model_dump(mode="json") for state in states]
        out.print_json(json.dumps({"data": data}))
    else:
        out.print(_table_of(states))


@app.command()
def verify(
    *,
    samples: Annotated[
        int, typer.Option(min=0, max=1000, help="Events whose neighbours are compared.")
    ] = 50,
    as_json: Json = False,
    data_dir: DataDir = None,
) -> None:
    """Hold the other space against the active one: counts, what is missing, how far they agree."""
    from mnemolite import reembed

    async def read(memory: "Memory") -> "Comparison":
        return await reembed.compare(memory, samples=samples)

    compared = _with_memory(data_dir, read)
    if as_json:
        out.print_json(compared.model_dump_json())
    else:
        _show_comparison(compared)


@app.command()
def switch(*, force: Force = False, wait: Wait = 30.0, data_dir: DataDir = None) -> None:
    """Search the new space from now on; the old one is kept complete."""
    from mnemolite import reembed

    async def change(memory: "Memory") -> None:
        changed = await reembed.switch(memory, force=force, wait_seconds=wait)
        await _tell(memory, changed)

    _with_memory(data_dir, change)


@app.command()
def rollback(*, force: Force = False, wait: Wait = 30.0, data_dir: DataDir = None) -> None:
    """Search the space again that was active before."""
    from mnemolite import reembed

    async def change(memory: "Memory") -> None:
        changed = await reembed.rollback(memory, force=force, wait_seconds=wait)
        await _tell(memory, changed)

    _with_memory(data_dir, change)


@app.command()
def drop(
    space: Annotated[int, typer.Argument(help="Its number, as `status` shows it.")],
    *,
    force: Annotated[bool, typer.Option("--force", help="Even while processes search it.")] = False,
    data_dir: DataDir = None,
) -> None:
    """Remove a space that is not in use, with its vectors, its queue and its index."""
    from mnemolite import reembed

    async def change(memory: "Memory") -> None:
        with counting_progress() as progress:
            dropped = await reembed.drop(memory, space, force=force, show=shown_in(progress))
        out.print(f"Space {dropped.id} ({escape(dropped.model)}) is gone.")

    _with_memory(data_dir, change)


def _with_memory(data_dir: Any, use: Any) -> Any:
    settings = settings_of(data_dir)

    async def work() -> Any:
        from mnemolite.memory import Memory

        async with Memory.open(settings, with_model=False) as memory:
            return await use(memory)

    return run(work())


async def _tell(memory: "Memory", change: "Change") -> None:
    from mnemolite.reembed import followed, variables_of

    space = change.active
    said = "is active" if change.changed else "was active already"
    out.print(f"Space {space.id} ({escape(space.model)}) {said}.")
    for lost in change.lost:
        err.print(f"[yellow]given up[/]: {escape(lost)}")
    ahead, behind = await followed(memory, seconds=_FOLLOW_SECONDS)
    out.print(f"{ahead} running processes search it.")
    if behind:
        err.print(
            f"[yellow]{behind} still search another space[/], which is kept complete: they cannot "
            "load the model. Restart them with it; their logs say why (space_not_served)."
        )
    variables = await variables_of(memory, space)
    said = " ".join(f"{name}={value}" for name, value in variables.items())
    err.print(f"For the next start: {escape(said)}", soft_wrap=True)


def _table_of(states: "list[SpaceState]") -> Table:
    table = Table(box=None, pad_edge=False)
    for column in ("space", "status", "model", "dim.", "embedded", "pending", "parked"):
        table.add_column(column, justify="left" if column in ("status", "model") else "right")
    for column in ("filled", "rate", "left", "searched by"):
        table.add_column(column, justify="right")
    for state in states:
        progress = state.progress
        table.add_row(
            str(state.id),
            state.status,
            escape(state.model),
            str(state.dimension),
            *map(str, (progress.embedded, progress.pending, progress.parked)),
            "queueing" if progress.phase == "queueing" else f"{progress.share:.1%}",
            f"{progress.events_per_second:.0f}/s" if progress.events_per_second else "",
            _duration(progress.seconds_left),
            str(state.searched_by),
        )
    return table


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), _SECONDS_A_MINUTE)
    hours, minutes = divmod(minutes, _SECONDS_A_MINUTE)
    return f"{hours}:{minutes:02}:{rest:02}"


def _show_comparison(compared: "Comparison") -> None:
    out.print(f"space {compared.space} against the active space {compared.active}")
    rows: dict[str, object] = {
        "events embedded": f"{compared.embedded} against {compared.active_embedded}",
        "missing": compared.missing,
        "still in its queue": compared.behind,
        "could not be embedded": compared.parked,
        "of events that are gone": compared.orphans,
        "HNSW index": "built or not needed" if compared.indexed else "to be built",
    }
    if compared.overlap is not None:
        rows["overlap@10"] = (
            f"{compared.overlap:.0%} on average, {compared.least_overlap:.0%} at least, "
            f"{compared.samples} samples"
        )
    table = Table(box=None, pad_edge=False, show_header=False)
    for name, value in rows.items():
        table.add_row(name, str(value))
    out.print(table)
