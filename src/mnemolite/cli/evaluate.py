"""`mnemolite eval`: what a search finds of a corpus, of a live namespace, and under filters."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table
from typer.core import TyperGroup

from mnemolite.cli.terminal import (
    DataDir,
    Json,
    counting_progress,
    embed_pending,
    err,
    out,
    run,
    settings_of,
    shown_in,
    validated,
)
from mnemolite.errors import InvalidInputError
from mnemolite.settings import Settings

_DEFAULT_COMMAND = "corpus"

Modes = Annotated[
    list[str] | None, typer.Option("--mode", help="hybrid, vector or text. Repeatable.")
]
Categories = Annotated[
    list[str] | None, typer.Option("--category", help="Only these questions. Repeatable.")
]
Limit = Annotated[int, typer.Option(help="Ask only so many questions; 0 asks all.", min=0)]
SettingsFiles = Annotated[
    list[Path] | None,
    typer.Option("--settings", help="A file of settings to measure with. Repeatable."),
]


class _WithDefault(TyperGroup):
    """A group whose first command is meant when none is named: `eval CORPUS QUERIES`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args or (args[0] not in self.commands and args[0] not in ctx.help_option_names):
            args = [_DEFAULT_COMMAND, *args]
        return super().parse_args(ctx, args)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        super().format_help(ctx, formatter)
        default = self.commands[_DEFAULT_COMMAND]
        inner = type(ctx)(default, info_name=_DEFAULT_COMMAND, parent=ctx)
        default.format_help(inner, formatter)


app = typer.Typer(
    help="Measure what the search finds. `eval CORPUS QUERIES` is short for `eval corpus`.",
    cls=_WithDefault,
)


@app.command(_DEFAULT_COMMAND)
def corpus_(
    corpus: Annotated[Path, typer.Argument(help="Documents as JSON lines, plain or gzip.")],
    queries: Annotated[Path, typer.Argument(help="Questions with the documents they want.")],
    *,
    modes: Modes = None,
    categories: Categories = None,
    settings_files: SettingsFiles = None,
    language: Annotated[
        str | None, typer.Option(help="Text-search language.", show_default="MNEMO_LANGUAGE")
    ] = None,
    limit: Limit = 0,
    confidence: Annotated[
        bool, typer.Option("--confidence", help="Measure meta.confidence too.")
    ] = False,
    as_json: Json = False,
    data_dir: DataDir = None,
) -> None:
    """Measure what the search finds of a corpus, in a scratch database that is kept."""
    from mnemolite import answerability, evaluate

    search: dict[str, object] = {"default_language": language} if language else {}
    variants = _variants(settings_files or [], data_dir, search=search)
    questions = _spread(evaluate.read_questions(queries, categories or ()), limit)
    others = answerability.read_unanswerable(queries) if confidence else None
    scores: dict[str, Any] = {}
    told: dict[str, Any] = {}
    for suffix, settings in variants.items():
        scratch = _scratch(settings, evaluate.scratch_name(corpus, settings))
        measured = run(_eval(scratch, corpus, questions=questions, modes=modes, others=others))
        scores |= {f"{mode}{suffix}": of for mode, of in measured[0].items()}
        told |= {f"{case}{suffix}": of for case, of in measured[1].items()}
    known = {"confidence": told} if told else {}
    _report(evaluate.as_json(scores) | known, as_json=as_json)


@app.command()
def live(
    queries: Annotated[Path, typer.Argument(help="Questions with the events they want.")],
    *,
    namespace: Annotated[
        str | None,
        typer.Option("--namespace", "-n", help="Where to ask; unset: each question's scope."),
    ] = None,
    modes: Modes = None,
    categories: Categories = None,
    settings_files: SettingsFiles = None,
    limit: Limit = 0,
    as_json: Json = False,
    data_dir: DataDir = None,
) -> None:
    """Measure what the search finds in the memory as it is; nothing is stored."""
    from mnemolite import evaluate

    questions = evaluate.read_questions(queries, categories or (), namespace=namespace)
    chosen = _spread(questions, limit)
    scores: dict[str, Any] = {}
    for suffix, settings in _variants(settings_files or [], data_dir).items():
        measured, _ = run(_eval(settings, None, questions=chosen, modes=modes))
        scores |= {f"{mode}{suffix}": of for mode, of in measured.items()}
    _report(evaluate.as_json(scores), as_json=as_json)


@app.command("recall-check")
def recall_check(
    *,
    namespace: Annotated[
        str | None, typer.Option("--namespace", "-n", help="Unset: the largest one.")
    ] = None,
    queries: Annotated[
        Path | None, typer.Option(help="Questions as JSON lines; unset: drawn from the events.")
    ] = None,
    limit: Annotated[int, typer.Option(help="Questions under each filter.", min=1)] = 50,
    as_json: Json = False,
    data_dir: DataDir = None,
) -> None:
    """Hold the served plan for vectors against an exact search, under filters of known share."""
    measured = run(_check(settings_of(data_dir), namespace, queries=queries, limit=limit))
    if as_json:
        out.print_json(json.dumps(measured))
    else:
        _show_check(measured)


def _variants(files: Sequence[Path], data_dir: Path | None, **groups: Any) -> dict[str, Settings]:
    """The settings to measure with, by what is added to a mode's name to tell them apart."""
    stems = [path.stem for path in files]
    if len(set(stems)) < len(stems):
        raise InvalidInputError("Two files have one name.", field="--settings")
    if len(files) == 1:
        return {"": settings_of(data_dir, file=files[0], **groups)}
    named = {f"@{path.stem}": settings_of(data_dir, file=path, **groups) for path in files}
    return named or {"": settings_of(data_dir, **groups)}


def _scratch(settings: Settings, name: str) -> Settings:
    place = {"data_dir": settings.database.data_dir, "url": None, "name": name}
    return settings.model_copy(update={"database": settings.database.model_copy(update=place)})


def _spread(questions: Sequence[Any], limit: int) -> list[Any]:
    """So many of the questions, from all over the file."""
    return list(questions[:: max(1, len(questions) // limit)][:limit] if limit else questions)


async def _eval(
    settings: Settings,
    corpus: Path | None,
    *,
    questions: Any,
    modes: list[Any] | None,
    others: Any = None,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The scores by mode, and what confidence told when there are ``others`` to tell from."""
    from mnemolite import answerability, evaluate
    from mnemolite.memory import Memory

    modes = modes or ["hybrid"]
    for mode in modes:
        validated("SearchOptions", {"mode": mode})
    async with Memory.open(settings) as memory:
        if corpus is not None:
            await _load(memory, corpus)
        with counting_progress() as progress:
            show = shown_in(progress)
            scores = {
                mode: await evaluate.ask(memory, questions, mode=mode, progress=show)
                for mode in modes
            }
            told: dict[str, Any] = {}
            if others is not None:
                told = await answerability.measure_confidence(
                    memory, questions, unanswerable=others, progress=show
                )
            return scores, told


async def _load(memory: Any, corpus: Path) -> None:
    from mnemolite import evaluate

    with counting_progress() as progress:
        await evaluate.load_corpus(memory, corpus, progress=shown_in(progress))
    await embed_pending(memory, say=err)
    await memory.settle()


async def _check(
    settings: Settings, namespace: str | None, *, queries: Path | None, limit: int
) -> dict[str, Any]:
    from mnemolite.evaluate import read_texts
    from mnemolite.memory import Memory
    from mnemolite.recall_check import check_recall

    texts = read_texts(queries) if queries else []
    async with Memory.open(settings) as memory:
        with counting_progress() as progress:
            return await check_recall(
                memory,
                namespace=namespace,
                texts=_spread(texts, limit),
                count=limit,
                progress=shown_in(progress),
            )


def _report(measured: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        out.print_json(json.dumps(measured))
    else:
        _show_scores(measured)


def _show_scores(measured: dict[str, Any]) -> None:
    names = ("recall@5", "recall@10", "recall@20", "ndcg@10", "mrr", "any@10", "tokens@10")
    table = Table(box=None, pad_edge=False, collapse_padding=True, header_style="bold")
    for column in ("mode", "asked", *names, "p50 ms", "p95 ms"):
        # Wrapped before the @, the headings leave room for eleven columns in a terminal.
        heading = column.replace("@", "\n@")
        table.add_column(heading, justify="left" if column == "mode" else "right")
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
    if "confidence" in measured:
        _show_confidence(measured["confidence"])


def _show_confidence(measured: dict[str, Any]) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("confidence", "questions", "median", "AUC"):
        table.add_column(column, justify="left" if column == "confidence" else "right")
    for name, row in measured.items():
        figures = ["" if row.get(key) is None else f"{row[key]:.3f}" for key in ("median", "auc")]
        table.add_row(name.replace("_", " "), str(row["questions"]), *figures)
    out.print(table)


def _show_check(measured: dict[str, Any]) -> None:
    out.print(
        f"{measured['questions']} questions, {measured['events']:,} events in "
        f"{escape(measured['namespace'])}, {measured['table_rows']:,} in all namespaces"
    )
    table = Table(box=None, pad_edge=False, header_style="bold")
    columns = ("filter", "share", "rows", "plan", "estimate", "recall@10", "p50 ms", "p95 ms")
    for column in columns:
        table.add_column(column, justify="left" if column in ("filter", "plan") else "right")
    for row in measured["rows"]:
        table.add_row(row["filter"], *_check_cells(row))
    out.print(table)
    for kind in sorted({one["filter"] for one in measured["missing"]}):
        shares = [one["target"] for one in measured["missing"] if one["filter"] == kind]
        listed = ", ".join(f"{share:.2%}" for share in shares)
        out.print(f"Not in the data: a {kind} with about {listed} of the events.")


def _check_cells(row: Mapping[str, Any]) -> list[str]:
    latency, estimate = row["latency_ms"], row["estimated_rows"]
    return [
        f"{row['share']:.3%}",
        f"{row['rows']:,}",
        "+".join(sorted(row["plans"])),
        "" if estimate is None else f"{estimate:,}",
        f"{row['recall@10']:.4f}",
        f"{latency['p50']:.1f}",
        f"{latency['p95']:.1f}",
    ]
