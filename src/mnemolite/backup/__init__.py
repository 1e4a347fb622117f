"""Backups of a whole database, by PostgreSQL's own programs, checked after a restore.

A backup is a zip file with ``database.dump``, an archive of pg_dump, and ``manifest.json``, both of
one snapshot.
"""

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import structlog
from psycopg.rows import dict_row

from mnemolite.backup.manifest import Connection, Finding, Manifest, compare
from mnemolite.backup.tools import find_tools
from mnemolite.backup.vacancy import make_room
from mnemolite.database import translated_errors
from mnemolite.errors import BackupError, InvalidFileError, SchemaTooNewError
from mnemolite.local_postgres import default_data_dir, open_local_postgres
from mnemolite.migrations import HEAD, REVISIONS, inspect, upgrade
from mnemolite.settings import DatabaseSettings
from mnemolite.sql import load
from mnemolite.whole_files import whole_file

__all__ = ["Finding", "Manifest", "back_up", "restore"]

log = structlog.get_logger(__name__)

_queries = load("backup")

_DUMP, _MANIFEST = "database.dump", "manifest.json"


def back_up(settings: DatabaseSettings, path: Path) -> Manifest:
    """Save the database into a file, which is there once it is whole. The memory may be in use.

    Raises BackupError, DatabaseError, InvalidFileError.
    """
    with _server(settings) as dsn, translated_errors(), _connected(dsn) as connection:
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        connection.read_only = True
        if inspect(dsn) is None:
            raise BackupError("There is nothing to save: the database has no memory in it.")
        connection.execute(_queries["hold"])
        row = connection.execute("SELECT pg_export_snapshot() AS snapshot").fetchone()
        snapshot = row["snapshot"] if row else ""
        manifest = Manifest.of(connection)
        options = ["--no-owner", "--no-privileges", "--no-comments", f"--snapshot={snapshot}"]
        if manifest.schema_name != "public":  # others may use the rest of the database
            options += [f"--schema={manifest.schema_name}"]
            options += [f"--extension={name}" for name in manifest.extensions]
        tools = find_tools(manifest.server_major)
        with whole_file(path) as part, zipfile.ZipFile(part, "w") as archive:
            with archive.open(_DUMP, "w", force_zip64=True) as dump:
                tools.dump(dsn, dump, options=options)
            archive.writestr(_MANIFEST, manifest.model_dump_json(indent=2))
    return manifest


def restore(
    settings: DatabaseSettings, path: Path, *, replace: bool = False
) -> tuple[Manifest, list[Finding]]:
    """Read a backup into an empty database, compare it with its manifest, and upgrade it.

    With ``replace`` a memory that is there is replaced once the restored one has been found to be
    whole. Raises DatabaseNotEmptyError, BackupError, InvalidFileError, SchemaTooNewError.
    """
    with (
        _opened(path) as (archive, manifest),
        _server(settings) as dsn,
        translated_errors(),
        make_room(dsn, manifest.schema_name, replace=replace) as room,
    ):
        with _connected(room) as connection:
            server_major = connection.info.server_version // 10_000
        tools = find_tools(server_major, manifest.server_major)
        with archive.open(_DUMP) as dump:
            tools.restore(room, dump)
        with _connected(room) as connection:
            restored = Manifest.of(connection)
        findings = list(compare(manifest, restored))
        _refuse_differences(findings)
        if manifest.schema_revision != HEAD:
            upgrade(room)
        with _connected(room) as connection:
            connection.autocommit = True
            connection.execute("ANALYZE")
    return manifest, findings


@contextmanager
def _opened(path: Path) -> Iterator[tuple[zipfile.ZipFile, Manifest]]:
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError) as error:
        raise _not_whole(path, error) from error
    with archive:
        if {_DUMP, _MANIFEST} - set(archive.namelist()):
            raise _not_whole(path, "it lacks the database or its manifest")
        try:
            yield archive, _read_manifest(archive, path)
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:  # a checksum that is wrong
            raise _not_whole(path, error) from error


def _not_whole(path: Path, reason: object) -> InvalidFileError:
    return InvalidFileError(
        f"{path} is no whole backup: {reason}.",
        field="file",
        remedy="Name a file that `mnemolite db backup` has written to its end.",
    )


def _read_manifest(archive: zipfile.ZipFile, path: Path) -> Manifest:
    manifest = Manifest.read(archive.read(_MANIFEST), path)
    if manifest.schema_revision not in REVISIONS:
        raise SchemaTooNewError(
            f"The backup has schema {manifest.schema_revision}, this program knows up to {HEAD}.",
            remedy="Install the MnemoLite that wrote it, or a later one.",
        )
    return manifest


def _refuse_differences(findings: list[Finding]) -> None:
    if different := [one for one in findings if not one.ok]:
        told = "; ".join(f"{one.name}: {one.saved} saved, {one.restored}" for one in different)
        raise BackupError(f"What was restored is not what was saved. {told}.")


@contextmanager
def _server(settings: DatabaseSettings) -> Iterator[str]:
    """The address of the database, as it is; a private server is started for it."""
    if settings.url is not None:
        yield settings.url
        return
    data_dir = settings.data_dir or default_data_dir()
    with open_local_postgres(data_dir, database=settings.name) as local:
        yield local.dsn()


def _connected(dsn: str) -> Connection:
    return psycopg.connect(dsn, row_factory=dict_row)
