"""An empty database for a restore: the one that is named, or one that then takes its place."""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg import errors, sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import dict_row

from mnemolite.errors import BackupError, DatabaseNotEmptyError
from mnemolite.sql import load

_queries = load("backup")
_BESIDE = "_restoring_"
_MAX_NAME = 63


@contextmanager
def make_room(dsn: str, schema: str, *, replace: bool) -> Iterator[str]:
    """The address of an empty database, which is the named one once the block has ended well.

    An empty database is used as it is. A memory without events, or any with ``replace``, stays as
    it is until the block has ended, and is dropped then.
    """
    with psycopg.connect(dsn, autocommit=True, row_factory=dict_row) as connection:
        vacant = _is_vacant(connection, replace=replace)
        name = connection.info.dbname
        if vacant and schema != "public":
            # The backup makes it; PostgreSQL refuses to drop one that holds anything.
            drop = sql.SQL("DROP SCHEMA IF EXISTS {}").format(sql.Identifier(schema))
            connection.execute(drop)
    if vacant:
        yield dsn
        return
    with _beside(dsn, name) as (maintenance, fresh):
        yield make_conninfo(dsn, dbname=fresh)
        _take_place(maintenance, name, fresh=fresh)


def _is_vacant(connection: "psycopg.Connection[dict[str, Any]]", *, replace: bool) -> bool:
    """Whether there is nothing at all; False: a memory that may be replaced."""
    row = connection.execute(_queries["contents"]).fetchone() or {}
    if not row.get("any_tables") and not row.get("ours"):
        return True
    if not row.get("ours"):
        raise DatabaseNotEmptyError(
            "The database holds tables that are not MnemoLite's.",
            remedy="Name an empty one: CREATE DATABASE restored; then set DATABASE_URL to it.",
        )
    row = connection.execute(_queries["has_events"]).fetchone() or {}
    if row.get("found") and not replace:
        raise DatabaseNotEmptyError(
            "The database holds a memory already.",
            remedy="Name an empty database, or add --replace to have this one replaced.",
        )
    row = connection.execute(_queries["others"]).fetchone() or {}
    if row.get("others"):
        raise _in_use()
    return False


@contextmanager
def _beside(dsn: str, name: str) -> Iterator[tuple["psycopg.Connection[Any]", str]]:
    """A fresh database on the same server; it goes again unless it has taken its place."""
    fresh = f"{name[: _MAX_NAME - 20]}{_BESIDE}{secrets.token_hex(3)}"
    maintenance = "postgres" if conninfo_to_dict(dsn).get("dbname") != "postgres" else "template1"
    with psycopg.connect(make_conninfo(dsn, dbname=maintenance), autocommit=True) as connection:
        try:
            connection.execute(
                sql.SQL("CREATE DATABASE {} TEMPLATE template0 ENCODING 'UTF8'").format(
                    sql.Identifier(fresh)
                )
            )
        except errors.InsufficientPrivilege as error:
            raise BackupError(
                "This user may not create a database beside the one to be replaced.",
                remedy="Name an empty database, or a user with CREATEDB, in DATABASE_URL.",
            ) from error
        try:
            yield connection, fresh
        finally:
            drop = sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)")
            connection.execute(drop.format(sql.Identifier(fresh)))


def _take_place(connection: "psycopg.Connection[Any]", name: str, *, fresh: str) -> None:
    """Give the fresh database the name of the old one, in one transaction, and drop the old."""
    old = f"{fresh}_old"
    rename = sql.SQL("ALTER DATABASE {} RENAME TO {}")
    try:
        with connection.transaction():
            connection.execute(rename.format(sql.Identifier(name), sql.Identifier(old)))
            connection.execute(rename.format(sql.Identifier(fresh), sql.Identifier(name)))
    except errors.ObjectInUse as error:
        raise _in_use() from error
    connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(old)))


def _in_use() -> DatabaseNotEmptyError:
    return DatabaseNotEmptyError(
        "Other programs use the database that is to be replaced.",
        remedy="Stop the server and the workers first.",
    )
