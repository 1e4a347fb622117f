"""A real server process for tests: started, spoken to over HTTP, stopped or killed."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

_READY_WITHIN_SECONDS = 120
_URL = re.compile(r"url=(\S+)")


def command(*arguments: str) -> list[str]:
    """The command line of the program under test."""
    return [sys.executable, "-m", "mnemolite.cli", *arguments]


def environment(**variables: str) -> dict[str, str]:
    """This process's environment without MnemoLite's settings, and with these."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("MNEMO_", "EMBEDDING_", "DATABASE_URL"))
    }
    return inherited | variables


class ServerProcess:
    """``mnemolite serve`` on a free port."""

    def __init__(self, log: Path, *arguments: str, variables: Mapping[str, str]) -> None:
        self._log = log
        with log.open("ab") as output:
            start = output.tell()
            self.process = subprocess.Popen(
                command("serve", "--port", "0", *arguments),
                env=environment(**variables),
                stderr=output,
                stdout=output,
                cwd=log.parent,
            )
        try:
            self.url = self._wait_ready(start)
        except AssertionError:
            self.kill()
            raise

    def kill(self) -> None:
        """End it as a crash would."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """End it as an operator would; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=60)

    def client(self, **options: Any) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=60, **options)

    def _wait_ready(self, start: int) -> str:
        deadline = time.monotonic() + _READY_WITHIN_SECONDS
        while time.monotonic() < deadline:
            written = self._log.read_bytes()[start:].decode(errors="replace")
            if match := _URL.search(written):
                return match.group(1)
            assert self.process.poll() is None, f"the server ended:\n{written}"
            time.sleep(0.05)
        raise AssertionError(f"the server was not ready in time:\n{written}")


def patient_client() -> httpx.Client:
    """A client for many requests and threads, to share: making one reads all certificates."""
    return httpx.Client(timeout=30, verify=False)


@contextmanager
def running_server(
    folder: Path, *arguments: str, variables: Mapping[str, str]
) -> Iterator[ServerProcess]:
    """A server that is stopped when the block ends, whatever happened in it."""
    server = ServerProcess(folder / "serve.log", *arguments, variables=variables)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.stop()


def run(
    *arguments: str, cwd: Path, variables: Mapping[str, str], timeout: float = 180, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        command(*arguments),
        env=environment(**variables),
        cwd=cwd,
        text=True,
        capture_output=True,
        timeout=timeout,
        check=False,
        **options,
    )
