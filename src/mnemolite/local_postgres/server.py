"""One PostgreSQL server in one data folder: made, started, waited for and stopped."""

import os
import re
import shutil
import signal
import stat
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import psycopg
import structlog
from psycopg import sql
from psycopg.conninfo import make_conninfo

from mnemolite.errors import LocalPostgresError
from mnemolite.local_postgres.configuration import (
    MANAGED,
    OVERRIDES,
    OVERRIDES_CONF,
    PG_HBA,
    POSTGRESQL_CONF,
    ROLE,
    managed_settings,
    pg_ident,
)
from mnemolite.local_postgres.contents import BROKEN, check_contents
from mnemolite.local_postgres.locks import close_lock, open_lock, try_lock
from mnemolite.local_postgres.log import Patience, ServerLog
from mnemolite.local_postgres.machine import (
    ELSEWHERE,
    FIELD,
    Account,
    choose_account,
    current_user,
    find_package,
    run,
)
from mnemolite.local_postgres.sockets import (
    PORT,
    SOCKET,
    make_socket_dir,
    remove_outside_folder,
    socket_dir,
)

logger = structlog.get_logger(__name__)

STOP_TIMEOUT = 60.0
ORPHAN_TIMEOUT = 5.0  # for the children of a killed server to notice
TURN_TIMEOUT = 600.0  # for another process's start or stop

_REMEDIES = (  # what PostgreSQL says, and what to do about it
    (r"No space left on device|Disk quota exceeded", "The disk is full: free some space."),
    (r"could not look up", "This user id has no name: add it to /etc/passwd."),
    (r"Cannot allocate memory|shared memory segment", f"Lower shared_buffers in {OVERRIDES}."),
    (r"syntax error in file|unrecognized configuration|invalid value", "Correct that setting."),
    (r"Permission denied|wrong ownership", "Give the whole data folder to one user, mode 0700."),
)
_STATUS_LINE = 7  # of postmaster.pid, counted from 0


@dataclass(frozen=True, slots=True)
class Server:
    """The server of one folder; whatever starts or stops it runs inside ``turn()``."""

    data_dir: Path
    account: Account
    package: Path
    major: int
    settings: Mapping[str, str]

    @classmethod
    def prepare(cls, data_dir: Path, settings: Mapping[str, str]) -> "Server":
        """Check the folder, make it ours, and find binaries that its account can run."""
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = data_dir.stat()
        account = choose_account(status.st_uid)
        package, major = find_package(account)
        check_contents(data_dir, major)
        server = cls(data_dir, account, package, major, settings)
        server.own(data_dir)
        data_dir.chmod(stat.S_IMODE(status.st_mode) & 0o700)  # never more than it had
        for name in ("locks", "logs"):
            (data_dir / name).mkdir(mode=0o700, exist_ok=True)
            server.own(data_dir / name)
        return server

    @property
    def pgdata(self) -> Path:
        return self.data_dir / f"postgres-{self.major}"

    @property
    def log(self) -> ServerLog:
        return ServerLog(self.data_dir / "logs" / "postgres.log")

    def lock_path(self, name: str) -> Path:
        return self.data_dir / "locks" / name

    def own(self, path: Path) -> None:
        """Give a file of ours to the account that runs PostgreSQL."""
        if self.account:
            os.chown(path, self.account.pw_uid, self.account.pw_gid, follow_symlinks=False)

    def write(self, path: Path, text: str) -> None:
        """Replace a file in one step; its first name is new: no planted link is followed."""
        fd, fresh = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            file.write(text)
        self.own(Path(fresh))
        Path(fresh).replace(path)

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Be the only process that starts or stops this server."""
        fd = open_lock(self.lock_path("start"))
        deadline = time.monotonic() + TURN_TIMEOUT
        try:
            while not try_lock(fd):
                if time.monotonic() > deadline:
                    raise LocalPostgresError(
                        "Another process has been starting or stopping this server for too long.",
                        field=FIELD,
                        remedy=f"See {self.log.path}, or end that process.",
                    )
                time.sleep(0.02)
            yield
        finally:
            close_lock(fd)

    def alive(self) -> bool:
        """Whether any process of this server lives, children of a killed one included."""
        fd = open_lock(self.lock_path("server"))
        try:
            return not try_lock(fd)
        finally:
            close_lock(fd)

    def bring_up(self) -> None:
        """Make the cluster if there is none, and return once the server answers."""
        if not self.pgdata.exists():
            self._initialise()
        if self._wait_ready():
            return
        mark = self._start()
        if not self._wait_ready():
            said = self.log.tail(mark)
            raise LocalPostgresError(
                f"PostgreSQL could not start in {self.pgdata}. It says:\n{said}\n",
                field=FIELD,
                remedy=_remedy(said),
            )

    def create_database(self, name: str) -> None:
        """Create a database unless it is there."""
        try:
            with psycopg.connect(self._dsn(), autocommit=True) as connection:
                query = "SELECT 1 FROM pg_database WHERE datname = %s"
                if connection.execute(query, [name]).fetchone() is None:
                    connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        except psycopg.Error as error:
            message = f"The database {name} could not be created: {error}"
            raise LocalPostgresError(message) from error

    def stop(self) -> None:
        """Stop the server: fast at first, which ends every session and writes a checkpoint."""
        if self._ends(signal.SIGINT) or self._ends(signal.SIGQUIT):
            remove_outside_folder(self.data_dir)
        else:  # for example in another container, where we see its socket but not its process
            logger.warning("local_postgres.not_stopped", data_dir=str(self.data_dir))

    def _ends(self, signum: signal.Signals) -> bool:
        process = self._postmaster() if self.alive() else None  # never a stranger's server
        if process is not None:
            with suppress(psutil.Error):
                process.send_signal(signum)
        deadline = time.monotonic() + (STOP_TIMEOUT if process else ORPHAN_TIMEOUT)
        while self.alive():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        return True

    # --- making the cluster -----------------------------------------------------------------------

    def _initialise(self) -> None:
        """Make the cluster beside its place and rename it, so that it is never half-made."""
        for leftover in self.data_dir.glob("initdb-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        logger.info("local_postgres.initialising", data_dir=str(self.data_dir))
        fresh = Path(tempfile.mkdtemp(prefix="initdb-", dir=self.data_dir))
        try:
            self.own(fresh)
            self._initdb(fresh)
            self.write(fresh / "postgresql.conf", POSTGRESQL_CONF)
            if not (self.data_dir / OVERRIDES).exists():
                self.write(self.data_dir / OVERRIDES, OVERRIDES_CONF)
            fresh.rename(self.pgdata)
            _sync_folder(self.data_dir)
        except BaseException:
            shutil.rmtree(fresh, ignore_errors=True)
            raise

    def _initdb(self, folder: Path) -> None:
        # Sorting and case are PostgreSQL's own (builtin, by code point): the same on every system
        # and after every upgrade of it. The C library's LC_CTYPE still tells the text-search parser
        # what a letter is, and plain C would glue quotes, dashes and 。 to the words beside them.
        for ctype in ("C.UTF-8", "C.utf8", "en_US.UTF-8", "C"):
            with self._reach() as (base, fds):
                options = ["--encoding=UTF8", "--locale=C", f"--lc-ctype={ctype}"]
                options += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
                options += [f"--username={ROLE}", "--auth=peer", "--data-checksums"]
                options += _sync_options(self.settings)
                initdb = str(self.package / "bin" / "initdb")
                command = [initdb, "-D", f"{base}/{folder.name}", *options]
                done = run(command, account=self.account, fds=fds)
            if done.returncode == 0:
                return
            if "invalid locale name" not in done.stdout:
                break
        said = "\n".join(done.stdout.splitlines()[-8:])
        raise LocalPostgresError(
            f"The database could not be made in {self.data_dir}. PostgreSQL says:\n{said}\n",
            field=FIELD,
            remedy=_remedy(said, otherwise=ELSEWHERE),
        )

    # --- starting ---------------------------------------------------------------------------------

    def _start(self) -> int:
        """Start the server without waiting for it; returns where its part of the log begins."""
        self._clear_remains()
        run_dir = make_socket_dir(self.data_dir, own=self.own)
        owner = self.account.pw_name if self.account else current_user()
        self.write(self.pgdata / MANAGED, managed_settings(self.settings))
        self.write(self.pgdata / "pg_hba.conf", PG_HBA)
        self.write(self.pgdata / "pg_ident.conf", pg_ident(owner))
        log = self.log.open()
        self.own(self.log.path)
        lock = open_lock(self.lock_path("server"))
        try:
            mark = os.lseek(log, 0, os.SEEK_END)
            try_lock(lock)
            with self._reach() as (base, fds):
                inside = run_dir.parent == self.data_dir
                socket_path = f"{base}/{run_dir.name}" if inside else str(run_dir)
                self._launch(f"{base}/{self.pgdata.name}", socket_path, fds=[*fds, lock], log=log)
        finally:
            close_lock(lock)
            os.close(log)
        return mark

    def _launch(self, pgdata: str, socket_path: str, *, fds: Sequence[int], log: int) -> None:
        # The shell ends at once and leaves the server to init: it is nobody's child here, so no
        # process of ours has to wait for it. What must hold is said on the command line, where no
        # configuration file can change it.
        quoted = socket_path.replace('"', '""')
        must = {"listen_addresses": "", "port": str(PORT), "unix_socket_directories": f'"{quoted}"'}
        options = [f"--{name}={value}" for name, value in must.items()]
        server = [str(self.package / "bin" / "postgres"), "-D", pgdata, *options]
        shell = ["/bin/sh", "-c", '"$@" &', "sh"]
        run([*shell, *server], account=self.account, fds=fds, log=log)

    @contextmanager
    def _reach(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """The folder's path as the server's account can use it, and descriptors to inherit.

        A folder below one that the account may not enter (/root, a private temporary folder) is
        handed over as an open descriptor: the kernel then asks for no right on its parents, and
        the mode of a folder that is not ours stays as it is.
        """
        probe = ["/bin/sh", "-c", 'test -w "$1"', "sh", str(self.data_dir)]
        if self.account is None or run(probe, account=self.account).returncode == 0:
            yield str(self.data_dir), ()
            return
        if sys.platform != "linux":
            raise LocalPostgresError(
                f"{self.data_dir} is out of reach for the account {self.account.pw_name}.",
                field=FIELD,
                remedy="Use a folder such as /var/lib/mnemolite, or run as a normal user.",
            )
        fd = os.open(self.data_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            yield f"/proc/self/fd/{fd}", (fd,)
        finally:
            os.close(fd)

    def _clear_remains(self) -> None:
        """Remove what a killed server left: PostgreSQL would trust process ids that are reused."""
        foreign = self._postmaster()
        if foreign is not None:  # it does not hold our lock, so we did not start it
            raise LocalPostgresError(
                f"Process {foreign.pid} runs PostgreSQL in {self.pgdata}, outside of MnemoLite.",
                field=FIELD,
                remedy=f"Stop it first: kill -INT {foreign.pid}",
            )
        (self.pgdata / "postmaster.pid").unlink(missing_ok=True)
        for left in socket_dir(self.data_dir).glob(f"{SOCKET}*"):
            left.unlink(missing_ok=True)

    # --- watching ---------------------------------------------------------------------------------

    def _wait_ready(self) -> bool:
        """Wait until the server answers; False once there is none."""
        patience = Patience(self.log)
        while self.alive():
            status = self._status()
            problem = self._refusal() if status == "ready" else f"it is {status or 'silent'}"
            if problem is None:
                return True
            patience.spend(problem, starting=status != "ready")
            time.sleep(0.1 if status == "ready" else 0.02)
        return False

    def _pid_file(self) -> list[str]:
        try:
            return (self.pgdata / "postmaster.pid").read_text(errors="replace").splitlines()
        except FileNotFoundError:
            return []

    def _status(self) -> str:
        return "".join(self._pid_file()[_STATUS_LINE : _STATUS_LINE + 1]).strip()

    def _refusal(self) -> str | None:
        try:
            psycopg.connect(self._dsn(), connect_timeout=5).close()
        except psycopg.OperationalError as error:
            return str(error).strip()
        return None

    def _postmaster(self) -> psutil.Process | None:
        """The process named in the pid file, if it still is the server of this very folder."""
        try:
            process = psutil.Process(int(self._pid_file()[0]))
            return process if Path(process.cwd()).samefile(self.pgdata) else None
        except (IndexError, ValueError, OSError, psutil.Error):
            return None

    def _dsn(self) -> str:
        return conninfo(socket_dir(self.data_dir), "postgres")


def conninfo(folder: Path, database: str) -> str:
    """The libpq connection string of a database behind the socket in a folder."""
    return make_conninfo(host=str(folder), port=PORT, user=ROLE, dbname=database)


def _remedy(said: str, *, otherwise: str = BROKEN) -> str:
    return next((do for sign, do in _REMEDIES if re.search(sign, said)), otherwise)


def _sync_options(settings: Mapping[str, str]) -> list[str]:
    if settings.get("fsync") == "off":
        return ["--no-sync"]
    # One flush of the file system instead of one for each of a thousand files: 0.7 s, not 4 s.
    return ["--sync-method=syncfs"] if sys.platform == "linux" else []


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
