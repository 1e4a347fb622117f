"""How an explained search and a replay look on a terminal."""

from typing import Any

from rich.markup import escape
from rich.table import Table

from mnemolite.cli.terminal import out

_SHOWN_NEIGHBOURS = 3
_ARMS = ("vector", "text")


def show_explanation(result: Any) -> None:
    """How the query was understood, why each hit stands where it stands, where the time went."""
    meta = result.meta
    out.print()
    _show_query(meta)
    numbers = {hit.id: f"#{number}" for number, hit in enumerate(result.data, start=1)}
    for number, hit in enumerate(result.data, start=1):
        _show_hit(number, hit, numbers=numbers)
    timings = meta.explanation.timings
    out.print(
        "\n[bold]time[/] " + " · ".join(f"{name} {value:.1f}" for name, value in timings.items()),
        "ms",
    )
    if meta.request_id:
        out.print(f"[bold]again[/] mnemolite search --replay {meta.request_id}", soft_wrap=True)
    else:
        out.print(f"[yellow]not recorded[/]: {escape(meta.not_recorded or '')}", soft_wrap=True)


def show_replay(replay: Any) -> None:
    """What differs between then and now."""
    asked = escape(replay.query.q or "(a vector)")
    when = replay.recorded_at.strftime("%Y-%m-%d %H:%M:%S")
    out.print(f"[bold]{asked}[/] in {escape(replay.query.namespace)}, recorded {when} UTC")
    if replay.same:
        out.print(
            f"Nothing differs: {len(replay.result.data)} hits, ranks and scores are the same."
        )
        return
    for name, change in replay.meta.items():
        out.print(f"[bold]{name}[/] {escape(str(change.before))} → {escape(str(change.now))}")
    texts = {hit.id: hit.text for hit in replay.result.data}
    table = Table(box=None, pad_edge=False, header_style="bold", expand=True)
    for name in ("what", "rank", "score"):
        table.add_column(name, no_wrap=True)
    table.add_column("event", no_wrap=True, overflow="ellipsis", ratio=1)
    for hit in replay.hits:
        rank = f"{_or_dash(hit.rank_before)} → {_or_dash(hit.rank)}"
        score = f"{_or_dash(hit.score_before, '.4f')} → {_or_dash(hit.score, '.4f')}"
        text = " ".join(texts.get(hit.id, "").split())
        table.add_row(hit.change, rank, score, escape(f"{hit.id} {text}"))
    out.print(table)


def _show_query(meta: Any) -> None:
    query = meta.explanation
    terms = ", ".join(f"{term} {about.idf:.1f}" for term, about in query.terms.items())
    out.print(f"[bold]words[/] (idf) {escape(terms or 'none')}")
    for name in ("ignored", "phrases", "excluded"):
        if words := getattr(query, name):
            out.print(f"[bold]{name}[/] {escape(', '.join(words))}")
    filters = {name: getattr(query, name) for name in ("session", "since", "until", "where")}
    given = ", ".join(f"{name} = {value}" for name, value in filters.items() if value is not None)
    out.print(f"[bold]filters[/] namespace = {escape(query.namespace)} {escape(given)}".rstrip())
    found = ", ".join(f"{count} by {arm}" for arm, count in query.found.items())
    out.print(f"[bold]candidates[/] {found or 'none'}{_plan(meta)}")


def _plan(meta: Any) -> str:
    if meta.plan is None:
        return ""
    plan = meta.plan
    rows = "" if plan.estimated_rows is None else f" of about {plan.estimated_rows} rows"
    return f"; vectors {plan.vector}{rows}, space {meta.space}"


def _show_hit(number: int, hit: Any, *, numbers: dict[Any, str]) -> None:
    why = hit.explanation
    boost = "" if why.boost == 1 else f" x {why.boost:g}"
    out.print(
        f"\n[bold]#{number}[/] {hit.score:.4f} = ({why.vector.score:.4f} vector + "
        f"{why.text.score:.4f} text){boost}   [dim]{hit.id}, {why.words} words[/]",
        soft_wrap=True,
    )
    for name in _ARMS:
        arm = getattr(why, name)
        if arm.score:
            out.print(f"   {name:6} {_arm(arm, numbers)}", soft_wrap=True)
    words = ", ".join(
        f"{escape(term)} {about.idf:.1f}" + (f" x{about.frequency}" if about.frequency > 1 else "")
        for term, about in why.terms.items()
    )
    if words:
        out.print(f"   words  {words}", soft_wrap=True)


def _arm(arm: Any, numbers: dict[Any, str]) -> str:
    rank = f"rank {arm.rank}" if arm.rank else "not found by itself"
    raw = "" if arm.raw is None else f", raw {arm.raw:.3f}"
    parts = [f"own {arm.own_score:.3f}"]
    shown = arm.neighbours[:_SHOWN_NEIGHBOURS]
    parts += [f"{numbers.get(near.id, near.id)} {near.score:.3f}" for near in shown]
    if others := arm.neighbours[_SHOWN_NEIGHBOURS:]:
        parts.append(f"{len(others)} others {sum(near.score for near in others):.3f}")
    if arm.assumed:
        parts.append(f"assumed {arm.assumed:.3f}")
    return f"{rank}{raw}: {' + '.join(parts)}"


def _or_dash(value: float | None, form: str = "") -> str:
    return "–" if value is None else format(value, form)  # noqa: RUF001
