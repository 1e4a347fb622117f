"""`mnemolite serve` and `mnemolite worker`."""

import asyncio
import signal
from typing import Annotated

import typer

from mnemolite.cli.terminal import DataDir, err, run, settings_of


def serve(
    *,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0 picks one.")] = None,
    data_dir: DataDir = None,
) -> None:
    """Start the memory: PostgreSQL, model, REST server and worker."""
    import uvloop

    from mnemolite.app import serve as serve_app

    given: dict[str, object] = {"host": host, "port": port}
    server = {name: value for name, value in given.items() if value is not None}
    # uvloop comes with uvicorn wherever it runs; a search makes dozens of short waits.
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve_app(settings_of(data_dir, server=server)))


def worker(*, data_dir: DataDir = None) -> None:
    """Embed what is pending and call webhooks, until stopped; any number of workers may run."""
    settings = settings_of(data_dir)

    async def work() -> None:
        from mnemolite.courier import running_courier
        from mnemolite.memory import Memory
        from mnemolite.worker import Worker

        async with Memory.open(settings, with_reranker=False, role="work") as memory:
            task = Worker(memory)
            loop = asyncio.get_running_loop()
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.add_signal_handler(number, task.stop)
            err.print(f"working on space {memory.space.id} ({memory.space.model})")
            async with running_courier(memory):
                await task.run()

    run(work())
