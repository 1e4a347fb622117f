"""`mnemolite webhooks`: targets that are told of changes."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import typer
from rich.table import Table
from rich.text import Text

from mnemolite.cli.search import SessionOption, WhereOption
from mnemolite.cli.tail import AllOption, KindsOption
from mnemolite.cli.terminal import (
    DataDir,
    Json,
    NamespaceOption,
    json_option,
    moment,
    out,
    run,
    settings_of,
    validated,
)
from mnemolite.errors import InvalidFileError
from mnemolite.models import Delivery, Webhook
from mnemolite.settings import Settings

app = typer.Typer(help="Targets that are told of changes.", no_args_is_help=True)

WebhookId = Annotated[UUID, typer.Argument(help="Id of the webhook.", show_default=False)]
AfterOption = Annotated[
    str, typer.Option(help="Where in the feed to begin: now, start, a time, or a cursor.")
]
SecretOption = Annotated[
    Path | None,
    typer.Option("--secret-file", help="File with the secret. Unset: one is made and printed."),
]
_STYLES = {"delivered": "green", "pending": "yellow", "skipped": "dim", "dead": "red"}


@asynccontextmanager
async def _opened(settings: Settings) -> AsyncIterator[Any]:
    from mnemolite.memory import Memory

    async with Memory.open(settings, with_model=False, with_reranker=False) as memory:
        yield memory.webhooks


@app.command()
def add(
    url: Annotated[str, typer.Argument(help="Where to send.", show_default=False)],
    *,
    namespace: NamespaceOption = "default",
    all_namespaces: AllOption = False,
    session: SessionOption = None,
    where: WhereOption = None,
    kinds: KindsOption = "added,changed,deleted",
    after: AfterOption = "now",
    secret_file: SecretOption = None,
    as_json: Json = False,
    data_dir: DataDir = None,
) -> None:
    """Tell a target of changes; prints the secret that requests are signed with."""
    query = {
        "url": url,
        "namespace": namespace,
        "all_namespaces": all_namespaces,
        "session": session,
        "where": None if where is None else json_option(where, "--where"),
        "kinds": kinds,
        "after": after if after in ("now", "start") else moment(after),
        "secret": None if secret_file is None else _read(secret_file),
    }
    settings = settings_of(data_dir)

    async def work() -> Any:
        new = validated("NewWebhook", query)
        async with _opened(settings) as webhooks:
            return await webhooks.add(new)

    added = run(work())
    if as_json:
        typer.echo(added.model_dump_json())
        return
    typer.echo(f"{added.id}\n{added.secret}")


@app.command("list")
def list_(*, as_json: Json = False, data_dir: DataDir = None) -> None:
    """Show every webhook and how it fares."""
    settings = settings_of(data_dir)

    async def work() -> list[Webhook]:
        async with _opened(settings) as webhooks:
            return list(await webhooks.all())

    found = run(work())
    if as_json:
        for webhook in found:
            typer.echo(webhook.model_dump_json())
        return
    table = Table("id", "url", "told", "state", "pending", "dead")
    for one in found:
        namespace = "every namespace" if one.all_namespaces else one.namespace
        told = f"{','.join(one.kinds)} of {namespace}"
        row = (str(one.id), one.url, told, _state(one), str(one.pending), str(one.dead))
        table.add_row(*map(Text, row))
    out.print(table)


@app.command()
def show(webhook: WebhookId, *, as_json: Json = False, data_dir: DataDir = None) -> None:
    """Show one webhook whole."""
    settings = settings_of(data_dir)

    async def work() -> Webhook:
        async with _opened(settings) as webhooks:
            found: Webhook = await webhooks.get(webhook)
            return found

    found = run(work())
    if as_json:
        typer.echo(found.model_dump_json())
        return
    for name, value in found.model_dump(mode="json").items():
        out.print(Text(f"{name}: {'-' if value is None else value}"), soft_wrap=True)


@app.command()
def enable(webhook: WebhookId, *, as_json: Json = False, data_dir: DataDir = None) -> None:
    """Let a webhook go on where it was."""
    _switch(webhook, settings_of(data_dir), enabled=True, as_json=as_json)


@app.command()
def disable(webhook: WebhookId, *, as_json: Json = False, data_dir: DataDir = None) -> None:
    """Tell a webhook nothing until it is enabled."""
    _switch(webhook, settings_of(data_dir), enabled=False, as_json=as_json)


@app.command()
def remove(webhook: WebhookId, *, data_dir: DataDir = None) -> None:
    """Remove a webhook, its log and what is still to be delivered."""
    settings = settings_of(data_dir)

    async def work() -> None:
        async with _opened(settings) as webhooks:
            await webhooks.remove(webhook)

    run(work())
    out.print(f"Removed {webhook}.", soft_wrap=True)


@app.command()
def deliveries(
    webhook: WebhookId,
    *,
    status: Annotated[
        str | None, typer.Option(help="Only those: pending, delivered, skipped or dead.")
    ] = None,
    limit: Annotated[int, typer.Option(help="How many, the newest first.")] = 50,
    cursor: Annotated[
        str | None, typer.Option(help="Where the page before ended, as --json says.")
    ] = None,
    as_json: Json = False,
    data_dir: DataDir = None,
) -> None:
    """Show what was told to a webhook, and what came of it."""
    settings = settings_of(data_dir)

    async def work() -> Any:
        query = validated("DeliveryQuery", {"status": status, "limit": limit, "cursor": cursor})
        async with _opened(settings) as webhooks:
            return await webhooks.log(webhook, query)

    page = run(work())
    if as_json:
        typer.echo(page.model_dump_json())
        return
    for delivery in page.data:
        out.print(_line(delivery), soft_wrap=True, highlight=False)


@app.command()
def retry(
    webhook: WebhookId,
    *,
    delivery: Annotated[
        UUID | None, typer.Option(help="Only this one; by default all that were given up.")
    ] = None,
    as_json: Json = False,
    data_dir: DataDir = None,
) -> None:
    """Give dead letters another round of tries; a server or worker sends them."""
    settings = settings_of(data_dir)

    async def work() -> int:
        async with _opened(settings) as webhooks:
            return int(await webhooks.retry(webhook, delivery))

    retried = run(work())
    typer.echo(f'{{"retried": {retried}}}' if as_json else f"{retried} deliveries are due again.")


def _switch(webhook: UUID, settings: Settings, *, enabled: bool, as_json: bool) -> None:
    async def work() -> Webhook:
        change = validated("WebhookChange", {"enabled": enabled})
        async with _opened(settings) as webhooks:
            changed: Webhook = await webhooks.change(webhook, change)
            return changed

    changed = run(work())
    typer.echo(changed.model_dump_json() if as_json else f"{webhook} is {_state(changed)}.")


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidFileError(f"{path}: {error}.", field="--secret-file") from error


def _state(webhook: Webhook) -> str:
    if not webhook.enabled:
        return f"disabled ({webhook.disabled_reason})" if webhook.disabled_reason else "disabled"
    return "paused" if webhook.paused_until else "enabled"


def _line(delivery: Delivery) -> Text:
    said = f" {delivery.error}" if delivery.error else ""
    return Text.assemble(
        (f"{delivery.created_at:%Y-%m-%d %H:%M:%S} ", "dim"),
        (f"{delivery.status:<10}", _STYLES[delivery.status]),
        f"{delivery.kind:<8} {delivery.event_id} tries {delivery.attempts}{said}",
    )
