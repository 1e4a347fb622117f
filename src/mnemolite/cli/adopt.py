"""`mnemolite db adopt`: take over a table of events that another program has filled."""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from mnemolite.cli.terminal import (
    SOME_REJECTED,
    DataDir,
    Json,
    NamespaceOption,
    counting_progress,
    err,
    out,
    run,
    settings_of,
    shown_in,
    validated,
)
from mnemolite.errors import AdoptionError
from mnemolite.settings import Settings

if TYPE_CHECKING:
    from mnemolite.adoption import Show
    from mnemolite.memory import Memory
    from mnemolite.models import AdoptionPlan, AdoptionReport, AdoptionState

    Step = Callable[[Memory, Show], Awaitable[AdoptionReport]]

_SHOWN_REFUSALS = 20


# One line for each option, so that the command below can be read.
From = Annotated[
    str | None, typer.Option("--from", help="Address of the foreign database.", show_default=False)
]
Online = Annotated[bool, typer.Option("--online", help="The source is written to meanwhile.")]
TableName = Annotated[str, typer.Option(help="Its table, with its schema or without.")]
NamespaceKey = Annotated[
    str | None, typer.Option(help="Such as metadata.user: names the namespace.")
]
SessionKey = Annotated[
    str | None, typer.Option(help="Such as metadata.session: names the session.")
]
Language = Annotated[
    str | None, typer.Option(help="Text-search language of namespaces that are new.")
]
SpaceName = Annotated[str | None, typer.Option(help="The model that made the source's vectors.")]
NoVectors = Annotated[bool, typer.Option("--no-vectors", help="Leave the vectors where they are.")]
LeaveColumns = Annotated[
    bool, typer.Option("--leave-columns", help="Leave columns of other names behind.")
]
SkipBad = Annotated[
    bool, typer.Option("--skip-bad", help="Leave out and report what cannot be stored.")
]
Batch = Annotated[int, typer.Option(help="Rows to a transaction.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Read all of it, report, and change nothing.")
]
Status = Annotated[bool, typer.Option("--status", help="Show how far it has come.")]
CutOver = Annotated[
    bool, typer.Option("--cutover", help="Let this memory take the source's place.")
]
RollBack = Annotated[bool, typer.Option("--rollback", help="Take the adoption back.")]
Finish = Annotated[bool, typer.Option("--finish", help="End it; its events stay, its traces go.")]


def adopt(
    *,
    dsn: From = None,
    online: Online = False,
    table: TableName = "events",
    namespace: NamespaceOption = "default",
    namespace_key: NamespaceKey = None,
    session_key: SessionKey = None,
    language: Language = None,
    space: SpaceName = None,
    no_vectors: NoVectors = False,
    leave_columns: LeaveColumns = False,
    skip_bad: SkipBad = False,
    batch: Batch = 5000,
    dry_run: DryRun = False,
    status: Status = False,
    cutover: CutOver = False,
    rollback: RollBack = False,
    finish: Finish = False,
    as_json: Json = False,
    data_dir: DataDir = None,
) -> None:
    """Take over a table of events that another program has filled; go on where it stopped."""
    settings = settings_of(data_dir)
    wanted = {"dry-run": dry_run, "status": status, "cutover": cutover, "rollback": rollback}
    step = _one_of({**wanted, "finish": finish})
    if step == "status":
        _show_status(run(_status(settings)), as_json=as_json)
        return
    language = language or settings.search.default_language
    keys = {"namespace": namespace, "namespace_key": namespace_key, "session_key": session_key}
    what = {"table": table, "space": space, "vectors": not no_vectors, "language": language}
    how = {"online": online, "skip_bad": skip_bad, "leave_columns": leave_columns, "batch": batch}
    plan = validated("AdoptionPlan", {**keys, **what, **how})
    report = run(_run(settings, plan, step=_step(step, dsn, plan=plan)))
    _show(report, as_json=as_json)
    if report.refusals:
        raise typer.Exit(SOME_REJECTED)


def _one_of(steps: dict[str, bool]) -> str:
    named = [name for name, wanted in steps.items() if wanted]
    if len(named) > 1:
        raise AdoptionError("Only one step can be taken at a time.", field=f"--{named[1]}")
    return named[0] if named else "adopt"


def _step(name: str, dsn: str | None, *, plan: "AdoptionPlan") -> "Step":
    from mnemolite import adoption

    if name == "rollback":
        return lambda memory, show: adoption.roll_back(memory, dsn, show=show)
    if name == "finish":
        return lambda memory, show: adoption.finish(memory, dsn, show=show)
    if dsn is None:
        raise AdoptionError(
            "The address of the foreign database is missing.",
            field="--from",
            remedy="Such as --from postgresql://user@host/database; libpq finds the password in "
            "PGPASSWORD or ~/.pgpass.",
        )
    if name == "cutover":
        return lambda memory, show: adoption.cut_over(memory, dsn, show=show)
    if name == "dry-run":
        return lambda memory, show: adoption.preview(memory, dsn, plan=plan, show=show)
    return lambda memory, show: adoption.adopt(memory, dsn, plan=plan, show=show)


async def _run(settings: Settings, plan: "AdoptionPlan", *, step: "Step") -> "AdoptionReport":
    from mnemolite.adoption import names_own_model
    from mnemolite.memory import Memory

    with_model = names_own_model(settings, plan)
    async with Memory.open(settings, with_model=with_model, with_reranker=False) as memory:
        with counting_progress() as progress:
            return await step(memory, shown_in(progress))


async def _status(settings: Settings) -> "AdoptionState | None":
    from mnemolite import adoption
    from mnemolite.memory import Memory

    async with Memory.open(settings, with_model=False, with_reranker=False) as memory:
        return await adoption.status(memory)


def _show_status(state: "AdoptionState | None", *, as_json: bool) -> None:
    if as_json:
        out.print_json("null" if state is None else state.model_dump_json())
    elif state is None:
        out.print("No adoption is under way.")
    else:
        out.print(_state_table(state))


def _show(report: "AdoptionReport", *, as_json: bool) -> None:
    if as_json:
        out.print_json(report.model_dump_json())
        return
    if report.state is not None:
        out.print(_state_table(report.state))
    if report.source is not None:
        out.print(_checksums_table(report))
    for refusal in report.refusals[:_SHOWN_REFUSALS]:
        said = f"{refusal.id} ({refusal.timestamp}): {refusal.reason}"
        err.print(f"[yellow]left out[/] {escape(said)}", soft_wrap=True)
    if (more := len(report.refusals) - _SHOWN_REFUSALS) > 0:
        err.print(f"[yellow]left out[/] {more} more; --json lists all of them")
    for note in report.notes:
        err.print(escape(note), soft_wrap=True)


def _state_table(state: "AdoptionState") -> Table:
    table = Table(box=None, pad_edge=False, show_header=False)
    rows = {
        "source": state.source,
        "phase": f"{state.phase}{', online' if state.plan.online else ''}",
        "adopted": f"{state.adopted} of {state.total}",
        "left out": state.refused,
        "space": state.space or "none",
        "changes here to be brought back": state.changes,
    }
    for name, value in rows.items():
        table.add_row(name, escape(str(value)))
    return table


def _checksums_table(report: "AdoptionReport") -> Table:
    table = Table("", "source", "memory", box=None, pad_edge=False)
    for name in ("rows", "vectors", "events_sum", "vectors_sum"):
        ours = getattr(report.target, name) if report.target else ""
        table.add_row(name.replace("_", " "), str(getattr(report.source, name)), str(ours))
    return table
