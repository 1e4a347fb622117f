"""A private PostgreSQL server in a folder of the user: made, started, shared and stopped.

Three kernel locks in the folder's ``locks/`` carry the life cycle. ``start`` serialises every start
and stop. ``holders`` is shared by every process that uses the server, so whoever gets it alone is
the last. ``server`` is inherited by PostgreSQL and all its children, so it is free exactly when
none of them lives. Process ids only serve to send a signal, never to decide who is alive.
"""

import atexit
import os
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import platformdirs
import structlog

from mnemolite.errors import LocalPostgresError
from mnemolite.local_postgres.locks import Mutex, close_lock, open_lock, share_lock, try_lock
from mnemolite.local_postgres.machine import explained, installed_postgres
from mnemolite.local_postgres.server import Server, conninfo
from mnemolite.local_postgres.sockets import socket_dir

__all__ = ["LocalPostgres", "default_data_dir", "installed_postgres", "open_local_postgres"]

logger = structlog.get_logger(__name__)

SYSTEM_DATA = Path("/var/lib/mnemolite")


@dataclass(frozen=True, slots=True)
class LocalPostgres:
    """A handle on the server of one data folder; the last holder to close stops the server."""

    data_dir: Path
    database: str = "mnemolite"
    _token: object = field(default_factory=object, repr=False)

    def dsn(self, database: str | None = None) -> str:
        """The libpq connection string of a database, by default of the one that was opened."""
        return conninfo(socket_dir(self.data_dir), database or self.database)

    def ensure_running(self) -> None:
        """Start the server again if it died; connections that it served are lost."""
        with _mutex, explained(self.data_dir):
            server = self._holder().server
            with server.turn():
                server.bring_up()

    def close(self) -> None:
        """Give the handle back; closing twice, or in a forked child, does nothing."""
        with _mutex:
            holder = _holders.get(self.data_dir)
            if holder is None or self._token not in holder.tokens:
                return
            holder.tokens.remove(self._token)
            if not holder.tokens:
                del _holders[self.data_dir]
                holder.leave()

    def _holder(self) -> "_Holder":
        holder = _holders.get(self.data_dir)
        if holder is None or self._token not in holder.tokens:
            raise LocalPostgresError(
                "This handle on the embedded PostgreSQL is closed, or was inherited by a fork.",
                remedy="Call open_local_postgres() again in this process.",
            )
        return holder

    def __enter__(self) -> "LocalPostgres":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_local_postgres(
    data_dir: Path,
    *,
    database: str = "mnemolite",
    extra_settings: Mapping[str, str] | None = None,
) -> LocalPostgres:
    """Make the server of a folder if there is none, start it or join it, and open a database.

    ``extra_settings`` are server settings for a start; a server that runs already keeps its own.
    """
    folder = data_dir.expanduser().absolute()
    with _mutex, explained(folder):
        folder = folder.resolve()
        holder = _holders.get(folder)
        server = holder.server if holder else Server.prepare(folder, extra_settings or {})
        with server.turn(), ExitStack() as undo:
            if holder is None:
                holder = _Holder(server, open_lock(server.lock_path("holders")))
                undo.callback(holder.leave_in_turn)
                share_lock(holder.fd)
            server.bring_up()
            server.create_database(database)
            undo.pop_all()
        handle = LocalPostgres(folder, database)
        holder.tokens.append(handle._token)
        _holders[folder] = holder
        return handle


def default_data_dir() -> Path:
    """Where the data lives by default; root's home would be closed to the service account."""
    if os.geteuid() == 0:
        return SYSTEM_DATA
    return platformdirs.user_data_path("mnemolite", appauthor=False)


@dataclass(slots=True)
class _Holder:
    """This process's share of one server: one lock, however many handles."""

    server: Server
    fd: int
    tokens: list[object] = field(default_factory=list)

    def leave(self) -> None:
        """Leave, and stop the server if nobody is left; without its files it stops by itself."""
        try:
            if not self.server.pgdata.exists():
                logger.warning("local_postgres.folder_gone", data_dir=str(self.server.data_dir))
                return
            with explained(self.server.data_dir), self.server.turn():
                self.leave_in_turn()
        finally:
            close_lock(self.fd)

    def leave_in_turn(self) -> None:
        """The same for a caller that has the turn already."""
        try:
            # A refused upgrade drops our shared lock as well, which is what leaving means.
            if try_lock(self.fd):
                self.server.stop()
        finally:
            close_lock(self.fd)


_mutex = Mutex()
_holders: dict[Path, _Holder] = {}


def _leave_all() -> None:
    with _mutex:
        while _holders:
            _, holder = _holders.popitem()
            try:
                holder.leave()
            except LocalPostgresError as error:
                logger.warning("local_postgres.left_running", error=str(error))


atexit.register(_leave_all)
os.register_at_fork(after_in_child=_holders.clear)
