"""`mnemolite forget`."""

from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from mnemolite.cli.search import SessionOption, WhereOption
from mnemolite.cli.terminal import (
    FAILED,
    SOME_REJECTED,
    DataDir,
    Json,
    counting_progress,
    err,
    json_option,
    moment,
    out,
    run,
    settings_of,
    shown_in,
    validated,
)
from mnemolite.settings import Settings

if TYPE_CHECKING:
    from mnemolite.models import ForgetQuery, ForgetReport

_NamespaceOption = Annotated[
    str | None, typer.Option("--namespace", "-n", help="Only in this one; else in each.")
]
_OverrideOption = Annotated[
    bool, typer.Option("--override-holds", help="Erase also what is under a hold.")
]
_VacuumOption = Annotated[
    bool,
    typer.Option("--vacuum/--no-vacuum", help="Whether to remove the dead rows from the tables."),
]


def forget(
    *,
    where: WhereOption = None,
    namespace: _NamespaceOption = None,
    session: SessionOption = None,
    since: Annotated[str | None, typer.Option(help="Earliest time, included.")] = None,
    until: Annotated[str | None, typer.Option(help="Latest time, excluded.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count, and change nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    override_holds: _OverrideOption = False,
    vacuum: _VacuumOption = True,
    as_json: Json = False,
    data_dir: DataDir = None,
) -> None:
    """Erase all events that match, with what was derived from them, and look whether they are gone.

    At least one condition is needed.
    """
    query = validated(
        "ForgetQuery",
        {
            "namespace": namespace,
            "session": session,
            "since": moment(since),
            "until": moment(until),
            "where": json_option(where, "--where") if where else None,
        },
    )
    settings = settings_of(data_dir)
    report = run(_preview(settings, query, override_holds=override_holds))
    if not dry_run and report.matched:
        if not yes:
            _ask(report)
        options = {"override_holds": override_holds, "vacuum": vacuum}
        report = run(_forget(settings, query, options=options))
    _show(report, as_json=as_json)
    _end(report)


def _ask(report: "ForgetReport") -> None:
    going = report.matched - report.held
    typer.confirm(f"Erase {going} events for good?", abort=True, err=True)


def _end(report: "ForgetReport") -> None:
    """Tell by the exit code whether all of it is gone."""
    if report.dry_run:
        return
    if not report.verified:
        raise typer.Exit(FAILED)
    if report.held:
        raise typer.Exit(SOME_REJECTED)


async def _preview(
    settings: Settings, query: "ForgetQuery", *, override_holds: bool
) -> "ForgetReport":
    from mnemolite import retention
    from mnemolite.memory import Memory

    async with Memory.open(settings, with_model=False, with_reranker=False) as memory:
        return await retention.preview_forget(memory, query, override_holds=override_holds)


async def _forget(
    settings: Settings, query: "ForgetQuery", *, options: dict[str, Any]
) -> "ForgetReport":
    from mnemolite import retention
    from mnemolite.memory import Memory

    async with Memory.open(settings, with_model=False, with_reranker=False) as memory:
        with counting_progress() as progress:
            show = shown_in(progress)
            return await retention.forget(memory, query, on_progress=show, **options)


def _show(report: "ForgetReport", *, as_json: bool) -> None:
    if as_json:
        out.print_json(data=report.model_dump(mode="json") | {"verified": report.verified})
        return
    held = f"; {report.held} are under a hold ({', '.join(report.held_by)})" if report.held else ""
    out.print(f"{report.matched} events matched{escape(held)}.", soft_wrap=True)
    if report.dry_run:
        return
    out.print(f"Erased {report.erased}.")
    found = ", ".join(f"{rows} rows in {table}" for table, rows in report.ids_left.items())
    out.print(
        f"A second look: {report.matching_left} match still, {found or 'no row'} bears their ids, "
        f"{report.searches} searches found {report.found_again} of them.",
        soft_wrap=True,
    )
    if not report.verified:
        err.print("[red]Not everything is gone.[/] Run it again; new events may have come.")
    out.print("Copies may be in:")
    for place in report.elsewhere:
        out.print(f"  {escape(place)}", soft_wrap=True)
