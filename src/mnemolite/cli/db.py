"""`mnemolite db`: the database itself."""

import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from mnemolite.cli import adopt
from mnemolite.cli.terminal import DataDir, Json, err, out, run, settings_of, storing_progress

app = typer.Typer(help="The database itself.", no_args_is_help=True)

_MEGABYTE = 1_000_000


@app.command()
def upgrade(*, data_dir: DataDir = None) -> None:
    """Create the schema, or bring it up to date."""
    settings = settings_of(data_dir)

    async def read_facts() -> dict[str, str]:
        from mnemolite.memory import Memory

        async with Memory.open(settings, with_model=False, with_reranker=False) as memory:
            return await memory.database_facts()

    facts = run(read_facts())
    out.print(f"Schema {facts['schema']} on PostgreSQL {facts['PostgreSQL']}.")


@app.command()
def backup(
    file: Annotated[Path, typer.Argument(help="Where to; an earlier file is replaced.")],
    *,
    as_json: Json = False,
    data_dir: DataDir = None,
) -> None:
    """Save the whole database into a file, while it is in use."""
    from mnemolite.backup import back_up

    started = time.perf_counter()
    with storing_progress() as progress:
        progress.add_task("saving", total=None)
        manifest = back_up(settings_of(data_dir).database, file)
    if as_json:
        out.print_json(manifest.model_dump_json())
        return
    size, seconds = file.stat().st_size / _MEGABYTE, time.perf_counter() - started
    out.print(f"Saved {manifest.tables['events']} events ({size:.1f} MB) in {seconds:.1f} s.")


@app.command()
def restore(
    file: Annotated[Path, typer.Argument(help="What `mnemolite db backup` has written.")],
    *,
    replace: Annotated[
        bool, typer.Option("--replace", help="Drop the memory that is there, once all is restored.")
    ] = False,
    as_json: Json = False,
    data_dir: DataDir = None,
) -> None:
    """Read a backup into an empty database, and check that all of it has come back."""
    from mnemolite import backup

    started = time.perf_counter()
    with storing_progress() as progress:
        progress.add_task("restoring", total=None)
        manifest, findings = backup.restore(settings_of(data_dir).database, file, replace=replace)
    if as_json:
        rows = [
            {"name": one.name, "saved": one.saved, "restored": one.restored} for one in findings
        ]
        out.print_json(data={"manifest": manifest.model_dump(mode="json"), "checks": rows})
        return
    _show(findings)
    seconds = time.perf_counter() - started
    err.print(f"Restored {manifest.tables['events']} events in {seconds:.1f} s.")


def _show(findings: list[Any]) -> None:
    from rich.table import Table

    table = Table("", "saved", "restored", box=None, pad_edge=False)
    for one in findings:
        table.add_row(one.name, escape(str(one.saved)), escape(str(one.restored)))
    out.print(table)


app.command("adopt")(adopt.adopt)
