"""The command line: parse, call Memory, render; a file for each noun."""

import signal
import sys
from typing import NoReturn

import typer

from mnemolite.cli import (
    bench,
    context,
    db,
    doctor,
    evaluate,
    events,
    forget,
    import_export,
    partitions,
    queue,
    reembed,
    retention,
    search,
    serve,
    tail,
    webhooks,
)
from mnemolite.cli.terminal import fail
from mnemolite.errors import MnemoliteError

app = typer.Typer(
    name="mnemolite",
    help="A long-term memory for LLM agents on PostgreSQL.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(serve.serve)
app.command()(serve.worker)
app.command()(events.add)
app.command()(search.search)
app.command()(context.context)
app.command()(tail.tail)
app.command("import")(import_export.import_)
app.command()(import_export.export)
app.command()(forget.forget)
app.command()(doctor.doctor)
app.add_typer(queue.app, name="queue")
app.add_typer(webhooks.app, name="webhooks")
app.add_typer(reembed.app, name="reembed")
app.add_typer(partitions.app, name="partitions")
app.add_typer(evaluate.app, name="eval")
app.add_typer(bench.app, name="bench")
app.add_typer(retention.app, name="retention")
app.add_typer(db.app, name="db")


def main() -> NoReturn:
    """Run the command line; errors end it with one clear line and a code of their own."""
    # A termination must unwind like any other exit, so that the private PostgreSQL is released.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        app()
    except MnemoliteError as error:
        fail(error)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    sys.exit(0)
