"""`mnemolite partitions`: how events and embeddings are laid out in time."""

import typer

from mnemolite.cli import partition_state

app = typer.Typer(help="Partitions by time.", no_args_is_help=True)
app.command()(partition_state.status)
app.command()(partition_state.advise)
app.command()(partition_state.maintain)
app.command()(partition_state.drain)
