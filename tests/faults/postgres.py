"""PostgreSQL servers that a test may kill, copy, promote and cut off."""

import asyncio
import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import httpx
import psutil
import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from mnemolite.local_postgres import LocalPostgres, open_local_postgres
from mnemolite.local_postgres.machine import choose_account, find_package, run

_START_SECONDS = 60
_FAST = {"fsync": "off", "full_page_writes": "off", "wal_level": "replica"}


@contextmanager
def own_server() -> Iterator[LocalPostgres]:
    """A server of this test alone, with an empty database."""
    with _folder() as folder, open_local_postgres(folder, extra_settings=_FAST) as server:
        yield server


def processes_in(folder: Path) -> list[psutil.Process]:
    """A server's own processes: those that work inside its folder."""
    found = []
    for process in psutil.process_iter(["name"]):
        with contextlib.suppress(psutil.Error):
            if process.info["name"] == "postgres" and Path(process.cwd()).is_relative_to(folder):
                found.append(process)
    return found


def kill_server(folder: Path) -> None:
    """End a server as a crash of its machine would."""
    processes = processes_in(folder)
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(processes, timeout=10)


class Standby:
    """A streaming replica of a server."""

    def __init__(self, primary_dsn: str, folder: Path) -> None:
        self.folder = folder
        self._account = choose_account(0 if os.geteuid() == 0 else os.geteuid())
        self._package, _ = find_package(self._account)
        if self._account:
            os.chown(folder, self._account.pw_uid, self._account.pw_gid)
        # As the replication user that the primary lets in: by name, over its socket.
        source = make_conninfo(primary_dsn, user="mnemolite")
        self._run("pg_basebackup", "-D", f"{folder}/data", "-R", "-c", "fast", "-d", source)
        self.dsn = make_conninfo(primary_dsn, host=str(folder))
        self.start()

    def start(self) -> None:
        options = {"listen_addresses": "", "port": "5432", "unix_socket_directories": self.folder}
        port = conninfo_to_dict(self.dsn).get("port")
        if port:
            options["port"] = str(port)
        server = [str(self._package / "bin" / "postgres"), "-D", f"{self.folder}/data"]
        server += [f"--{name}={value}" for name, value in options.items()]
        with (self.folder / "log").open("ab") as log:
            shell = ["/bin/sh", "-c", '"$@" &', "sh"]
            run([*shell, *server], account=self._account, log=log.fileno())
        self._wait(lambda: psycopg.connect(self.dsn, connect_timeout=5).close())

    def kill(self) -> None:
        kill_server(self.folder)

    def promote(self) -> None:
        """Make it a primary."""
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            connection.execute("SELECT pg_promote(true, 30)")

    def pause(self) -> None:
        """Stop replaying, so that it lags."""
        self._execute("SELECT pg_wal_replay_pause()")

    def resume(self) -> None:
        self._execute("SELECT pg_wal_replay_resume()")

    def catch_up(self, primary_dsn: str) -> None:
        """Wait until all is replayed that the primary has written by now."""
        with psycopg.connect(primary_dsn, autocommit=True) as primary:
            row = primary.execute("SELECT pg_current_wal_flush_lsn()::text").fetchone()
        assert row is not None
        self._wait(lambda: self._check("SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn", row[0]))

    def _check(self, query: str, *parameters: str) -> None:
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            row = connection.execute(query.encode(), parameters).fetchone()
        if not (row and row[0]):
            raise psycopg.OperationalError(query)

    def _execute(self, statement: str) -> None:
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            connection.execute(statement.encode())

    def _run(self, program: str, *arguments: str) -> None:
        done = run([self._package / "bin" / program, *arguments], account=self._account)
        assert done.returncode == 0, done.stdout

    def _wait(self, tried: Callable[[], object]) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while True:
            try:
                tried()
            except psycopg.OperationalError:
                assert time.monotonic() < deadline, (self.folder / "log").read_text()
                time.sleep(0.05)
            else:
                return


@contextmanager
def standby_of(primary_dsn: str) -> Iterator[Standby]:
    with _folder() as folder:
        standby = Standby(primary_dsn, folder)
        try:
            yield standby
        finally:
            standby.kill()


@contextmanager
def _folder() -> Iterator[Path]:
    """A folder with a short path that the account of PostgreSQL may enter."""
    folder = Path(tempfile.mkdtemp(prefix="mnemolite-", dir="/tmp"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


Fault = Literal["before commit", "after commit", "silence"]


class Proxy:
    """Stands on TCP between a client and PostgreSQL, and breaks connections on demand.

    ``fault`` "before commit": the next COMMIT is not handed on, the connection is cut. "after
    commit": it is handed on, the answer is kept back, the connection is cut. "silence": nothing
    is handed on any more, and nothing is cut.
    """

    def __init__(self, dsn: str) -> None:
        self._target = conninfo_to_dict(dsn)
        self._dsn = dsn
        self.fault: Fault | None = None

    async def __aenter__(self) -> "Proxy":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self._tasks: set[asyncio.Task[None]] = set()
        port = self._server.sockets[0].getsockname()[1]
        self.dsn = make_conninfo(
            self._dsn, host="127.0.0.1", port=port, sslmode="disable", gssencmode="disable"
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        host, port = str(self._target["host"]), self._target.get("port", 5432)
        if host.startswith("/"):
            server, to_server = await asyncio.open_unix_connection(f"{host}/.s.PGSQL.{port}")
        else:
            server, to_server = await asyncio.open_connection(host, int(str(port)))
        back = asyncio.create_task(self._hand_on(server, to_client))
        front = asyncio.create_task(self._obey(client, to_server, server=server, back=back))
        self._tasks |= {front, back}
        await asyncio.wait([front, back], return_when=asyncio.FIRST_COMPLETED)
        if back.cancelled():  # the answer to a COMMIT is being kept back
            await asyncio.wait([front])
        for way in (front, back):
            way.cancel()
        for end in (to_client, to_server):
            end.transport.abort()

    async def _obey(
        self,
        client: asyncio.StreamReader,
        to_server: asyncio.StreamWriter,
        *,
        server: asyncio.StreamReader,
        back: asyncio.Task[None],
    ) -> None:
        """Hand on what the client says, until a fault ends the connection."""
        while data := await client.read(65536):
            if self.fault in ("before commit", "after commit") and b"COMMIT\x00" in data:
                fault, self.fault = self.fault, None
                if fault == "after commit":
                    back.cancel()
                    await asyncio.wait([back])
                    to_server.write(data)
                    await server.read(65536)  # it is committed when this comes
                return
            await self._pass(data, to_server)

    async def _hand_on(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        while data := await source.read(65536):
            await self._pass(data, target)

    async def _pass(self, data: bytes, target: asyncio.StreamWriter) -> None:
        if self.fault == "silence":
            await asyncio.Event().wait()
        target.write(data)
        await target.drain()


def until_stored(client: httpx.Client, event: Any, headers: dict[str, str]) -> httpx.Response:
    """Post the event again and again, as a client does that is told to."""
    for _ in range(300):
        response = client.post("/v1/events", json=event, headers=headers)
        if response.status_code in (200, 201):
            return response
        assert response.status_code == 503, response.text
        time.sleep(0.1)
    raise AssertionError(f"the server does not come back: {response.text}")
