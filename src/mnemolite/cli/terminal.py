"""What the commands share: consoles, common options, settings, errors, progress bars."""

import asyncio
import json
import sys
import time
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from mnemolite.errors import InvalidInputError, MnemoliteError
from mnemolite.logs import configure_logs
from mnemolite.settings import Settings

# Everything else is imported by the command that needs it: `--help` should not wait for a model.

T = TypeVar("T")

out = Console()
err = Console(stderr=True)

FAILED = 1  # 2 is a wrong command line, by convention
SOME_REJECTED = 3
_POLL_SECONDS = 0.2
# From the first batches on, a rate can be told.
_ESTIMATE_SECONDS = 3.0

DataDir = Annotated[
    Path | None,
    typer.Option("--data-dir", help="Folder of the private PostgreSQL.", show_default=False),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
NamespaceOption = Annotated[str, typer.Option("--namespace", "-n", help="Isolation scope.")]
NoEmbed = Annotated[bool, typer.Option("--no-embed", help="Leave that to a worker.")]


def fail(error: MnemoliteError) -> NoReturn:
    named = f"{error.field}: {error.detail}" if error.field else error.detail
    err.print(f"[bold red]error[/] ({error.code}) {escape(named)}", soft_wrap=True)
    if error.remedy:
        err.print(f"  {escape(error.remedy)}", soft_wrap=True)
    sys.exit(FAILED)


def settings_of(
    data_dir: Path | None = None, *, file: Path | None = None, **groups: dict[str, object]
) -> Settings:
    if data_dir is not None:
        groups["database"] = {"data_dir": data_dir, "url": None}
    settings = Settings.load(file=file, **groups)
    configure_logs(settings.server)
    return settings


def run(main_coroutine: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(main_coroutine)


def moment(text: str | None) -> str | None:
    """A time on the command line may leave out the zone, which is then UTC, and the time of day."""
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return text  # the model says what is wrong with it
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).isoformat()


def json_option(text: str, option: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise InvalidInputError(f"This is not JSON: {error}.", field=option) from None


def validated(model: str, fields: dict[str, Any]) -> Any:
    """A model made of options; the first fault becomes the command's error."""
    from pydantic import ValidationError

    from mnemolite import models

    given = {name: value for name, value in fields.items() if value is not None}
    try:
        return getattr(models, model).model_validate(given)
    except ValidationError as error:
        fault = error.errors()[0]
        field = ".".join(str(part) for part in fault["loc"]) or fault.get("ctx", {}).get("field")
        raise InvalidInputError(f"{fault['msg']}.", field=field) from None


async def embed_pending(memory: Any, *, say: Console) -> None:
    """Embed with a progress bar; what another process has claimed is waited for."""
    from mnemolite.worker import running_worker

    total = (await memory.queue_state()).due
    if not total:
        return
    started = time.perf_counter()
    estimated = False
    with counting_progress() as progress:
        task = progress.add_task("embedding", total=total)
        async with running_worker(memory):
            while left := (await memory.queue_state()).due:
                done, seconds = max(0, total - left), time.perf_counter() - started
                if done and seconds > _ESTIMATE_SECONDS and not estimated:
                    estimated = True
                    say.print(f"Embedding {total} events {_expected(left * seconds / done)}.")
                progress.update(task, completed=done)
                await asyncio.sleep(_POLL_SECONDS)
        progress.update(task, completed=total)
    seconds = time.perf_counter() - started
    say.print(f"Embedded {total} events in {seconds:.1f} s ({total / seconds:.0f}/s).")
    if parked := (await memory.queue_state()).parked:
        err.print(f"[yellow]{parked} events could not be embedded[/]: see `mnemolite doctor`")


def _expected(seconds: float) -> str:
    """How long something will still take, as one would say it."""
    minutes = round(seconds / 60)
    return f"will take about {minutes} min more" if minutes else "will take less than a minute"


def reading_progress() -> Progress:
    columns = (SpinnerColumn(), TextColumn("{task.description}"), DownloadColumn())
    return Progress(*columns, TimeElapsedColumn(), console=err, transient=True)


def storing_progress() -> Progress:
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    return Progress(*columns, console=err, transient=True)


def counting_progress() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    return Progress(*columns, TimeRemainingColumn(), console=err, transient=True)


def shown_in(progress: Progress) -> Callable[[str, int, int], None]:
    task = progress.add_task("", total=None)

    def show(*state: Any) -> None:
        doing, done, total = state
        progress.update(task, description=doing, completed=done, total=total)

    return show
