"""`mnemolite bench`: how fast searches and models are, on this machine and these data."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.markup import escape
from rich.table import Table

from mnemolite.cli.terminal import (
    DataDir,
    Json,
    counting_progress,
    out,
    run,
    settings_of,
    shown_in,
)
from mnemolite.errors import InvalidInputError, SettingsError
from mnemolite.settings import EmbeddingSettings, Settings

app = typer.Typer(help="Measure speed.", no_args_is_help=True)

# From here on a figure is shown without decimals.
_WHOLE = 100
_NAME = r"[a-z0-9_]{1,30}"


Events = Annotated[
    str | None, typer.Option(help="Events as JSON lines, plain or gzip; - is standard input.")
]
Maps = Annotated[
    list[str] | None, typer.Option("--map", help="key=target, such as ts=timestamp. Repeatable.")
]
Count = Annotated[int | None, typer.Option(help="Events to have; unset: all of the file.", min=1)]
Curve = Annotated[str | None, typer.Option(help="Measure at growing sizes, such as 10000,100000.")]
VectorsBy = Annotated[
    Literal["model", "seeded"],
    typer.Option(help="Who makes the vectors; seeded ones mean nothing, for scale only."),
]
Queries = Annotated[
    Path | None, typer.Option(help="Questions as JSON lines; unset: drawn from the events.")
]
Modes = Annotated[
    list[str] | None, typer.Option("--mode", help="hybrid, vector or text. Repeatable.")
]
Clients = Annotated[str, typer.Option(help="Numbers of clients at a time.")]
Requests = Annotated[int, typer.Option(help="Searches a row.", min=1)]
Name = Annotated[str, typer.Option(help="Tells databases of benchmarks apart.")]
Fresh = Annotated[bool, typer.Option("--fresh", help="Empty that database first.")]


@app.command()
def search(
    *,
    events: Events = None,
    maps: Maps = None,
    count: Count = None,
    curve: Curve = None,
    vectors: VectorsBy = "model",
    queries: Queries = None,
    modes: Modes = None,
    clients: Clients = "1,4,16",
    requests: Requests = 100,
    name: Name = "search",
    fresh: Fresh = False,
    as_json: Json = False,
    data_dir: DataDir = None,
) -> None:
    """Measure searches over HTTP, on a database of real events that is kept."""
    from mnemolite.bench.search import MODES, Extent, Source
    from mnemolite.evaluate import read_texts
    from mnemolite.import_export import LineMapping

    sizes = _counts(curve, "--curve") if curve else [count]
    extent = Extent(
        modes=[_one_of(mode, MODES, option="--mode") for mode in modes or MODES],
        clients=_counts(clients, "--clients"),
        requests=requests,
        brief=curve is not None,
    )
    source = Source(events, LineMapping.parse(maps or []), vectors == "seeded")
    settings = _scratch(settings_of(data_dir), name, vectors=vectors)
    texts = read_texts(queries) if queries else []
    measured = run(_search(settings, source, fresh=fresh, extent=extent, sizes=sizes, texts=texts))
    if as_json:
        out.print_json(json.dumps(measured))
    else:
        _show_search(measured)


async def _search(
    settings: Settings,
    source: Any,
    *,
    fresh: bool,
    **options: Any,
) -> dict[str, Any]:
    from mnemolite.bench.corpus import empty
    from mnemolite.bench.search import measure_sizes
    from mnemolite.memory import Memory

    async with Memory.open(settings) as memory:
        if fresh:
            await empty(memory)
        with counting_progress() as progress:
            return await measure_sizes(memory, source, progress=shown_in(progress), **options)


def _scratch(settings: Settings, name: str, *, vectors: str) -> Settings:
    """The settings with a database of its own in the private PostgreSQL."""
    if not re.fullmatch(_NAME, name):
        raise InvalidInputError(
            f"{name!r} is no name.", field="--name", remedy="Use a to z, digits and _, up to 30."
        )
    place = {"url": None, "name": f"mnemolite_bench_{name}_{vectors}"}
    return settings.model_copy(update={"database": settings.database.model_copy(update=place)})


def _counts(text: str, option: str) -> list[int]:
    """Growing numbers, separated by commas."""
    try:
        counts = [int(part.replace("_", "")) for part in text.split(",")]
    except ValueError:
        counts = []
    if not counts or counts != sorted(set(counts)) or counts[0] < 1:
        raise InvalidInputError(
            f"{text!r} are no growing numbers.", field=option, remedy="Write 1,4,16, say."
        )
    return counts


def _one_of(value: str, known: Sequence[str], *, option: str) -> str:
    if value not in known:
        raise InvalidInputError(f"{value!r} is none of {', '.join(known)}.", field=option)
    return value


def _show_search(measured: dict[str, Any]) -> None:
    made = "seeded vectors, for scale only" if measured["vectors"] == "seeded" else "its vectors"
    for size in measured["sizes"]:
        out.print(
            f"{size['events']:,} events, {measured['model']}, {made}; {size['requests']} searches "
            f"a row over HTTP, {measured['cores']} cores; milliseconds"
        )
        if size["build_seconds"]:
            steps = [f"{name} {took:.0f} s" for name, took in size["build_seconds"].items()]
            out.print(f"built: {', '.join(steps)}")
        out.print(_search_table(size["rows"]))
        out.print()
    if len(measured["sizes"]) > 1:
        out.print(_curve_table(measured["sizes"]))
    out.print("model, SQL, rest: means, which add up to the mean of what a client waits.")


def _search_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("search", "plan"):
        table.add_column(column, no_wrap=True)
    for column in ("p50", "p95", "p99", "model", "SQL", "rest", "per s"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        latency, parts = row["latency_ms"], row["parts_ms"]
        figures = [latency["p50"], latency["p95"], latency["p99"], *parts.values()]
        shown = [_short(value) for value in [*figures, row["per_second"]]]
        table.add_row(escape(_label(row)), row["plan"] or "", *shown)
    return table


def _short(value: float) -> str:
    return f"{value:.1f}" if value < _WHOLE else f"{value:.0f}"


def _curve_table(sizes: Sequence[Mapping[str, Any]]) -> Table:
    """A row for each kind of search, a column for each size."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("p50 / p95, ms")
    cells: dict[str, dict[int, str]] = {}
    for size in sizes:
        table.add_column(f"{size['events']:,}", justify="right")
        for row in size["rows"]:
            latency = row["latency_ms"]
            shown = f"{_short(latency['p50'])} / {_short(latency['p95'])}"
            name = row["mode"] if row["filter"] == "none" else f"{row['mode']}, {row['filter']}"
            cells.setdefault(name, {})[size["events"]] = shown
    for name, by_size in cells.items():
        table.add_row(name, *(by_size.get(size["events"], "") for size in sizes))
    return table


def _label(row: Mapping[str, Any]) -> str:
    parts = [row["mode"]]
    if row["filter"] != "none":
        parts.append(f"{row['filter'].split()[0]} {row['share']:.2%}")
    if row["clients"] > 1:
        parts.append(f"{row['clients']} clients")
    if row["cached"]:
        parts.append("cached")
    return ", ".join(parts)


@app.command()
def embed(
    *,
    against: Annotated[
        str | None,
        typer.Option(help="A second provider to measure beside it; provider=model names both."),
    ] = None,
    rounds: Annotated[int, typer.Option(help="Calls of each kind.", min=2)] = 100,
    as_json: Json = False,
) -> None:
    """Measure the model of the settings: latency, throughput, stalls of the event loop, memory."""
    from mnemolite.bench.embed import measure

    settings = settings_of().embedding
    name: str = settings.provider if settings.mode == "real" else "mock"
    providers = {name: settings}
    if against == name:
        raise InvalidInputError(
            f"{name!r} is measured already.", field="--against", remedy="Write provider=model."
        )
    if against is not None:
        providers |= _second(against, settings)
    with counting_progress() as progress:
        measured = run(measure(providers, rounds=rounds, progress=shown_in(progress)))
    if as_json:
        out.print_json(json.dumps(measured))
    else:
        _show_embed(measured)


def _second(against: str, settings: EmbeddingSettings) -> dict[str, EmbeddingSettings]:
    """The settings with another provider, under a name of its own."""
    provider, _, model = against.partition("=")
    values: dict[str, object] = settings.model_dump() | {"mode": "real", "provider": provider}
    values |= {"dimension": None} | ({"model": model} if model else {})
    try:
        return {against: Settings.load(embedding=values).embedding}
    except SettingsError as error:
        raise InvalidInputError(
            f"{provider!r} is no provider that this installation has: {error.detail}",
            field="--against",
        ) from error


def _show_embed(measured: dict[str, Any]) -> None:
    first = next(iter(measured["providers"].values()))
    for name, figures in measured["providers"].items():
        megabytes = figures["resident_bytes"] / 2**20
        out.print(
            f"{escape(name)}: {escape(figures['model'])}, {figures['dimension']} dimensions; "
            f"loaded in {figures['load_seconds']:.1f} s, {megabytes:.0f} MiB"
        )
        out.print(_embed_table(figures, None if figures is first else first))
        out.print()


_MORE = ("per_second", "longest_stall_ms")
_KINDS = {
    "single_ms": "{} tokens, ms",
    "batch_ms": "batch of {} texts, ms",
    "cached_us": "cache {}, microseconds",
    "callers": "{} callers, ms",
}


def _embed_table(figures: Mapping[str, Any], first: Mapping[str, Any] | None) -> Table:
    """A row for each measurement; the last column holds the first provider against this one."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("")
    for column in ("p50", "p95", "p99", "texts/s", "stall ms"):
        table.add_column(column, justify="right")
    if first is not None:
        table.add_column("first is", justify="right")
    for kind, label in _KINDS.items():
        for name, row in figures[kind].items():
            shown = [f"{row[column]:.2f}" for column in ("p50", "p95", "p99")]
            shown += [f"{row[more]:.1f}" if more in row else "" for more in _MORE]
            if first is not None:
                shown.append(f"{row['p50'] / first[kind][name]['p50']:.1f}x")
            table.add_row(label.format(name), *shown)
    return table
