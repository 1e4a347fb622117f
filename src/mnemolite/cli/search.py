"""`mnemolite search`."""

import textwrap
from typing import Annotated, Any
from uuid import UUID

import typer
from rich.markup import escape
from rich.table import Table

from mnemolite.cli.explanation import show_explanation, show_replay
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
# All other options are named as the fields of a query.
_NOT_ASKED = {"replay", "as_json", "data_dir"}

DatesOption = Annotated[
    str, typer.Option(help="What dates in the question do: boost, filter or ignore.")
]
MinSimilarity = Annotated[float | None, typer.Option(help="Between 0 and 1.")]
ModeOption = Annotated[str, typer.Option(help="hybrid, vector or text.")]
ReplayOption = Annotated[
    UUID | None, typer.Option(help="Run a recorded search again; say what differs.")
]
RerankOption = Annotated[
    bool | None,
    typer.Option("--rerank/--no-rerank", help="Whether a reranker orders the best hits."),
]
HalfLifeOption = Annotated[str | None, typer.Option(help="Favour newer events: 12h, 30d, P30D.")]
SessionOption = Annotated[str | None, typer.Option(help="Only this thread.")]
Since = Annotated[str | None, typer.Option(help="Earliest time, included.")]
Until = Annotated[str | None, typer.Option(help="Latest time, excluded.")]
WhereOption = Annotated[str | None, typer.Option(help="A filter as JSON.")]


def search(
    q: Annotated[str | None, typer.Argument(help="The question or the words.")] = None,
    *,
    namespace: NamespaceOption = "default",
    session: SessionOption = None,
    since: Since = None,
    until: Until = None,
    where: WhereOption = None,
    mode: ModeOption = "hybrid",
    limit: Annotated[int, typer.Option(help="Hits to show.")] = 10,
    dates: DatesOption = "boost",
    now: Annotated[str | None, typer.Option(help="What 'last week' refers to.")] = None,
    recency_half_life: HalfLifeOption = None,
    importance: Annotated[float, typer.Option(help="Weight of metadata.importance.")] = 0,
    diversity: Annotated[float, typer.Option(help="Hold back what is alike, 0 to 1.")] = 0,
    min_similarity: MinSimilarity = None,
    rerank: RerankOption = None,
    neighbours: Annotated[int, typer.Option(help="Places around each hit to show.")] = 0,
    explain: Annotated[bool, typer.Option("--explain", help="Say why, and record it.")] = False,
    replay: ReplayOption = None,
    as_json: Json = False,
    data_dir: DataDir = None,
) -> None:
    """Find events by meaning and words."""
    asked = dict(locals())
    settings = settings_of(data_dir)
    if replay is not None:
        _show_replay(run(_replay(settings, replay)), as_json=as_json)
        return
    query = {name: asked[name] for name in asked.keys() - _NOT_ASKED} | {
        "since": moment(since),
        "until": moment(until),
        "now": moment(now),
        "where": None if where is None else json_option(where, "--where"),
    }
    result = run(_search(settings, query))
    out.print_json(result.model_dump_json()) if as_json else _show(result)


async def _search(settings: Settings, fields: dict[str, Any]) -> Any:
    from mnemolite.memory import Memory

    query = validated("SearchQuery", fields)
    parts = {"with_model": query.mode != "text", "with_reranker": query.rerank is not False}
    async with Memory.open(settings, **parts) as memory:
        return await memory.search(query)


async def _replay(settings: Settings, request_id: UUID) -> Any:
    from mnemolite.memory import Memory

    async with Memory.open(settings) as memory:
        return await memory.replay(request_id)


def _show_replay(replay: Any, *, as_json: bool) -> None:
    if as_json:
        out.print_json(replay.model_dump_json())
    else:
        show_replay(replay)
        show_meta(replay.result.meta)


def _show(result: Any) -> None:
    _show_hits(result)
    if result.meta.explanation is not None:
        show_explanation(result)
    show_meta(result.meta)


def _show_hits(result: Any) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    headings: dict[str, dict[str, Any]] = {
        "#": {"justify": "right"},
        "score": {"justify": "right"},
        "similar": {"justify": "right"},
        "when": {"no_wrap": True},
        "session": {},
        "what": {"overflow": "fold"},
    }
    for name, options in headings.items():
        table.add_column(name, **options)
    for number, hit in enumerate(result.data, start=1):
        before = [near for near in hit.neighbours if near.place < 0]
        after = [near for near in hit.neighbours if near.place > 0]
        _add_neighbours(table, before)
        similarity = "" if hit.similarity is None else f"{hit.similarity:.2f}"
        columns = f"{number}", f"{hit.score:.4f}", similarity, _when(hit), escape(hit.session or "")
        table.add_row(*columns, escape(_spoken(hit)))
        _add_neighbours(table, after)
    if result.data:
        out.print(table)
    else:
        out.print("Nothing found.")


def _add_neighbours(table: Table, near: list[Any]) -> None:
    """Dim rows without a number; what stands elsewhere in the table is not repeated."""
    for one in near:
        if one.passage is not None:
            shown = textwrap.shorten(one.passage.text, _SHOWN_CHARACTERS, placeholder=" …")
            table.add_row("", "", "", "", "", escape(f"… {shown}"), style="dim")
        elif one.event is not None:
            session = escape(one.event.session or "")
            what = escape(_spoken(one.event))
            table.add_row("", "", "", _when(one.event), session, what, style="dim")


def _when(event: Any) -> str:
    return str(event.timestamp.strftime("%Y-%m-%d %H:%M"))


def show_meta(meta: Any) -> None:
    for date in meta.dates:
        span = f"{_day(date.since, '…')} to {_day(date.until, '…')}"
        err.print(f'"{escape(date.phrase)}" was read as {span}', highlight=False)
    for lost in meta.degraded:
        err.print(f"[yellow]degraded[/]: no {lost.arm} arm ({escape(lost.reason)})")
    if meta.rerank and not meta.rerank.applied:
        err.print(f"[yellow]not reranked[/]: {escape(meta.rerank.reason)}")
    if meta.pending:
        more = "at least " if meta.pending_is_lower_bound else ""
        err.print(f"[yellow]{more}{meta.pending} events are not embedded yet[/]: run a worker")


def _day(moment: Any, otherwise: str) -> str:
    return moment.strftime("%Y-%m-%d %H:%M") if moment else otherwise


def _spoken(hit: Any) -> str:
    speaker = hit.content.get("speaker") or hit.content.get("role") or ""
    passage = getattr(hit, "passage", None)
    text = passage.text if passage else hit.text
    shown = textwrap.shorten(text, _SHOWN_CHARACTERS, placeholder=" …")
    return f"{speaker}: {shown}" if isinstance(speaker, str) and speaker else shown
