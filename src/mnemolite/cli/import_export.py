"""`mnemolite import`."""

import time
from typing import Annotated, Any

import typer
from rich.markup import escape

from mnemolite.cli.terminal import (
    SOME_REJECTED,
    DataDir,
    NoEmbed,
    embed_pending,
    err,
    out,
    reading_progress,
    run,
    settings_of,
)
from mnemolite.settings import Settings

_SHOWN_BAD_LINES = 20


def import_(
    file: Annotated[str, typer.Argument(help="JSON lines, plain or gzip; - is standard input.")],
    *,
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
    data_dir: DataDir = None,
) -> None:
    """Store the events of a file, then embed them."""
    from mnemolite.import_export import LineMapping

    mapping = LineMapping.parse(maps or [], namespace=namespace, zone=timezone)
    search_settings: dict[str, object] = {"default_language": language} if language else {}
    settings = settings_of(data_dir, search=search_settings)
    report = run(_import(settings, file, mapping=mapping, strict=strict, embed=not no_embed))
    if report.bad:
        raise typer.Exit(SOME_REJECTED)


async def _import(settings: Settings, file: str, *, mapping: Any, strict: bool, embed: bool) -> Any:
    from mnemolite.import_export import import_lines, open_lines
    from mnemolite.memory import Memory

    async with Memory.open(settings, with_model=embed, with_reranker=False) as memory:
        started = time.perf_counter()
        with open_lines(file) as lines, reading_progress() as progress:
            task = progress.add_task("storing", total=None)

            def show(read: int, report: Any) -> None:
                progress.update(task, advance=read, description=f"stored {report.stored}")

            report = await import_lines(
                memory, lines, mapping=mapping, strict=strict, on_progress=show
            )
        _show_report(report, time.perf_counter() - started)
        if embed:
            await embed_pending(memory, say=out)
        return report


def _show_report(report: Any, seconds: float) -> None:
    rate = report.stored / seconds if seconds else 0
    out.print(f"Stored {report.stored} events in {seconds:.1f} s ({rate:.0f}/s).")
    if report.already_there:
        out.print(f"{report.already_there} were there already.")
    if report.zoneless:
        out.print(f"{report.zoneless} timestamps named no zone (see --timezone).")
    if report.kept_in_metadata:
        out.print(f"Kept in metadata: {escape(', '.join(sorted(report.kept_in_metadata)))}.")
    for bad in report.bad_lines[:_SHOWN_BAD_LINES]:
        err.print(f"[red]line {bad.number}[/]: {escape(bad.reason)}", soft_wrap=True)
    if report.bad:
        err.print(f"[red]{report.bad} lines were left out.[/]")
