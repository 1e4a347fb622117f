"""PostgreSQL's own programs for backups: found in the version that a server needs, and run."""

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from psycopg import pq
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from mnemolite.errors import BackupError
from mnemolite.local_postgres import installed_postgres

_USUAL_PLACES = (
    "/usr/lib/postgresql/*/bin",
    "/usr/pgsql-*/bin",
    "/usr/local/pgsql/bin",
    "/opt/homebrew/opt/postgresql@*/bin",
    "/usr/local/opt/postgresql@*/bin",
)
_CHUNK_BYTES = 1024 * 1024
_SHOWN_LINES = 5


@dataclass(frozen=True, slots=True)
class Tools:
    """A folder with pg_dump and pg_restore of one version."""

    folder: Path
    major: int

    def dump(self, dsn: str, into: IO[bytes], *, options: Sequence[str]) -> None:
        """Write a database as an archive. Raises BackupError with what pg_dump says."""
        command = [str(self.folder / "pg_dump"), "--format=custom", "--no-password", *options]
        with _running(command, dsn, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            shutil.copyfileobj(process.stdout, into, _CHUNK_BYTES)

    def restore(self, dsn: str, archive: IO[bytes]) -> None:
        """Read an archive into an empty database, all or nothing. Raises BackupError."""
        name = make_conninfo(dbname=str(conninfo_to_dict(dsn).get("dbname") or "postgres"))
        options = ["--no-owner", "--no-privileges", "--no-password"]
        options += ["--exit-on-error", "--single-transaction", f"--dbname={name}"]
        command = [str(self.folder / "pg_restore"), "--format=custom", *options]
        with _running(command, dsn, stdin=subprocess.PIPE) as process:
            assert process.stdin is not None
            try:
                shutil.copyfileobj(archive, process.stdin, _CHUNK_BYTES)
            except BrokenPipeError:
                pass  # it has ended; what it said tells why
            finally:
                process.stdin.close()


def find_tools(server_major: int, archive_major: int = 0) -> Tools:
    """Programs that can speak to a server and read an archive of those versions.

    The server's own version is best; a later one will do. Raises BackupError.
    """
    needed = max(server_major, archive_major)
    found = {tools.major: tools for tools in _candidates()}
    later = sorted(major for major in found if major >= needed)
    if not later:
        known = ", ".join(map(str, sorted(found))) or "none"
        raise BackupError(
            f"pg_dump and pg_restore of PostgreSQL {needed} or later are needed; found: {known}.",
            remedy=f"Install postgresql-client-{needed}, and have its folder in PATH.",
        )
    return found[later[0]]


def environment_of(dsn: str) -> dict[str, str]:
    """The variables that tell libpq what a connection string tells: no password in a command."""
    given = pq.Conninfo.parse(dsn.encode())
    told = {
        option.envvar.decode(): option.val.decode()
        for option in given
        if option.envvar is not None and option.val is not None
    }
    return {**os.environ, **told}


def _candidates() -> Iterator[Tools]:
    """The embedded server's own come last, so that they win over others of their version."""
    folders = [Path(folder) for folder in os.get_exec_path()]
    for pattern in _USUAL_PLACES:
        folders += sorted(Path("/").glob(pattern.removeprefix("/")))
    if (package := installed_postgres()) is not None:
        folders.append(package / "bin")
    for folder in folders:
        if (folder / "pg_restore").is_file() and (major := _major(folder / "pg_dump")):
            yield Tools(folder, major)


def _major(program: Path) -> int | None:
    try:
        done = subprocess.run(
            [program, "--version"], capture_output=True, text=True, timeout=30, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return None
    found = re.search(r"\(PostgreSQL\) (\d+)", done.stdout)
    return int(found[1]) if found else None


@contextmanager
def _running(
    command: Sequence[str], dsn: str, *, stdin: int | None = None, stdout: int | None = None
) -> Iterator["subprocess.Popen[bytes]"]:
    """A program that ends with the block, and whose failure is an error."""
    with (
        tempfile.TemporaryFile() as said,
        subprocess.Popen(
            command,
            env=environment_of(dsn),
            stdin=stdin or subprocess.DEVNULL,
            stdout=stdout or subprocess.DEVNULL,
            stderr=said,
        ) as process,
    ):
        try:
            yield process
        except BaseException:
            process.kill()
            raise
        if process.wait() != 0:
            said.seek(0)
            lines = said.read().decode(errors="replace").strip().splitlines()
            name = Path(command[0]).name
            raise BackupError(f"{name} failed. It says:\n" + "\n".join(lines[:_SHOWN_LINES]))
