"""pg_partman for the test server, from Debian's packages; without them tests are skipped."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

_ROOT = Path(__file__).parent.parent
# A folder for each major version, with the extension's files.
_FOLDER = _ROOT / ".venv" / "pg_partman"


def extension_files(major: int) -> Path:
    """The folder with the control file of that version; skips, or in CI fails, without it."""
    files = _FOLDER / str(major)
    if (files / "pg_partman.control").is_file():
        return files
    message = f"pg_partman {major} is not unpacked: tools/fetch_pg_partman takes it from Debian"
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)


@contextmanager
def offered(dsn: str, major: int) -> Iterator[str]:
    """The version of pg_partman that the database has for as long as the block runs."""
    files = extension_files(major)
    with psycopg.connect(dsn, autocommit=True) as connection:
        if connection.info.server_version < 180000 or not connection.info.host.startswith("/"):
            pytest.skip("only a local PostgreSQL >= 18 can be shown another folder of extensions")
        folder = Path(tempfile.mkdtemp(prefix="mnemolite-test-partman-"))
        try:
            folder.chmod(0o755)  # the server may run as another user
            shutil.copytree(files, folder / "extension")
            (folder / "extension").chmod(0o755)
            for path in (folder / "extension").iterdir():
                path.chmod(0o644)
            connection.execute(
                "SELECT set_config('extension_control_path', %s, false)", [f"{folder}:$system"]
            )
            connection.execute("CREATE SCHEMA partman")
            connection.execute("CREATE EXTENSION pg_partman SCHEMA partman")
            row = connection.execute(
                "SELECT extversion FROM pg_extension WHERE extname = 'pg_partman'"
            ).fetchone()
            assert row is not None
            yield str(row[0])
        finally:
            shutil.rmtree(folder)
