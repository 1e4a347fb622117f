"""`mnemolite add`."""

import sys
from typing import Annotated, Any

import typer

from mnemolite.cli.terminal import (
    DataDir,
    Json,
    NamespaceOption,
    NoEmbed,
    json_option,
    moment,
    out,
    run,
    settings_of,
    validated,
)
from mnemolite.settings import Settings


def add(
    text: Annotated[str, typer.Argument(help="What to remember; - reads standard input.")],
    *,
    namespace: NamespaceOption = "default",
    session: Annotated[str | None, typer.Option(help="Thread inside the namespace.")] = None,
    speaker: Annotated[str | None, typer.Option(help="Who said it.")] = None,
    timestamp: Annotated[str | None, typer.Option(help="When it happened. Default: now.")] = None,
    metadata: Annotated[str, typer.Option(help="A JSON object.")] = "{}",
    key: Annotated[
        str | None, typer.Option(help="Idempotency key: a second try with it stores nothing.")
    ] = None,
    no_embed: NoEmbed = False,
    as_json: Json = False,
    data_dir: DataDir = None,
) -> None:
    """Store one event and print its id."""
    content = {"text": sys.stdin.read() if text == "-" else text}
    event = {
        "content": content | ({"speaker": speaker} if speaker else {}),
        "namespace": namespace,
        "session": session,
        "timestamp": moment(timestamp),
        "metadata": json_option(metadata, "--metadata"),
    }
    stored = run(_add(settings_of(data_dir), event, key=key, embed=not no_embed))
    out.print_json(stored.model_dump_json()) if as_json else out.print(str(stored.id))


async def _add(settings: Settings, fields: dict[str, Any], *, key: str | None, embed: bool) -> Any:
    from mnemolite.memory import Memory
    from mnemolite.worker import Worker

    event = validated("NewEvent", fields)
    async with Memory.open(settings, with_model=embed, with_reranker=False) as memory:
        stored = await memory.add(event, idempotency_key=key)
        if embed:
            await Worker(memory).drain()
            stored = await memory.get(stored.id)
        return stored
