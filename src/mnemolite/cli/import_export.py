"""`mnemolite import` and `mnemolite export`."""

import time
from typing import Annotated, Any, Literal

import typer
from rich.markup import escape

from mnemolite.cli.terminal import (
    SOME_REJECTED,
    DataDir,
    Json,
    NoEmbed,
    embed_pending,
    err,
    json_option,
    moment,
    out,
    reading_progress,
    run,
    settings_of,
    storing_progress,
    validated,
)
from mnemolite.settings import Settings

_SHOWN_BAD_LINES = 20


def import_(
    file: Annotated[str, typer.Argument(help="Plain or gzip; - is standard input.")],
    *,
    format: Annotated[
        str,
        typer.Option(help="auto, jsonl, mnemolite, chatgpt, claude, mem0 or memory-jsonl."),
    ] = "auto",
    maps: Annotated[
        list[str] | None,
        typer.Option("--map", help="key=target, such as scope=namespace. Repeatable."),
    ] = None,
    namespace: Annotated[
        str | None, typer.Option("--namespace", "-n", help="For lines that name none.")
    ] = None,
    language: Annotated[
        str | None, typer.Option(help="Text-search language of namespaces that are new.")
    ] = None,
    timezone: Annotated[str, typer.Option(help="Zone of timestamps that name none.")] = "UTC",
    strict: Annotated[bool, typer.Option("--strict", help="Stop at the first bad line.")] = False,
    no_embed: NoEmbed = False,
    as_json: Json = False,
    data_dir: DataDir = None,
) -> None:
    """Store the events of a file, then embed them. Running it again doubles nothing."""
    from mnemolite.import_export import LineMapping

    mapping = LineMapping.parse(maps or [], namespace=namespace, zone=timezone)
    search_settings: dict[str, object] = {"default_language": language} if language else {}
    settings = settings_of(data_dir, search=search_settings)
    options = {"mapping": mapping, "format": format, "strict": strict}
    report = run(_import(settings, file, options=options, embed=not no_embed, as_json=as_json))
    if report.bad:
        raise typer.Exit(SOME_REJECTED)


async def _import(
    settings: Settings, file: str, *, options: dict[str, Any], embed: bool, as_json: bool
) -> Any:
    from mnemolite.import_export import import_events, open_lines
    from mnemolite.memory import Memory

    async with Memory.open(settings, with_model=embed, with_reranker=False) as memory:
        started = time.perf_counter()
        with open_lines(file) as lines, reading_progress() as progress:
            task = progress.add_task("storing", total=None)

            def show(read: int, report: Any) -> None:
                progress.update(task, advance=read, description=f"stored {report.stored}")

            report = await import_events(memory, lines, on_progress=show, **options)
        if as_json:
            out.print_json(data=report.told())
        else:
            _show_report(report, time.perf_counter() - started)
        if embed:
            await embed_pending(memory, say=err if as_json else out)
        elif not as_json and report.stored > report.vectors:
            out.print(f"{report.stored - report.vectors} events wait for a worker to embed them.")
        return report


def _show_report(report: Any, seconds: float) -> None:
    rate = report.stored / seconds if seconds else 0
    out.print(f"Stored {report.stored} events in {seconds:.1f} s ({rate:.0f}/s): {report.format}.")
    if report.vectors:
        out.print(f"{report.vectors} of them came with their vectors.")
    if report.already_there:
        out.print(f"{report.already_there} were there already.")
    if report.zoneless:
        out.print(f"{report.zoneless} timestamps named no zone (see --timezone).")
    if report.kept_in_metadata:
        out.print(f"Kept in metadata: {escape(', '.join(sorted(report.kept_in_metadata)))}.")
    for said, counts in (("Kept as data", report.kept_as_data), ("Skipped", report.skipped)):
        if counts:
            named = ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items()))
            out.print(f"{said}: {escape(named)}.")
    for note in report.notes:
        err.print(f"[yellow]{escape(note)}[/]", soft_wrap=True)
    for bad in report.bad_lines[:_SHOWN_BAD_LINES]:
        where = f"{report.unit} {bad.number}"
        err.print(f"[red]{where}[/]: {escape(bad.reason)}", soft_wrap=True)
    if report.bad:
        err.print(f"[red]{report.bad} were left out.[/]")


def export(
    file: Annotated[str, typer.Argument(help=".gz is packed; - is standard output.")],
    *,
    namespace: Annotated[
        str | None, typer.Option("--namespace", "-n", help="Only this one.")
    ] = None,
    session: Annotated[str | None, typer.Option(help="Only this thread.")] = None,
    since: Annotated[str | None, typer.Option(help="Earliest time, included.")] = None,
    until: Annotated[str | None, typer.Option(help="Latest time, excluded.")] = None,
    where: Annotated[str | None, typer.Option(help="A filter, as JSON.")] = None,
    with_vectors: Annotated[
        bool, typer.Option("--with-vectors", help="The vectors of the active space too.")
    ] = False,
    format: Annotated[
        Literal["jsonl", "parquet"], typer.Option(help="jsonl or parquet.")
    ] = "jsonl",
    data_dir: DataDir = None,
) -> None:
    """Write events to a file, as they were at one moment; import reads it again."""
    query = validated(
        "ExportQuery",
        {
            "namespace": namespace,
            "session": session,
            "since": moment(since),
            "until": moment(until),
            "where": json_option(where, "--where") if where else None,
        },
    )
    options = {"path": file, "with_vectors": with_vectors}
    run(_export(settings_of(data_dir), query, options=options, parquet=format == "parquet"))


async def _export(
    settings: Settings, query: Any, *, options: dict[str, Any], parquet: bool
) -> None:
    from mnemolite.import_export import write_export, write_parquet
    from mnemolite.memory import Memory

    write = write_parquet if parquet else write_export
    async with Memory.open(settings, with_model=False, with_reranker=False) as memory:
        started = time.perf_counter()
        with storing_progress() as progress:
            task = progress.add_task("exporting", total=None)

            def show(events: int) -> None:
                progress.update(task, completed=events, description=f"exported {events}")

            events = await write(memory, query, on_progress=show, **options)
        seconds = time.perf_counter() - started
        # Standard output may be the export itself.
        err.print(f"Exported {events} events in {seconds:.1f} s ({events / seconds:.0f}/s).")
