"""`mnemolite retention`: what is too old goes, what is held stays."""

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import typer
from rich.markup import escape
from rich.table import Table

from mnemolite.cli.search import WhereOption
from mnemolite.cli.terminal import (
    FAILED,
    DataDir,
    Json,
    err,
    json_option,
    out,
    run,
    settings_of,
    shown_in,
    storing_progress,
    validated,
)

if TYPE_CHECKING:
    from mnemolite.memory import Memory
    from mnemolite.models import RetentionEntry, RetentionState, RuleOutcome

T = TypeVar("T")

AgeOption = Annotated[
    str | None, typer.Option("--max-age", help="'24 months', '90 days', 12h: what is older goes.")
]

app = typer.Typer(help="Let go of what is too old, and hold what must stay.", no_args_is_help=True)
hold_app = typer.Typer(help="Events that no rule deletes.", no_args_is_help=True)
app.add_typer(hold_app, name="hold")

NameArgument = Annotated[str, typer.Argument(help="What it is called.")]
InNamespace = Annotated[
    str | None, typer.Option("--namespace", "-n", help="Only in this one; else in each.")
]


@app.command()
def status(*, as_json: Json = False, data_dir: DataDir = None) -> None:
    """Show the rules, the holds, the age at which partitions go, and what is under way."""
    _show_state(data_dir, as_json=as_json)


@app.command("list")
def list_rules(*, as_json: Json = False, data_dir: DataDir = None) -> None:
    """List the rules."""
    state = _state(data_dir)
    if as_json:
        out.print_json(json.dumps({"data": [one.model_dump(mode="json") for one in state.rules]}))
    else:
        out.print(_rules(state))


@app.command()
def add(
    name: NameArgument,
    *,
    namespace: InNamespace = None,
    where: WhereOption = None,
    max_age: AgeOption = None,
    keep_last: Annotated[
        int | None, typer.Option("--keep-last", help="So many of the newest stay.")
    ] = None,
    keep_per: Annotated[
        Literal["namespace", "session"], typer.Option("--keep-per", help="Of each what they stay.")
    ] = "namespace",
    disabled: Annotated[
        bool, typer.Option("--disabled", help="Workers leave it alone; `run --rule` applies it.")
    ] = False,
    data_dir: DataDir = None,
) -> None:
    """Add a rule. With an age and a number, what is old enough and not among the newest goes."""
    rule = validated(
        "RetentionRule",
        {
            "name": name,
            "namespace": namespace,
            "where": json_option(where, "--where") if where else None,
            "max_age": max_age,
            "keep_last": keep_last,
            "keep_per": keep_per,
            "enabled": not disabled,
        },
    )

    async def store(memory: "Memory") -> None:
        from mnemolite import retention

        await retention.add_rule(memory.database, rule)

    _with_memory(data_dir, store)
    out.print(f"Rule {escape(name)} is stored. What it would do: mnemolite retention run --dry-run")


@app.command()
def remove(name: NameArgument, *, data_dir: DataDir = None) -> None:
    """Remove a rule."""

    async def drop(memory: "Memory") -> None:
        from mnemolite import retention

        await retention.remove_rule(memory.database, name)

    _with_memory(data_dir, drop)
    out.print(f"Rule {escape(name)} is removed.")


@app.command("run")
def run_rules(
    *,
    rule: Annotated[
        str | None, typer.Option(help="Only this one; partitions is the age of partitions.")
    ] = None,
    older_than: Annotated[
        str | None, typer.Option("--older-than", help="An age, in place of all rules.")
    ] = None,
    archive: Annotated[
        Path | None,
        typer.Option(help="Folder for partitions; what else is too old stays."),
    ] = None,
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep partitions as tables; what else is too old stays.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count, and change nothing.")] = False,
    as_json: Json = False,
    data_dir: DataDir = None,
) -> None:
    """Apply the rules: drop partitions that are over, delete the rest in small batches."""
    from mnemolite.retention import Options

    options = Options(rule=rule, older_than=_age(older_than), archive=archive, keep=keep)

    async def apply(memory: "Memory") -> "list[RuleOutcome]":
        from mnemolite import retention

        if dry_run:
            return await retention.preview(memory, options)
        with storing_progress() as progress:
            return await retention.run(memory, options, on_progress=shown_in(progress))

    outcomes = _with_memory(data_dir, apply)
    if as_json:
        data = [one.model_dump(mode="json") for one in outcomes]
        out.print_json(json.dumps({"dry_run": dry_run, "data": data}))
    else:
        _show_outcomes(outcomes, dry_run=dry_run)
    if any(one.error for outcome in outcomes for one in outcome.partitions):
        raise typer.Exit(FAILED)


@app.command("log")
def show_log(
    *,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="Lines, the newest first.")] = 50,
    as_json: Json = False,
    data_dir: DataDir = None,
) -> None:
    """Show what went, when and by which rule."""

    async def read(memory: "Memory") -> "list[RetentionEntry]":
        from mnemolite import retention

        return await retention.entries(memory, limit=limit)

    entries = _with_memory(data_dir, read)
    if as_json:
        out.print_json(json.dumps({"data": [one.model_dump(mode="json") for one in entries]}))
    else:
        out.print(_log(entries))


@hold_app.command("add")
def add_hold(
    name: NameArgument,
    *,
    namespace: InNamespace = None,
    where: WhereOption = None,
    reason: Annotated[str | None, typer.Option(help="Why, for those who find it.")] = None,
    data_dir: DataDir = None,
) -> None:
    """Hold all events that match: no rule and no partition takes them. Without options: all."""
    hold = validated(
        "RetentionHold",
        {
            "name": name,
            "namespace": namespace,
            "where": json_option(where, "--where") if where else None,
            "reason": reason,
        },
    )

    async def store(memory: "Memory") -> None:
        from mnemolite import retention

        await retention.add_hold(memory.database, hold)

    _with_memory(data_dir, store)
    out.print(f"Hold {escape(name)} is stored.")


@hold_app.command("list")
def list_holds(*, as_json: Json = False, data_dir: DataDir = None) -> None:
    """List the holds."""
    state = _state(data_dir)
    if as_json:
        out.print_json(json.dumps({"data": [one.model_dump(mode="json") for one in state.holds]}))
    else:
        out.print(_holds(state))


@hold_app.command("remove")
def remove_hold(name: NameArgument, *, data_dir: DataDir = None) -> None:
    """Let go of what a hold has kept."""

    async def drop(memory: "Memory") -> None:
        from mnemolite import retention

        await retention.remove_hold(memory.database, name)

    _with_memory(data_dir, drop)
    out.print(f"Hold {escape(name)} is removed.")


def _with_memory(data_dir: Path | None, use: "Callable[[Memory], Awaitable[T]]") -> T:
    async def opened() -> T:
        from mnemolite.memory import Memory

        settings = settings_of(data_dir)
        async with Memory.open(settings, with_model=False, with_reranker=False) as memory:
            return await use(memory)

    return run(opened())


def _state(data_dir: Path | None) -> "RetentionState":
    async def read(memory: "Memory") -> "RetentionState":
        from mnemolite import retention

        return await retention.state(memory)

    return _with_memory(data_dir, read)


def _age(text: str | None) -> str | None:
    """An age, checked here so that the error names the option."""
    if text is None:
        return None
    rule = validated("RetentionRule", {"name": "older-than", "max_age": text})
    return str(rule.max_age)


def _show_state(data_dir: Path | None, *, as_json: bool) -> None:
    state = _state(data_dir)
    if as_json:
        out.print_json(state.model_dump_json())
        return
    age = state.partitions_older_than
    out.print(f"Partitions go when they are older than {age}." if age else "Partitions stay.")
    out.print(_rules(state) if state.rules else "There are no rules.")
    out.print(_holds(state) if state.holds else "There are no holds.")
    for entry in state.unfinished:
        err.print(
            f"[yellow]{entry.partition_name} is on its way out ({entry.step})[/]: "
            "`mnemolite retention run` goes on with it."
        )


def _rules(state: "RetentionState") -> Table:
    table = _table("rule", "namespace", "where", "older than", "keep last", "workers")
    for rule in state.rules:
        last = f"{rule.keep_last} a {rule.keep_per}" if rule.keep_last else ""
        table.add_row(
            escape(rule.name),
            escape(rule.namespace or "each"),
            escape(json.dumps(rule.where, ensure_ascii=False) if rule.where else "all"),
            rule.max_age or "",
            last,
            "apply it" if rule.enabled else "leave it",
        )
    return table


def _holds(state: "RetentionState") -> Table:
    table = _table("hold", "namespace", "where", "reason")
    for hold in state.holds:
        table.add_row(
            escape(hold.name),
            escape(hold.namespace or "each"),
            escape(json.dumps(hold.where, ensure_ascii=False) if hold.where else "all"),
            escape(hold.reason or ""),
        )
    return table


def _log(entries: "list[RetentionEntry]") -> Table:
    table = _table("started", "rule", "what", "events", "step", "where it is now")
    for entry in entries:
        table.add_row(
            f"{entry.started_at:%Y-%m-%d %H:%M:%S}",
            escape(entry.rule),
            escape(entry.partition_name or entry.kind),
            str(entry.events),
            entry.step,
            escape(entry.error or entry.archive or entry.kept_as or ""),
        )
    return table


def _show_outcomes(outcomes: "list[RuleOutcome]", *, dry_run: bool) -> None:
    if not outcomes:
        out.print("There is no rule to apply.")
    for outcome in outcomes:
        before = f", before {outcome.older_than:%Y-%m-%d %H:%M}" if outcome.older_than else ""
        verb = "would delete" if dry_run else "deleted"
        said = f"{escape(outcome.rule)}{before}: {verb} {outcome.deleted} events one by one"
        out.print(f"{said}; holds keep {outcome.held}.", soft_wrap=True)
        if outcome.left:
            out.print(f"  {outcome.left} more are not in a whole partition: they stay.")
        for one in outcome.partitions:
            out.print(f"  {_said_of(one, dry_run=dry_run)}", soft_wrap=True)


def _said_of(one: Any, *, dry_run: bool) -> str:
    if one.error:
        return f"{one.name}: put back. {escape(one.error)}"
    if one.held:
        return f"{one.name} stays: holds keep {one.held} of its {one.events} events."
    kept = one.archive or one.kept_as
    where = f" They are in {escape(kept)}." if kept else ""
    return f"{one.name} {'would go' if dry_run else 'is gone'}, with {one.events} events.{where}"


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, justify="right" if column == "events" else "left")
    return table
