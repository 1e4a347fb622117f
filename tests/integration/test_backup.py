"""Backup and restore with PostgreSQL's own programs: whole, checked, never over what is there."""

import os
import signal
import subprocess
import time
import zipfile
from pathlib import Path
from typing import Any

import psycopg
import pytest

from mnemolite import backup
from mnemolite.backup.tools import environment_of, find_tools
from mnemolite.errors import (
    BackupError,
    DatabaseNotEmptyError,
    InvalidFileError,
    SchemaTooNewError,
)
from mnemolite.memory import Memory
from mnemolite.migrations import HEAD
from mnemolite.models import NewEvent, SearchQuery
from mnemolite.settings import DatabaseSettings, Settings
from mnemolite.worker import Worker
from tests.acceptance.server import command, environment
from tests.conftest import _fresh_database


def at(dsn: str) -> DatabaseSettings:
    return DatabaseSettings(url=dsn)


def tables(dsn: str) -> dict[str, Any]:
    """Everything in the tables, as text."""
    with psycopg.connect(dsn) as connection:
        names = connection.execute(
            "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace "
            "AND relkind = 'r' ORDER BY relname"
        ).fetchall()
        return {
            name: connection.execute(f"SELECT t::text FROM {name} t ORDER BY 1").fetchall()
            for (name,) in names
        }


async def fill(memory: Memory) -> None:
    await memory.events.add_namespaces(["français"], "french")
    await memory.add_many([
        *(NewEvent(content={"text": f"turn {n}", "speaker": "Ada"}) for n in range(30)),
        NewEvent(content={"text": "Les cafés étaient fermés."}, namespace="français"),
    ])  # fmt: skip
    await Worker(memory).drain()
    await memory.spaces.build_index(memory.space)
    await memory.search(SearchQuery(q="turn 7", explain=True))
    await memory.add("still pending")


@pytest.fixture
async def saved(memory: Memory, tmp_path: Path) -> Path:
    """A backup of a memory that has a bit of everything, made while it is open."""
    await fill(memory)
    path = tmp_path / "memory.backup"
    manifest = backup.back_up(memory.settings.database, path)
    assert manifest.tables["events"] == 32
    return path


async def test_everything_comes_back(
    memory: Memory, saved: Path, empty_dsn: str, settings: Settings
) -> None:
    before = tables(str(settings.database.url))
    manifest, findings = backup.restore(at(empty_dsn), saved)
    assert all(finding.ok for finding in findings)
    assert manifest.schema_revision == HEAD
    assert tables(empty_dsn) == before
    copy = settings.model_copy(update={"database": at(empty_dsn)})
    async with Memory.open(copy) as restored:
        assert (await restored.queue_state()).pending == 1
        for query, namespace in (("turn 7", "default"), ("cafe ferme", "français")):
            # Words, stems and accents: the text-search configurations have come along.
            request = SearchQuery(q=query, namespace=namespace, mode="text")
            found = await restored.search(request)
            expected = await memory.search(request)
            assert [h.id for h in found.data] == [h.id for h in expected.data] != []
        assert (await restored.search("turn 7")).data
        await restored.add("one more")
        await Worker(restored).drain()
        assert (await restored.queue_state()).pending == 0


async def test_what_is_there_is_not_lost(saved: Path, server_dsn: str, template: str) -> None:
    for other in _fresh_database(server_dsn, template):
        with psycopg.connect(other, autocommit=True) as connection:
            connection.execute('INSERT INTO events (content) VALUES (\'{"text": "mine"}\')')
            before = tables(other)
            with pytest.raises(DatabaseNotEmptyError, match="holds a memory"):
                backup.restore(at(other), saved)
            with pytest.raises(DatabaseNotEmptyError, match="Other programs"):
                backup.restore(at(other), saved, replace=True)
        assert tables(other) == before
        broken = saved.with_name("broken")
        garble(saved, broken)
        with pytest.raises((InvalidFileError, BackupError)):
            backup.restore(at(other), broken, replace=True)
        assert tables(other) == before
        backup.restore(at(other), saved, replace=True)
        assert len(tables(other)["events"]) == 32


def garble(whole: Path, broken: Path) -> None:
    """Change a byte of the dump, past its table of contents."""
    data = bytearray(whole.read_bytes())
    with zipfile.ZipFile(whole) as archive:
        data[archive.getinfo("database.dump").file_size - 200] ^= 0xFF
    broken.write_bytes(data)


async def test_an_unused_memory_is_replaced_without_asking(
    saved: Path, server_dsn: str, template: str
) -> None:
    for unused in _fresh_database(server_dsn, template):
        backup.restore(at(unused), saved)
        assert len(tables(unused)["events"]) == 32
    with psycopg.connect(server_dsn) as connection:
        left = "SELECT count(*) FROM pg_database WHERE datname LIKE '%restoring%'"
        assert connection.execute(left).fetchone() == (0,)


async def test_tables_of_others_are_never_touched(saved: Path, empty_dsn: str) -> None:
    with psycopg.connect(empty_dsn, autocommit=True) as connection:
        connection.execute("CREATE TABLE theirs (n integer)")
    for replace in (False, True):
        with pytest.raises(DatabaseNotEmptyError, match="not MnemoLite's"):
            backup.restore(at(empty_dsn), saved, replace=replace)


@pytest.mark.parametrize("damage", ["cut", "empty", "no zip", "missing", "garbled", "too new"])
async def test_a_damaged_backup_leaves_the_database_empty(
    saved: Path, empty_dsn: str, damage: str
) -> None:
    data = saved.read_bytes()
    broken = saved.with_name("broken")
    if damage == "garbled":
        garble(saved, broken)
    elif damage == "too new":
        with zipfile.ZipFile(saved) as old, zipfile.ZipFile(broken, "w") as new:
            new.writestr("database.dump", old.read("database.dump"))
            told = old.read("manifest.json").replace(f'"{HEAD}"'.encode(), b'"9999"')
            new.writestr("manifest.json", told)
    elif damage != "missing":
        broken.write_bytes({"cut": data[:-30], "empty": b"", "no zip": b"x" * 999}[damage])
    with pytest.raises((InvalidFileError, BackupError, SchemaTooNewError)):
        backup.restore(at(empty_dsn), broken)
    assert tables(empty_dsn) == {}


def test_an_empty_database_is_not_saved(empty_dsn: str, tmp_path: Path) -> None:
    with pytest.raises(BackupError, match="nothing to save"):
        backup.back_up(at(empty_dsn), tmp_path / "file")
    assert list(tmp_path.iterdir()) == []


def test_a_backup_that_is_killed_is_no_backup(dsn: str, tmp_path: Path) -> None:
    path = tmp_path / "memory.backup"
    path.write_text("the one before")
    variables = environment(DATABASE_URL=dsn)
    with psycopg.connect(dsn) as connection:
        connection.execute("LOCK TABLE events")  # pg_dump waits for it
        saving = subprocess.Popen(
            command("db", "backup", str(path)), env=variables, start_new_session=True
        )
        waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted"
        deadline = time.monotonic() + 60
        while connection.execute(waiting).fetchone() == (0,):
            assert time.monotonic() < deadline
            assert saving.poll() is None
            time.sleep(0.05)
        os.killpg(saving.pid, signal.SIGKILL)
        saving.wait()
    assert path.read_text() == "the one before"
    assert all(other.name.endswith(".part") for other in tmp_path.iterdir() if other != path)


# --- The programs -------------------------------------------------------------------------------


def test_a_version_that_nobody_has_is_named() -> None:
    with pytest.raises(BackupError, match="99 or later") as raised:
        find_tools(99)
    assert "postgresql-client-99" in str(raised.value.remedy)


def test_older_servers_are_spoken_to_by_later_programs() -> None:
    assert find_tools(16).major >= 16
    assert find_tools(16, 18).major >= 18


def test_a_password_is_told_in_the_environment_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPASSWORD", "another")
    told = environment_of("postgresql://ada:s%40cret@db:5433/memory?sslmode=require")
    assert {name: told[name] for name in ("PGHOST", "PGPORT", "PGUSER", "PGDATABASE")} == {
        "PGHOST": "db", "PGPORT": "5433", "PGUSER": "ada", "PGDATABASE": "memory",
    }  # fmt: skip
    assert (told["PGPASSWORD"], told["PGSSLMODE"]) == ("s@cret", "require")


def test_the_private_server_is_saved_and_restored(tmp_path: Path) -> None:
    def mnemolite(*arguments: str, data: str) -> subprocess.CompletedProcess[str]:
        variables = environment(MNEMO_DATA_DIR=str(tmp_path / data), EMBEDDING_MODE="mock")
        return subprocess.run(
            command(*arguments), env=variables, text=True, capture_output=True, check=False
        )

    assert mnemolite("add", "to be saved", data="one").returncode == 0
    path = str(tmp_path / "memory.backup")
    done = mnemolite("db", "backup", path, data="one")
    assert done.stdout.startswith("Saved 1 events"), done.stderr
    done = mnemolite("db", "restore", path, data="two")
    assert (done.returncode, "rows of events" in done.stdout) == (0, True), done.stderr
    found = mnemolite("search", "saved", "--mode", "text", data="two")
    assert "to be saved" in found.stdout
    refused = mnemolite("db", "restore", path, data="two")
    assert (refused.returncode, "database_not_empty" in refused.stderr) == (1, True)
    assert mnemolite("db", "restore", path, "--replace", data="two").returncode == 0
