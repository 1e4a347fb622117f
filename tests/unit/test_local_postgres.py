"""The parts of the embedded server that need no server: names, sizes, files and locks."""

import errno
import os
import pwd
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from psycopg.conninfo import conninfo_to_dict

from mnemolite.errors import LocalPostgresError
from mnemolite.local_postgres import LocalPostgres, default_data_dir, open_local_postgres
from mnemolite.local_postgres.configuration import managed_settings, pg_ident
from mnemolite.local_postgres.contents import check_contents
from mnemolite.local_postgres.locks import close_lock, open_lock, share_lock, try_lock
from mnemolite.local_postgres.log import LIMIT, Patience, ServerLog
from mnemolite.local_postgres.machine import explained, memory, processors
from mnemolite.local_postgres.sockets import (
    PATH_LIMIT,
    SOCKET,
    make_socket_dir,
    remove_outside_folder,
    socket_dir,
)


def settings_of(text: str) -> dict[str, str]:
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return {name: value.strip("'") for name, value in (line.split(" = ", 1) for line in lines)}


def megabytes(value: str) -> int:
    return int(value.removesuffix("MB"))


def test_the_default_folder_can_be_reached_by_the_account_that_runs_postgres() -> None:
    folder = default_data_dir()
    assert folder.is_absolute()
    assert folder.name == "mnemolite"
    assert not folder.is_relative_to("/root")


def test_sizes_fit_this_machine() -> None:
    settings = settings_of(managed_settings({}))
    room = memory() // 2**20
    assert 64 <= megabytes(settings["shared_buffers"]) <= max(64, room // 4)
    assert 64 <= megabytes(settings["maintenance_work_mem"]) <= max(64, room // 4)
    assert int(settings["max_parallel_maintenance_workers"]) < max(processors(), 2)


def test_what_the_caller_asks_for_wins_and_is_quoted() -> None:
    text = managed_settings({"work_mem": "1MB", "search_path": "a'b\\c"})
    assert settings_of(text)["work_mem"] == "1MB"
    assert "search_path = 'a''b\\\\c'\n" in text
    assert settings_of(text)["fsync"] == "on"


@pytest.mark.parametrize("bad", [{"a b": "1"}, {"": "1"}, {"a": "1\n2"}, {"a=b": "1"}, {"a": "\0"}])
def test_what_is_no_setting_is_refused(bad: dict[str, str]) -> None:
    with pytest.raises(LocalPostgresError):
        managed_settings(bad)


def test_root_and_the_owner_may_connect_and_nobody_else() -> None:
    text = pg_ident("ada")
    assert 'mnemolite "ada" all\n' in text
    assert 'mnemolite "root" all\n' in text
    assert len(text.splitlines()) == 1 + len({"ada", "root", *_own_name()})


def _own_name() -> set[str]:
    return {pwd.getpwuid(os.geteuid()).pw_name}


# --- The socket -----------------------------------------------------------------------------------


def no_owner(_: Path) -> None:
    """Files stay ours."""


def data_dir_of_length(base: Path, wanted: int) -> Path:
    length = wanted - len(os.fsencode(base / "x" / "run" / SOCKET)) + 1
    folder = base / ("x" * length)
    (folder / "locks").mkdir(parents=True)
    assert len(os.fsencode(folder / "run" / SOCKET)) == wanted
    return folder


def test_a_socket_lies_inside_as_long_as_its_path_fits(tmp_path: Path) -> None:
    fits = data_dir_of_length(tmp_path, PATH_LIMIT)
    assert make_socket_dir(fits, own=no_owner) == fits / "run" == socket_dir(fits)
    assert stat.S_IMODE((fits / "run").stat().st_mode) == 0o700


def test_a_path_that_is_too_long_gets_a_private_folder_that_comes_back(tmp_path: Path) -> None:
    long = data_dir_of_length(tmp_path, PATH_LIMIT + 1)
    outside = make_socket_dir(long, own=no_owner)
    assert not outside.is_relative_to(tmp_path)
    assert stat.S_IMODE(outside.stat().st_mode) == 0o700
    assert socket_dir(long) == outside
    remove_outside_folder(long)
    assert not outside.exists()
    assert make_socket_dir(long, own=no_owner) == outside
    remove_outside_folder(long)


def test_a_folder_that_others_could_enter_is_not_used_again(tmp_path: Path) -> None:
    long = data_dir_of_length(tmp_path, PATH_LIMIT + 1)
    first = make_socket_dir(long, own=no_owner)
    first.chmod(0o755)
    second = make_socket_dir(long, own=no_owner)
    assert second != first
    remove_outside_folder(long)
    first.rmdir()


def test_a_connection_string_survives_any_path() -> None:
    handle = LocalPostgres(Path("/a b/it's \\ üñ"), "my db")
    parts = conninfo_to_dict(handle.dsn())
    assert parts["host"] == "/a b/it's \\ üñ/run"
    assert parts["dbname"] == "my db"
    assert conninfo_to_dict(handle.dsn("other"))["dbname"] == "other"


def test_a_handle_that_was_never_opened_cannot_start_anything(tmp_path: Path) -> None:
    handle = LocalPostgres(tmp_path)
    handle.close()
    with pytest.raises(LocalPostgresError, match="closed"):
        handle.ensure_running()


# --- The folder -----------------------------------------------------------------------------------


@pytest.mark.parametrize("names", [[], ["locks", "logs", "run"], ["initdb-x"], ["lost+found"]])
def test_folders_that_may_become_ours(tmp_path: Path, names: list[str]) -> None:
    for name in names:
        (tmp_path / name).mkdir()
    check_contents(tmp_path, 18)


def test_what_else_lies_beside_a_cluster_is_no_matter(tmp_path: Path) -> None:
    (tmp_path / "postgres-18").mkdir()
    (tmp_path / "postgres-18" / "PG_VERSION").write_text("18\n")
    (tmp_path / "postgres-17").mkdir()
    (tmp_path / "backup.sql").touch()
    check_contents(tmp_path, 18)


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("PG_VERSION", "not MnemoLite's: it holds PG_VERSION"),
        ("notes/a", "it holds notes"),
        ("postgres-16/PG_VERSION", "written by PostgreSQL 16"),
        ("postgres-18/base", "damaged"),
    ],
)
def test_folders_that_are_refused(tmp_path: Path, path: str, says: str) -> None:
    (tmp_path / path).parent.mkdir(exist_ok=True)
    (tmp_path / path).touch()
    with pytest.raises(LocalPostgresError, match=says) as caught:
        check_contents(tmp_path, 18)
    assert caught.value.field == "data_dir"
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("number", "says"),
    [
        ("EACCES", "not writable"),
        ("EROFS", "read-only"),
        ("ENOSPC", "full disk"),
        ("ENOTDIR", "not a folder"),
        ("ENOLCK", "without file locks"),
        ("EIO", "cannot be used"),
    ],
)
def test_what_the_system_refuses_is_explained(number: str, says: str) -> None:
    code = getattr(errno, number)
    with pytest.raises(LocalPostgresError, match=says) as caught, explained(Path("/some/where")):
        raise OSError(code, os.strerror(code))
    assert "/some/where" in caught.value.detail


def test_a_folder_that_cannot_exist_is_an_error_with_a_remedy() -> None:
    with pytest.raises(LocalPostgresError) as caught:
        open_local_postgres(Path("/dev/null/mnemolite"))
    assert "DATABASE_URL" in str(caught.value)


# --- The log --------------------------------------------------------------------------------------


def test_only_the_newest_lines_after_the_mark_are_quoted(tmp_path: Path) -> None:
    log = ServerLog(tmp_path / "log")
    assert (log.size(), log.tail()) == (0, "")
    log.path.write_text("old\n" + "".join(f"line {number}\n" for number in range(20)))
    assert log.tail(4, lines=50).startswith("line 0\n")
    assert log.tail(lines=2) == "line 18\nline 19"
    assert log.tail(log.size()) == ""


def test_the_log_is_bounded(tmp_path: Path) -> None:
    log = ServerLog(tmp_path / "log")
    log.path.write_bytes(b"x" * (LIMIT + 1))
    fd = log.open()
    os.write(fd, b"new")
    os.close(fd)
    assert log.path.read_bytes() == b"new"
    assert (tmp_path / "log.log.1").stat().st_size == LIMIT + 1


def test_patience_is_not_spent_at_once(tmp_path: Path) -> None:
    patience = Patience(ServerLog(tmp_path / "log"))
    patience.spend("it is starting", starting=True)


# --- The locks ------------------------------------------------------------------------------------


def test_whoever_gets_the_lock_alone_is_the_last(tmp_path: Path) -> None:
    one, two = open_lock(tmp_path / "lock"), open_lock(tmp_path / "lock")
    share_lock(one)
    share_lock(two)
    assert not try_lock(one)
    close_lock(one)
    close_lock(one)
    assert try_lock(two)
    close_lock(two)


def test_a_lock_file_is_private_and_never_a_link(tmp_path: Path) -> None:
    fd = open_lock(tmp_path / "lock")
    assert stat.S_IMODE((tmp_path / "lock").stat().st_mode) == 0o600
    assert not os.get_inheritable(fd)
    close_lock(fd)
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic"):
        open_lock(tmp_path / "link")
    assert not (tmp_path / "elsewhere").exists()


HOLDER = """
import signal, sys
from pathlib import Path
from mnemolite.local_postgres.locks import open_lock, share_lock
share_lock(open_lock(Path(sys.argv[1])))
print("held", flush=True)
signal.pause()
"""


def test_a_killed_process_drops_its_lock(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "lock")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        fd = open_lock(tmp_path / "lock")
        assert not try_lock(fd)
        holder.kill()
    assert try_lock(fd)
    close_lock(fd)
