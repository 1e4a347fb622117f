"""Where the server's Unix socket lies, which must be short, private and found by every process."""

import os
import stat
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from mnemolite.errors import LocalPostgresError

PORT = 5432
SOCKET = f".s.PGSQL.{PORT}"
PATH_LIMIT = 103  # bytes on macOS and the BSDs; 107 on Linux


def socket_dir(data_dir: Path) -> Path:
    """The folder of the socket: ``run``, or what it links to, whose path is shorter."""
    run = data_dir / "run"
    return run.readlink() if run.is_symlink() else run


def make_socket_dir(data_dir: Path, *, own: Callable[[Path], None]) -> Path:
    """Make ``run``; where no socket can lie in it, make it a link to a short private folder.

    The link tells every process where that folder is, whatever its own temporary folder may be.
    """
    run = data_dir / "run"
    if _fits(run):
        if run.is_symlink():
            run.unlink()
        run.mkdir(mode=0o700, exist_ok=True)
        own(run)
        return run
    outside = _same_again(data_dir, own=own) or _short_folder()
    own(outside)
    _link(data_dir, outside)
    return outside


def remove_outside_folder(data_dir: Path) -> None:
    """Remove the short folder once the server is gone; the link stays and keeps its name."""
    if (data_dir / "run").is_symlink():
        with suppress(OSError):
            socket_dir(data_dir).rmdir()


def _same_again(data_dir: Path, *, own: Callable[[Path], None]) -> Path | None:
    """The folder of the last time, so that connection strings stay true; not if it is not ours."""
    if not (data_dir / "run").is_symlink():
        return None
    outside = socket_dir(data_dir)
    with suppress(OSError):
        outside.mkdir(mode=0o700)
        own(outside)
    try:
        status = outside.lstat()
    except OSError:
        return None
    private = stat.S_ISDIR(status.st_mode) and not stat.S_IMODE(status.st_mode) & 0o077
    same_owner = status.st_uid == data_dir.stat().st_uid
    return outside if private and same_owner and _fits(outside) else None


def _short_folder() -> Path:
    for base in (Path("/tmp"), Path(tempfile.gettempdir())):
        if base.is_dir() and os.access(base, os.W_OK) and _fits(base / "mnemolite-12345678"):
            return Path(tempfile.mkdtemp(prefix="mnemolite-", dir=base))
    raise LocalPostgresError(
        "The path of the data folder is too long for a Unix socket, and /tmp cannot be used.",
        field="data_dir",
        remedy="Choose a data folder with a shorter path.",
    )


def _link(data_dir: Path, outside: Path) -> None:
    run, fresh = data_dir / "run", data_dir / "locks" / "run"
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(outside)
    if run.is_dir() and not run.is_symlink():
        run.rmdir()
    fresh.replace(run)


def _fits(folder: Path) -> bool:
    """Whether a socket can lie there: libpq takes a comma for a list, and wants UTF-8."""
    name = str(folder / SOCKET)
    try:
        return "," not in name and len(name.encode()) <= PATH_LIMIT
    except UnicodeEncodeError:
        return False
