"""`mnemolite eval`."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

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
from mnemolite.settings import Settings


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
    confidence: Annotated[
        bool, typer.Option("--confidence", help="Measure meta.confidence too.")
    ] = False,
    as_json: Json = False,
    data_dir: DataDir = None,
) -> None:
    """Measure what the search finds of a corpus, in a scratch database that is kept."""
    from mnemolite import answerability, evaluate

    settings = settings_of(data_dir, search={"default_language": language})
    name = evaluate.scratch_name(corpus, settings)
    scratch = {"data_dir": settings.database.data_dir, "url": None, "name": name}
    settings = settings.model_copy(
        update={"database": settings.database.model_copy(update=scratch)}
    )
    questions = evaluate.read_questions(queries, categories or ())
    chosen = questions[:: max(1, len(questions) // limit)][:limit] if limit else questions
    others = answerability.read_unanswerable(queries) if confidence else None
    measured = run(
        _eval(settings, corpus, questions=chosen, modes=modes or ["hybrid"], others=others)
    )
    out.print_json(json.dumps(measured)) if as_json else _show_scores(measured)


async def _eval(
    settings: Settings, corpus: Path, *, questions: Any, modes: list[Any], others: Any
) -> dict[str, Any]:
    from mnemolite import answerability, evaluate
    from mnemolite.memory import Memory

    for mode in modes:
        validated("SearchOptions", {"mode": mode})
    async with Memory.open(settings) as memory:
        if not (await memory.stats()).events:
            with counting_progress() as progress:
                await evaluate.load_corpus(memory, corpus, progress=shown_in(progress))
        await embed_pending(memory, say=err)
        await memory.settle()
        with counting_progress() as progress:
            show = shown_in(progress)
            scores = {
                mode: await evaluate.ask(memory, questions, mode=mode, progress=show)
                for mode in modes
            }
            measured = evaluate.as_json(scores)
            if others is not None:
                measured["confidence"] = await answerability.measure_confidence(
                    memory, questions, unanswerable=others, progress=show
                )
            return measured


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
