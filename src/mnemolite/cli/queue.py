"""`mnemolite queue`: what waits to be embedded, and what was given up."""

import json

import typer
from rich.markup import escape

from mnemolite.cli.terminal import (
    DataDir,
    Json,
    NoEmbed,
    embed_pending,
    err,
    out,
    run,
    settings_of,
)
from mnemolite.models import QueueState
from mnemolite.settings import Settings

app = typer.Typer(help="The queue of events to be embedded.", no_args_is_help=True)


@app.command()
def status(*, as_json: Json = False, data_dir: DataDir = None) -> None:
    """Say what waits to be embedded, and what was given up with which errors."""
    settings = settings_of(data_dir)

    async def read_state() -> QueueState:
        from mnemolite.memory import Memory

        async with Memory.open(settings, with_model=False) as memory:
            return await memory.queue_state()

    state = run(read_state())
    if as_json:
        out.print_json(state.model_dump_json())
        return
    age = state.oldest_pending_seconds
    oldest = f", the oldest for {age:.0f} s" if age is not None else ""
    out.print(f"{state.pending} events are pending{oldest}; {state.parked} of them are parked.")
    for error in state.errors:
        out.print(f"  {escape(error)}", soft_wrap=True)
    if state.parked:
        out.print("Once the fault is gone: mnemolite queue retry")


@app.command()
def retry(*, no_embed: NoEmbed = False, as_json: Json = False, data_dir: DataDir = None) -> None:
    """Give parked events another round of tries, and embed what is pending."""
    settings = settings_of(data_dir)
    retried, state = run(_retry(settings, embed=not no_embed))
    if as_json:
        out.print_json(json.dumps({"retried": retried, "queue": state.model_dump()}))
        return
    out.print(f"{retried} events were parked; {state.pending} are pending now.")


async def _retry(settings: Settings, *, embed: bool) -> tuple[int, QueueState]:
    from mnemolite.memory import Memory

    async with Memory.open(settings, with_model=embed) as memory:
        retried = await memory.retry_parked()
        if embed:
            await embed_pending(memory, say=err)
        return retried, await memory.queue_state()
