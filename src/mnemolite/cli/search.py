"""`mnemolite search`."""

import textwrap
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from mnemolite.cli.terminal import (
    DataDir,
    Json,
    NamespaceOption,
    err,
    json_option,
    moment,
    out,
    run,
    settings_of,
    validated,
)
from mnemolite.settings import Settings

_SHOWN_CHARACTERS = 300


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
    rerank: Annotated[
        bool | None,
        typer.Option("--rerank/--no-rerank", help="Whether a reranker orders the best hits."),
    ] = None,
    as_json: Json = False,
    data_dir: DataDir = None,
) -> None:
    """Find events by meaning and words."""
    query = {
        "q": q,
        "namespace": namespace,
        "session": session,
        "since": moment(since),
        "until": moment(until),
        "where": None if where is None else json_option(where, "--where"),
        "mode": mode,
        "limit": limit,
        "min_similarity": min_similarity,
        "rerank": rerank,
    }
    result = run(_search(settings_of(data_dir), query))
    out.print_json(result.model_dump_json()) if as_json else _show_hits(result)


async def _search(settings: Settings, fields: dict[str, Any]) -> Any:
    from mnemolite.memory import Memory

    query = validated("SearchQuery", fields)
    parts = {"with_model": query.mode != "text", "with_reranker": query.rerank is not False}
    async with Memory.open(settings, **parts) as memory:
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
    if meta.rerank and not meta.rerank.applied:
        err.print(f"[yellow]not reranked[/]: {escape(meta.rerank.reason)}")
    if meta.pending:
        more = "at least " if meta.pending_is_lower_bound else ""
        err.print(f"[yellow]{more}{meta.pending} events are not embedded yet[/]: run a worker")


def _spoken(hit: Any) -> str:
    speaker = hit.content.get("speaker") or hit.content.get("role") or ""
    shown = textwrap.shorten(hit.text, _SHOWN_CHARACTERS, placeholder=" …")
    return f"{speaker}: {shown}" if isinstance(speaker, str) and speaker else shown
