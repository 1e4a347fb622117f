"""A partition on its way out, written to a file that `mnemolite import` reads."""

import asyncio
import gzip
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, cast

from psycopg import sql

from mnemolite.database import Connection
from mnemolite.errors import InvalidFileError, InvalidInputError
from mnemolite.import_export.exports import about_line, event_line
from mnemolite.import_export.header import EndLine, ExportHeader, NamespaceLine
from mnemolite.models import RetentionEntry, format_timestamp
from mnemolite.snapshot import Snapshot
from mnemolite.sql import load
from mnemolite.whole_files import whole_file

_queries = load("drops")
_retention = load("retention")
_FETCH_ROWS = 500


def checked_folder(folder: Path) -> Path:
    """The folder as an absolute path. Raises InvalidInputError if nothing can be written there."""
    folder = folder.absolute()
    if not folder.is_dir():
        raise InvalidInputError(
            f"{folder} is no folder.", field="archive", remedy="Make it first: mkdir."
        )
    probe = folder / ".mnemolite-probe"
    try:
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InvalidFileError(f"{folder}: {error.strerror}.", field="archive") from error
    return folder


async def free_path(connection: Connection, folder: Path, *, partition: str) -> str:
    """A name for the file that neither the folder nor the log knows: none is ever overwritten."""
    number = 1
    while True:
        suffix = "" if number == 1 else f".{number}"
        path = folder / f"{partition}{suffix}.jsonl.gz"
        cursor = await connection.execute(_retention["archive_taken"], {"archive": str(path)})
        taken = (await cursor.fetchone() or {}).get("found")
        if not taken and not path.exists():
            return str(path)
        number += 1


async def write_archive(connection: Connection, entry: RetentionEntry) -> int:
    """Write all events of a detached partition; how many. Raises InvalidFileError.

    The file is there whole or not at all, and on the disk when this returns.
    """
    assert entry.archive is not None
    assert entry.partition_name is not None
    names = {"partition": sql.Identifier(entry.partition_name)}
    with whole_file(Path(entry.archive)) as part, gzip.open(part, "wb", compresslevel=6) as packed:
        file = cast("IO[bytes]", packed)
        async with connection.transaction():
            file.write(about_line(await _header(connection, entry)))
            for row in await (
                await connection.execute(_queries["languages"].format(**names))
            ).fetchall():
                file.write(about_line(NamespaceLine(**row)))
            events = 0
            async with connection.cursor(name="archive") as cursor:
                await cursor.execute(_queries["events"].format(**names))
                while rows := await cursor.fetchmany(_FETCH_ROWS):
                    chunk = "".join(map(event_line, rows)).encode()
                    await asyncio.to_thread(file.write, chunk)
                    events += len(rows)
        file.write(about_line(EndLine(events=events)))
    return events


async def _header(connection: Connection, entry: RetentionEntry) -> ExportHeader:
    span = {"since": entry.since, "until": entry.until}
    return ExportHeader(
        schema_revision=await Snapshot(connection).revision(),
        exported_at=datetime.now(UTC),
        filters={name: format_timestamp(at) for name, at in span.items() if at is not None},
    )
