"""`mnemolite partitions`: turn partitions by time on and off, and look after them."""

import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer
from rich.markup import escape

from mnemolite.cli import partition_state
from mnemolite.cli.terminal import (
    DataDir,
    Json,
    counting_progress,
    out,
    run,
    settings_of,
    shown_in,
    validated,
)

if TYPE_CHECKING:
    from mnemolite.memory import Memory
    from mnemolite.models import LayoutChange

app = typer.Typer(help="Partitions by time.", no_args_is_help=True)

T = TypeVar("T")
Show = Callable[[str, int, int], None]
_CHOICES = "day, week, month, quarter or year"

IntervalOption = Annotated[
    str | None, typer.Option("--interval", help=f"Of events: {_CHOICES}. Default: month.")
]
EmbeddingsIntervalOption = Annotated[
    str | None,
    typer.Option("--embeddings-interval", help="Of vectors: the same, or none. Default: year."),
]


@app.command()
def enable(
    *,
    interval: IntervalOption = None,
    embeddings_interval: EmbeddingsIntervalOption = None,
    premake: Annotated[int | None, typer.Option(help="Partitions made ahead. Default: 4.")] = None,
    retention: Annotated[
        str | None, typer.Option(help="Keep events so long, as '24 months'. Default: for ever.")
    ] = None,
    manager: Annotated[
        str | None, typer.Option(help="auto, native or pg_partman. Default: auto.")
    ] = None,
    no_split: Annotated[
        bool, typer.Option("--no-split", help="Leave what there is in one partition.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the SQL, and change nothing.")
    ] = False,
    as_json: Json = False,
    data_dir: DataDir = None,
) -> None:
    """Partition the events and their vectors; go on where it stopped."""
    wish = validated(
        "LayoutWish",
        {
            "interval": interval,
            "embeddings_interval": embeddings_interval,
            "premake": premake,
            "retention": retention,
            "manager": manager,
        },
    )
    if dry_run:
        for line in _with_memory(data_dir, lambda memory: memory.layout.enable_sql(wish)):
            out.print(line, markup=False, highlight=False, soft_wrap=True)
        return

    async def change(memory: "Memory", show: Show) -> "LayoutChange":
        return await memory.layout.enable(wish, split=not no_split, show=show)

    _change(data_dir, change, as_json=as_json)


@app.command()
def split(*, as_json: Json = False, data_dir: DataDir = None) -> None:
    """Divide what is old among partitions; go on where it stopped."""
    _change(data_dir, lambda memory, show: memory.layout.split(show), as_json=as_json)


@app.command("undo-split")
def undo_split(*, as_json: Json = False, data_dir: DataDir = None) -> None:
    """Put what is old into one partition again; go on where it stopped."""
    _change(data_dir, lambda memory, show: memory.layout.undo_split(show), as_json=as_json)


@app.command()
def disable(*, as_json: Json = False, data_dir: DataDir = None) -> None:
    """Make plain tables of the partitions again; go on where it stopped."""
    _change(data_dir, lambda memory, show: memory.layout.disable(show), as_json=as_json)


app.command()(partition_state.status)
app.command()(partition_state.advise)
app.command()(partition_state.maintain)
app.command()(partition_state.drain)


def _change(
    data_dir: DataDir,
    change: "Callable[[Memory, Show], Awaitable[LayoutChange]]",
    *,
    as_json: bool,
) -> None:
    started = time.perf_counter()

    async def work(memory: "Memory") -> "LayoutChange":
        with counting_progress() as progress:
            return await change(memory, shown_in(progress))

    done = _with_memory(data_dir, work)
    seconds = time.perf_counter() - started
    if as_json:
        out.print_json(data=done.model_dump() | {"seconds": round(seconds, 3)})
    elif done.tables:
        tables = escape(", ".join(done.tables))
        out.print(f"{tables}: done in {seconds:.1f} s, {done.rows} rows copied.")
    else:
        out.print("It was so already.")


def _with_memory(data_dir: DataDir, use: "Callable[[Memory], Awaitable[T]]") -> T:
    settings = settings_of(data_dir)

    async def work() -> T:
        from mnemolite.memory import Memory

        async with Memory.open(settings, with_model=False, with_reranker=False) as memory:
            return await use(memory)

    return run(work())
