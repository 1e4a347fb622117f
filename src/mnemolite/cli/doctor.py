"""`mnemolite doctor`."""

import json
from typing import Any

import typer
from rich.markup import escape
from rich.table import Table

from mnemolite.cli.terminal import FAILED, DataDir, Json, out, run, settings_of


def doctor(*, as_json: Json = False, data_dir: DataDir = None) -> None:
    """Say what is installed, what is wrong, and what to do."""
    from mnemolite.doctor import examine, is_well

    findings = run(examine(settings_of(data_dir)))
    if as_json:
        out.print_json(json.dumps({"data": [finding.as_dict() for finding in findings]}))
    else:
        _show_findings(findings)
    if not is_well(findings):
        raise typer.Exit(FAILED)


def _show_findings(findings: list[Any]) -> None:
    colours = {"ok": "green", "note": "yellow", "wrong": "bold red"}
    table = Table(box=None, pad_edge=False, show_header=False)
    for finding in findings:
        said = escape(finding.detail)
        if finding.remedy:
            said += f"\n[dim]{escape(finding.remedy)}[/]"
        colour = colours[finding.status]
        table.add_row(f"[{colour}]{finding.status}[/]", finding.check, said)
    out.print(table)
