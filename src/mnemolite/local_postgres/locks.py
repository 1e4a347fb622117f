"""Kernel file locks (flock): however a process ends, the kernel drops what it held."""

import fcntl
import os
import threading
from pathlib import Path

_open: set[int] = set()


class Mutex:
    """A re-entrant thread lock that a forked child gets anew, whoever held it in the parent."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        os.register_at_fork(after_in_child=self._renew)

    def _renew(self) -> None:
        self._lock = threading.RLock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def open_lock(path: Path) -> int:
    """Open a lock file, without locking it."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    _open.add(fd)
    if os.geteuid() == 0:  # the folder's owner must be able to open it later, too
        folder = path.parent.stat()
        os.fchown(fd, folder.st_uid, folder.st_gid)
    return fd


def close_lock(fd: int) -> None:
    """Close a lock file; a second time does nothing."""
    if fd in _open:
        _open.remove(fd)
        os.close(fd)


def try_lock(fd: int) -> bool:
    """Take the lock alone if nobody else has it; what was held before is lost if somebody has."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def share_lock(fd: int) -> None:
    """Take the lock beside others that share it."""
    fcntl.flock(fd, fcntl.LOCK_SH)


def _close_after_fork() -> None:
    # The child shares our locks and would keep them alive. It closes them and never unlocks them,
    # because that would unlock them for the parent.
    for fd in list(_open):
        close_lock(fd)


os.register_at_fork(after_in_child=_close_after_fork)
