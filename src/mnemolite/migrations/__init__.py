"""Bring a database to this program's schema, one process at a time, and never backwards."""

import hashlib
from pathlib import Path

import psycopg
import structlog
from psycopg import sql

from mnemolite.database import translated_errors
from mnemolite.errors import DatabaseUnsuitableError, SchemaTooNewError

log = structlog.get_logger(__name__)

VERSION_TABLE = "mnemolite_schema"
_VERSIONS = Path(__file__).parent / "versions"
REVISIONS = sorted(path.name.split("_")[0] for path in _VERSIONS.glob("[0-9]*_*.py"))
HEAD = REVISIONS[-1]
# Any number will do, as long as every MnemoLite takes the same one.
_LOCK = 0x6D6E656D6F
_MIN_SERVER = 160000
_MIN_PGVECTOR = (0, 8)


def upgrade(dsn: str) -> None:
    """Create or upgrade the schema; concurrent callers wait for each other.

    Raises SchemaTooNewError for a database of a newer program, DatabaseUnsuitableError when the
    server lacks what MnemoLite needs.
    """
    with translated_errors(), psycopg.connect(dsn, autocommit=True) as connection:
        check_server(connection)
        if current_revision(connection) == HEAD:
            return
        connection.execute("SELECT pg_advisory_lock(%s)", [_LOCK])
        before = current_revision(connection)
        if before != HEAD:
            _refuse_foreign_events(connection, before)
            _run_alembic(dsn)
            log.info("schema_upgraded", before=before, after=HEAD)


def inspect(dsn: str) -> str | None:
    """The revision of a database whose server has what MnemoLite needs; changes nothing."""
    with translated_errors(), psycopg.connect(dsn, autocommit=True) as connection:
        check_server(connection)
        return current_revision(connection)


def schema_digest() -> str:
    """SHA-256, in hexadecimal, of all migrations: what a database's layout depends on."""
    digest = hashlib.sha256()
    for path in sorted(_VERSIONS.glob("[0-9]*.sql")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def current_revision(connection: "psycopg.Connection[tuple[object, ...]]") -> str | None:
    """The database's revision, None for an empty one; SchemaTooNewError for an unknown one."""
    known = connection.execute("SELECT to_regclass(%s)", [VERSION_TABLE]).fetchone()
    if known is None or known[0] is None:
        return None
    query = sql.SQL("SELECT version_num FROM {}").format(sql.Identifier(VERSION_TABLE))
    row = connection.execute(query).fetchone()
    current = None if row is None else str(row[0])
    if current is not None and current not in REVISIONS:
        raise SchemaTooNewError(
            f"The database has schema {current}, this program knows schemas up to {HEAD}.",
            remedy="Install the MnemoLite that wrote it, or a later one.",
        )
    return current


def check_server(connection: "psycopg.Connection[tuple[object, ...]]") -> None:
    """Name what the server lacks: version, pgvector, unaccent, encoding."""
    version = connection.info.server_version
    if version < _MIN_SERVER:
        raise DatabaseUnsuitableError(
            f"PostgreSQL {version // 10000} is too old.", remedy="Use PostgreSQL 16 or later."
        )
    if connection.info.parameter_status("server_encoding") != "UTF8":
        raise DatabaseUnsuitableError(
            "The database's encoding is not UTF8.",
            remedy="Create one with: CREATE DATABASE mnemolite ENCODING 'UTF8' TEMPLATE template0.",
        )
    available = _available_extensions(connection)
    for name in ("vector", "unaccent"):
        if name not in available:
            raise DatabaseUnsuitableError(
                f"The server has no extension {name!r}.",
                remedy=f"Install the package that holds it, then: CREATE EXTENSION {name}.",
            )
    if tuple(int(part) for part in available["vector"].split(".")[:2]) < _MIN_PGVECTOR:
        raise DatabaseUnsuitableError(
            f"pgvector {available['vector']} is too old.",
            remedy="Install pgvector 0.8 or later, then: ALTER EXTENSION vector UPDATE.",
        )


def _available_extensions(
    connection: "psycopg.Connection[tuple[object, ...]]",
) -> dict[str, str]:
    rows = connection.execute(
        "SELECT name, coalesce(installed_version, default_version) "
        "FROM pg_available_extensions WHERE name IN ('vector', 'unaccent')"
    )
    return {str(name): str(version) for name, version in rows}


def _refuse_foreign_events(
    connection: "psycopg.Connection[tuple[object, ...]]", before: str | None
) -> None:
    # Where the tables would be made; a later schema of the search path may have its own events.
    query = "SELECT to_regclass(quote_ident(current_schema()) || '.events')"
    taken = connection.execute(query).fetchone()
    if before is None and taken is not None and taken[0] is not None:
        raise DatabaseUnsuitableError(
            "The database already has a table named events that MnemoLite did not make.",
            remedy="Use an empty database, or a schema of its own: add "
            "?options=-csearch_path%3Dmnemolite,public to DATABASE_URL, "
            "after CREATE SCHEMA mnemolite.",
        )


def _run_alembic(dsn: str) -> None:
    # Imported only when there is something to migrate: it would double the time of a warm start.
    from alembic import command
    from alembic.config import Config
    from sqlalchemy import create_engine
    from sqlalchemy.exc import DBAPIError
    from sqlalchemy.pool import NullPool

    engine = create_engine(
        "postgresql+psycopg://", creator=lambda: psycopg.connect(dsn), poolclass=NullPool
    )
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    try:
        with engine.begin() as connection:
            config.attributes["connection"] = connection
            config.attributes["version_table"] = VERSION_TABLE
            command.upgrade(config, "head")
    except DBAPIError as error:  # psycopg's own, in SQLAlchemy's wrapping
        raise error.orig or error from error
