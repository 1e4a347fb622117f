"""What a backup says about itself, and what is compared with it after a restore."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import psycopg
from psycopg import sql
from pydantic import ConfigDict, ValidationError

from mnemolite.errors import InvalidFileError
from mnemolite.models import Frozen, Timestamp
from mnemolite.sql import load

_queries = load("backup")

VERSION = 1

Connection = psycopg.Connection[dict[str, Any]]


class Manifest(Frozen):
    """A memory in figures, as it was when it was saved."""

    model_config = ConfigDict(frozen=True, extra="ignore")  # what later versions add

    version: int = VERSION
    created_at: Timestamp
    server_major: int
    schema_name: str
    schema_revision: str
    tables: dict[str, int]  # rows of each
    spaces: list[dict[str, Any]]
    indexes: list[str]  # the valid ones
    text_search: list[str]
    extensions: list[str]

    @classmethod
    def read(cls, text: bytes, path: object) -> "Manifest":
        """The manifest in a backup. Raises InvalidFileError."""
        try:
            manifest = cls.model_validate_json(text)
        except ValidationError as error:
            raise InvalidFileError(f"{path}: its manifest is damaged.", field="file") from error
        if manifest.version > VERSION:
            raise InvalidFileError(
                f"{path} is a backup of version {manifest.version}; this program knows {VERSION}.",
                field="file",
                remedy="Install the MnemoLite that made it, or a later one.",
            )
        return manifest

    @classmethod
    def of(cls, connection: Connection) -> "Manifest":
        """The manifest of a database, as the connection's transaction sees it."""
        schema = _one(connection, "schema")
        parameters = {"schema": schema}
        tables = {}
        for name in _names(connection, "tables", parameters=parameters):
            count = _queries["count"].format(table=sql.Identifier(schema, name))
            row = connection.execute(count).fetchone()
            tables[name] = int(row["rows"]) if row else 0
        return cls(
            created_at=datetime.now(UTC),
            server_major=connection.info.server_version // 10_000,
            schema_name=schema,
            schema_revision=_one(connection, "revision"),
            tables=tables,
            spaces=connection.execute(_queries["spaces"]).fetchall(),
            indexes=_names(connection, "indexes", parameters=parameters),
            text_search=_names(connection, "searches", parameters=parameters),
            extensions=_names(connection, "extensions"),
        )


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was compared after a restore."""

    name: str
    saved: object
    restored: object

    @property
    def ok(self) -> bool:
        """Whether it is as it was."""
        return self.saved == self.restored


def compare(saved: Manifest, restored: Manifest) -> Iterator[Finding]:
    """Everything that must be as it was."""
    yield Finding("schema", saved.schema_revision, restored.schema_revision)
    for name in sorted({*saved.tables, *restored.tables}):
        yield Finding(f"rows of {name}", saved.tables.get(name), restored.tables.get(name))
    yield Finding("spaces", _spaces(saved), _spaces(restored))
    for what in ("indexes", "text_search", "extensions"):
        before, after = set(getattr(saved, what)), set(getattr(restored, what))
        lost = ", ".join(sorted(before - after))
        found = f"{len(after)}, without {lost}" if lost else str(len(before & after))
        yield Finding(what.replace("_", " "), str(len(before)), found)


def _spaces(manifest: Manifest) -> str:
    return ", ".join(
        f"{space['id']} {space['model']} ({space['status']})" for space in manifest.spaces
    )


def _one(connection: Connection, query: str) -> str:
    row = connection.execute(_queries[query]).fetchone() or {query: ""}
    return str(row[query])


def _names(
    connection: Connection, query: str, *, parameters: dict[str, str] | None = None
) -> list[str]:
    return [str(row["name"]) for row in connection.execute(_queries[query], parameters)]
