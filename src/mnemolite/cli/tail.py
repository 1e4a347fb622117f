"""`mnemolite tail`."""

import json
from contextlib import aclosing
from datetime import datetime
from typing import Annotated, Any

import typer
from rich.text import Text

from mnemolite.cli.search import SessionOption, WhereOption
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

AfterOption = Annotated[
    str,
    typer.Option(help="Where to begin: now, start, a time, or the cursor of a change."),
]
AllOption = Annotated[bool, typer.Option("--all", help="Tell of every namespace.")]
FollowOption = Annotated[bool, typer.Option(help="Whether to wait for what is to come.")]
KindsOption = Annotated[str, typer.Option(help="What is told, separated by commas.")]

_COLOURS = {"added": "green", "changed": "yellow", "deleted": "red"}


def tail(
    *,
    namespace: NamespaceOption = "default",
    all_namespaces: AllOption = False,
    session: SessionOption = None,
    where: WhereOption = None,
    kinds: KindsOption = "added,changed,deleted",
    after: AfterOption = "now",
    follow: FollowOption = True,
    as_json: Json = False,
    data_dir: DataDir = None,
) -> None:
    """Follow what becomes of events, until Ctrl-C."""
    query = {
        "namespace": namespace,
        "all_namespaces": all_namespaces,
        "session": session,
        "where": None if where is None else json_option(where, "--where"),
        "kinds": kinds,
        "after": after if after in ("now", "start") else moment(after),
    }
    try:
        run(_tail(settings_of(data_dir), query, follow=follow, as_json=as_json))
    except KeyboardInterrupt:  # the way to end it
        raise typer.Exit from None


async def _tail(settings: Settings, fields: dict[str, Any], *, follow: bool, as_json: bool) -> None:
    from mnemolite.memory import Memory

    query = validated("FeedQuery", fields)
    async with Memory.open(settings, with_model=False, with_reranker=False) as memory:
        if follow:
            place = "every namespace" if query.all_namespaces else f"namespace {query.namespace}"
            err.print(Text(f"following {place}; Ctrl-C ends it", "dim"))
        async with aclosing(memory.follow(query, wait=follow)) as changes:
            async for change in changes:
                if as_json:
                    typer.echo(change.model_dump_json())
                else:
                    _show(change, with_namespace=query.all_namespaces)


def _show(change: Any, *, with_namespace: bool) -> None:
    """One line a change, cut to the width of a terminal; elsewhere it is whole."""
    place = change.namespace if with_namespace else ""
    if change.event is not None and change.event.session:
        place += f"/{change.event.session}" if place else change.event.session
    line = Text.assemble(
        (f"{_clock(change.at.astimezone())} ", "dim"),
        (f"{change.kind:<8}", _COLOURS[change.kind]),
        (f" {place}" if place else "", "cyan"),
        f" {_said(change)}",
    )
    if out.is_terminal:
        out.print(line, no_wrap=True, overflow="ellipsis", highlight=False)
    else:
        out.print(line, soft_wrap=True, highlight=False)


def _clock(at: datetime) -> str:
    today = at.date() == datetime.now().astimezone().date()
    return f"{at:%H:%M:%S}" if today else f"{at:%Y-%m-%d %H:%M:%S}"


def _said(change: Any) -> str:
    if change.event is None:
        return str(change.id)
    event = change.event
    text = " ".join(event.text.split())
    said = f"{event.speaker}: {text}" if event.speaker else text
    if change.kind == "changed":
        said = f"{said} {json.dumps(event.metadata, ensure_ascii=False)}"
    # What an event holds must not steer the terminal.
    return "".join(
        letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in said
    )
