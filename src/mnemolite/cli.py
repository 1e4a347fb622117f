"""The command line: parse, call Memory, render."""

import asyncio
import json
import signal
import sys
import textwrap
import time
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from mnemolite.errors import InvalidInputError, MnemoliteError
from mnemolite.logs import configure_logs
from mnemolite.settings import Settings

# Everything else is imported by the command that needs it: `--help` should not wait for a model.

T = TypeVar("T")

app = typer.Typer(
    name="mnemolite",
    help="A long-term memory for LLM agents on PostgreSQL.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
db = typer.Typer(help="The database itself.", no_args_is_help=True)
app.add_typer(db, name="db")

out = Console()
err = Console(stderr=True)

FAILED = 1  # 2 is a wrong command line, by convention
SOME_REJECTED = 3
_SHOWN_BAD_LINES = 20
_SHOWN_CHARACTERS = 300
_POLL_SECONDS = 0.2

DataDir = Annotated[
    Path | None,
    typer.Option("--data-dir", help="Folder of the private PostgreSQL.", show_default=False),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
NamespaceOption = Annotated[str, typer.Option("--namespace", "-n", help="Isolation scope.")]


def main() -> NoReturn:
    """Run the command line; errors end it with one clear line and a code of their own."""
    # A termination must unwind like any other exit, so that the private PostgreSQL is released.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        app()
    except MnemoliteError as error:
        _fail(error)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    sys.exit(0)


def _fail(error: MnemoliteError) -> NoReturn:
    named = f"{error.field}: {error.detail}" if error.field else error.detail
    err.print(f"[bold red]error[/] ({error.code}) {escape(named)}", soft_wrap=True)
    if error.remedy:
        err.print(f"  {escape(error.remedy)}", soft_wrap=True)
    sys.exit(FAILED)


def _settings(data_dir: Path | None = None, **groups: dict[str, object]) -> Settings:
    if data_dir is not None:
        groups["database"] = {"data_dir": data_dir, "url": None}
    settings = Settings.load(**groups)
    configure_logs(settings.server)
    return settings


def _run(main_coroutine: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(main_coroutine)


@app.command()
def serve(
    *,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0 picks one.")] = None,
    data_dir: DataDir = None,
) -> None:
    """Start the memory: PostgreSQL, model, REST server and worker."""
    import uvloop

    from mnemolite.app import serve as serve_app

    given: dict[str, object] = {"host": host, "port": port}
    server = {name: value for name, value in given.items() if value is not None}
    # uvloop comes with uvicorn wherever it runs; a search makes dozens of short waits.
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve_app(_settings(data_dir, server=server)))


@app.command()
def worker(*, data_dir: DataDir = None) -> None:
    """Embed what is pending, until stopped; any number of workers may run."""
    settings = _settings(data_dir)

    async def work() -> None:
        from mnemolite.memory import Memory
        from mnemolite.worker import Worker

        async with Memory.open(settings) as memory:
            task = Worker(memory)
            loop = asyncio.get_running_loop()
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(number, task.stop)
            err.print(f"working on space {memory.space.id} ({memory.space.model})")
            await task.run()

    _run(work())


@app.command()
def add(
    text: Annotated[str, typer.Argument(help="What to remember; - reads standard input.")],
    *,
    namespace: NamespaceOption = "default",
    session: Annotated[str | None, typer.Option(help="Thread inside the namespace.")] = None,
    speaker: Annotated[str | None, typer.Option(help="Who said it.")] = None,
    timestamp: Annotated[str | None, typer.Option(help="When it happened. Default: now.")] = None,
    metadata: Annotated[str, typer.Option(help="A JSON object.")] = "{}",
    no_embed: Annotated[bool, typer.Option("--no-embed", help="Leave that to a worker.")] = False,
    as_json: Json = False,
    data_dir: DataDir = None,
) -> None:
    """Store one event and print its id."""
    content = {"text": sys.stdin.read() if text == "-" else text}
    event = {
        "content": content | ({"speaker": speaker} if speaker else {}),
        "namespace": namespace,
        "session": session,
        "timestamp": _moment(timestamp),
        "metadata": _json_option(metadata, "--metadata"),
    }
    stored = _run(_add(_settings(data_dir), event, embed=not no_embed))
    out.print_json(stored.model_dump_json()) if as_json else out.print(str(stored.id))


async def _add(settings: Settings, fields: dict[str, Any], *, embed: bool) -> Any:
    from mnemolite.memory import Memory
    from mnemolite.worker import Worker

    event = _validated("NewEvent", fields)
    async with Memory.open(settings, with_model=embed) as memory:
        stored = await memory.add(event)
        if embed:
            await Worker(memory).drain()
            stored = await memory.get(stored.id)
        return stored


@app.command()
def search(
    q: Annotated[str, typer.Argument(help="The question or the words.")],
    *,
    namespace: NamespaceOption = "default",
    session: Annotated[str | None, typer.Option(help="Only this thread.")] = None,
    since: Annotated[str | None, typer.Option(help="Earliest time, included.")] = None,
    until: Annotated[str | None, typer.Option(help="Latest time, excluded.")] = None,
    where: Annotated[str | None, typer.Option(help="A filter as JSON.")] = None,
    mode: Annotated[str, typer.Option(help="hybrid, vector or text.")] = "hybrid",
    limit: Annotated[int, typer.Option(help="Hits to show.")] = 10,
    min_similarity: Annotated[float | None, typer.Option(help="Between 0 and 1.")] = None,
    as_json: Json = False,
    data_dir: DataDir = None,
) -> None:
    """Find events by meaning and words."""
    query = {
        "q": q,
        "namespace": namespace,
        "session": session,
        "since": _moment(since),
        "until": _moment(until),
        "where": None if where is None else _json_option(where, "--where"),
        "mode": mode,
        "limit": limit,
        "min_similarity": min_similarity,
    }
    result = _run(_search(_settings(data_dir), query))
    out.print_json(result.model_dump_json()) if as_json else _show_hits(result)


async def _search(settings: Settings, fields: dict[str, Any]) -> Any:
    from mnemolite.memory import Memory

    query = _validated("SearchQuery", fields)
    async with Memory.open(settings, with_model=query.mode != "text") as memory:
        return await memory.search(query)


def _show_hits(result: Any) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    columns: dict[str, dict[str, Any]] = {
        "#": {"justify": "right"},
        "score": {"justify": "right"},
        "similar": {"justify": "right"},
        "when": {"no_wrap": True},
        "session": {},
        "what": {"overflow": "fold"},
    }
    for name, options in columns.items():
        table.add_column(name, **options)
    for number, hit in enumerate(result.data, start=1):
        similarity = "" if hit.similarity is None else f"{hit.similarity:.2f}"
        when = hit.timestamp.strftime("%Y-%m-%d %H:%M")
        what = escape(_spoken(hit))
        table.add_row(
            str(number), f"{hit.score:.4f}", similarity, when, escape(hit.session or ""), what
        )
    if result.data:
        out.print(table)
    else:
        out.print("Nothing found.")
    _show_meta(result.meta)


def _show_meta(meta: Any) -> None:
    for lost in meta.degraded:
        err.print(f"[yellow]degraded[/]: no {lost.arm} arm ({escape(lost.reason)})")
    if meta.pending:
        more = "at least " if meta.pending_is_lower_bound else ""
        err.print(f"[yellow]{more}{meta.pending} events are not embedded yet[/]: run a worker")


def _spoken(hit: Any) -> str:
    speaker = hit.content.get("speaker") or hit.content.get("role") or ""
    shown = textwrap.shorten(hit.text, _SHOWN_CHARACTERS, placeholder=" …")
    return f"{speaker}: {shown}" if isinstance(speaker, str) and speaker else shown


@app.command("import")
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
    no_embed: Annotated[bool, typer.Option("--no-embed", help="Leave that to a worker.")] = False,
    data_dir: DataDir = None,
) -> None:
    """Store the events of a file, then embed them."""
    from mnemolite.import_export import LineMapping

    mapping = LineMapping.parse(maps or [], namespace=namespace, zone=timezone)
    search_settings: dict[str, object] = {"default_language": language} if language else {}
    settings = _settings(data_dir, search=search_settings)
    report = _run(_import(settings, file, mapping=mapping, strict=strict, embed=not no_embed))
    if report.bad:
        raise typer.Exit(SOME_REJECTED)


async def _import(settings: Settings, file: str, *, mapping: Any, strict: bool, embed: bool) -> Any:
    from mnemolite.import_export import import_lines, open_lines
    from mnemolite.memory import Memory

    async with Memory.open(settings, with_model=embed) as memory:
        started = time.perf_counter()
        with open_lines(file) as lines, _reading() as progress:
            task = progress.add_task("storing", total=None)

            def show(read: int, report: Any) -> None:
                progress.update(task, advance=read, description=f"stored {report.stored}")

            report = await import_lines(
                memory, lines, mapping=mapping, strict=strict, on_progress=show
            )
        _show_report(report, time.perf_counter() - started)
        if embed:
            await _embed_pending(memory, say=out)
        return report


async def _embed_pending(memory: Any, *, say: Console) -> None:
    """Embed with a progress bar; what another process has claimed is waited for."""
    from mnemolite.worker import running_worker

    total = (await memory.queue_state()).due
    if not total:
        return
    started = time.perf_counter()
    with _counting() as progress:
        task = progress.add_task("embedding", total=total)
        async with running_worker(memory):
            while left := (await memory.queue_state()).due:
                progress.update(task, completed=max(0, total - left))
                await asyncio.sleep(_POLL_SECONDS)
        progress.update(task, completed=total)
    seconds = time.perf_counter() - started
    say.print(f"Embedded {total} events in {seconds:.1f} s ({total / seconds:.0f}/s).")
    if parked := (await memory.queue_state()).parked:
        err.print(f"[yellow]{parked} events could not be embedded[/]: see `mnemolite doctor`")


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


def _reading() -> Progress:
    columns = (SpinnerColumn(), TextColumn("{task.description}"), DownloadColumn())
    return Progress(*columns, TimeElapsedColumn(), console=err, transient=True)


def _counting() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    return Progress(*columns, TimeRemainingColumn(), console=err, transient=True)


@app.command("eval")
def eval_(
    corpus: Annotated[Path, typer.Argument(help="Documents as JSON lines, plain or gzip.")],
    queries: Annotated[Path, typer.Argument(help="Questions with the documents they want.")],
    *,
    modes: Annotated[
        list[str] | None, typer.Option("--mode", help="hybrid, vector or text. Repeatable.")
    ] = None,
    categories: Annotated[
        list[str] | None, typer.Option("--category", help="Only these questions. Repeatable.")
    ] = None,
    language: Annotated[str, typer.Option(help="Text-search language.")] = "english",
    limit: Annotated[int, typer.Option(help="Ask only so many questions; 0 asks all.")] = 0,
    as_json: Json = False,
    data_dir: DataDir = None,
) -> None:
    """Measure what the search finds of a corpus, in a scratch database that is kept."""
    from mnemolite import evaluate

    settings = _settings(data_dir, search={"default_language": language})
    name = evaluate.scratch_name(corpus, settings)
    scratch = {"data_dir": settings.database.data_dir, "url": None, "name": name}
    settings = settings.model_copy(
        update={"database": settings.database.model_copy(update=scratch)}
    )
    questions = evaluate.read_questions(queries, categories or ())
    chosen = questions[:: max(1, len(questions) // limit)][:limit] if limit else questions
    scores = _run(_eval(settings, corpus, questions=chosen, modes=modes or ["hybrid"]))
    if as_json:
        out.print_json(json.dumps(evaluate.as_json(scores)))
    else:
        _show_scores(evaluate.as_json(scores))


async def _eval(
    settings: Settings, corpus: Path, *, questions: Any, modes: list[Any]
) -> dict[str, Any]:
    from mnemolite import evaluate
    from mnemolite.memory import Memory

    for mode in modes:
        _validated("SearchOptions", {"mode": mode})
    async with Memory.open(settings) as memory:
        if not (await memory.stats()).events:
            with _counting() as progress:
                await evaluate.load_corpus(memory, corpus, progress=_shown_in(progress))
        await _embed_pending(memory, say=err)
        await memory.settle()
        with _counting() as progress:
            show = _shown_in(progress)
            return {
                mode: await evaluate.ask(memory, questions, mode=mode, progress=show)
                for mode in modes
            }


def _shown_in(progress: Progress) -> Callable[[str, int, int], None]:
    task = progress.add_task("", total=None)

    def show(*state: Any) -> None:
        doing, done, total = state
        progress.update(task, description=doing, completed=done, total=total)

    return show


def _show_scores(measured: dict[str, Any]) -> None:
    names = ("recall@5", "recall@10", "recall@20", "ndcg@10", "mrr", "any@10", "tokens@10")
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("mode", "questions", *names, "p50 ms", "p95 ms"):
        table.add_column(column, justify="left" if column == "mode" else "right")
    for mode, figures in measured["modes"].items():
        rows = {mode: figures["overall"]} | {
            f"  {name}": category for name, category in figures["by_category"].items()
        }
        for name, row in rows.items():
            latency = row["latency_ms"]
            shown = [f"{row[measure]:.3f}" for measure in names[:-1]]
            shown += [f"{row['tokens@10']:.0f}", f"{latency['p50']:.0f}", f"{latency['p95']:.0f}"]
            table.add_row(escape(name), str(row["queries"]), *shown)
    out.print(table)
    for pair, delta in measured["differences"].items():
        span = f"[{delta['low']:+.3f}, {delta['high']:+.3f}]"
        out.print(f"recall@10 of {pair}: {delta['mean']:+.3f} {escape(span)}")


@app.command()
def doctor(*, as_json: Json = False, data_dir: DataDir = None) -> None:
    """Say what is installed, what is wrong, and what to do."""
    from mnemolite.doctor import examine, is_well

    findings = _run(examine(_settings(data_dir)))
    if as_json:
        out.print_json(json.dumps({"data": [finding.as_dict() for finding in findings]}))
    else:
        _show_findings(findings)
    if not is_well(findings):
        raise typer.Exit(FAILED)


def _show_findings(findings: list[Any]) -> None:
    colours = {"ok": "green", "note": "yellow", "wrong": "bold red"}
    table = Table(box=None, pad_edge=False, show_header=False)
    for finding in findings:
        said = escape(finding.detail)
        if finding.remedy:
            said += f"\n[dim]{escape(finding.remedy)}[/]"
        colour = colours[finding.status]
        table.add_row(f"[{colour}]{finding.status}[/]", finding.check, said)
    out.print(table)


@db.command("upgrade")
def db_upgrade(*, data_dir: DataDir = None) -> None:
    """Create the schema, or bring it up to date."""
    settings = _settings(data_dir)

    async def upgrade() -> dict[str, str]:
        from mnemolite.memory import Memory

        async with Memory.open(settings, with_model=False) as memory:
            return await memory.database_facts()

    facts = _run(upgrade())
    out.print(f"Schema {facts['schema']} on PostgreSQL {facts['PostgreSQL']}.")


def _moment(text: str | None) -> str | None:
    """A time on the command line may leave out the zone, which is then UTC, and the time of day."""
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return text  # the model says what is wrong with it
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).isoformat()


def _json_option(text: str, option: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise InvalidInputError(f"This is not JSON: {error}.", field=option) from None


def _validated(model: str, fields: dict[str, Any]) -> Any:
    """A model made of options; the first fault becomes the command's error."""
    from pydantic import ValidationError

    from mnemolite import models

    given = {name: value for name, value in fields.items() if value is not None}
    try:
        return getattr(models, model).model_validate(given)
    except ValidationError as error:
        fault = error.errors()[0]
        field = ".".join(str(part) for part in fault["loc"]) or None
        raise InvalidInputError(f"{fault['msg']}.", field=field) from None


if __name__ == "__main__":
    main()
