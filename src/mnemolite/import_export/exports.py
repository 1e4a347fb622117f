"""Export: events as JSON lines in one snapshot, streamed, so that an import makes them anew."""

import asyncio
import gzip
import json
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, cast

from mnemolite.errors import InvalidInputError
from mnemolite.filters import parse
from mnemolite.import_export.header import EndLine, ExportHeader, NamespaceLine
from mnemolite.import_export.parquet import ParquetFile
from mnemolite.memory import Memory
from mnemolite.models import ExportQuery, Space, format_timestamp
from mnemolite.snapshot import Row, Snapshot
from mnemolite.whole_files import whole_file

OnExported = Callable[[int], None]

_IDENTITY = {
    "provider",
    "model",
    "revision",
    "dimension",
    "query_prefix",
    "document_prefix",
    "pooling",
    "normalisation",
    "template",
    "max_tokens",
    "digest",
}


async def export_lines(
    memory: Memory, query: ExportQuery, *, with_vectors: bool = False
) -> AsyncIterator[tuple[bytes, int]]:
    """The lines of an export in chunks, each with the number of its events.

    Raises InvalidInputError when vectors are wanted and there are none.
    """
    parse(query.where)  # a filter that is wrong is told before anything is
    space = await _space(memory) if with_vectors else None
    async with Snapshot.of(memory.database) as snapshot:
        yield about_line(await _header(snapshot, query, space=space)), 0
        async for row in snapshot.namespaces(query):
            yield about_line(NamespaceLine(**row)), 0
        events = 0
        async for rows in snapshot.events(query, space):
            events += len(rows)
            yield "".join(map(event_line, rows)).encode(), len(rows)
        yield about_line(EndLine(events=events)), 0


async def write_export(
    memory: Memory,
    query: ExportQuery,
    *,
    path: str,
    with_vectors: bool = False,
    on_progress: OnExported = lambda _events: None,
) -> int:
    """Write an export to a file, ``-`` being standard output; the number of its events.

    The file is there once it is whole. Its name says what it is: ``.gz`` is packed.
    """
    events = 0
    with _opened(path) as file:
        async for chunk, count in export_lines(memory, query, with_vectors=with_vectors):
            await asyncio.to_thread(file.write, chunk)
            events += count
            on_progress(events)
    return events


async def write_parquet(
    memory: Memory,
    query: ExportQuery,
    *,
    path: str,
    with_vectors: bool = False,
    on_progress: OnExported = lambda _events: None,
) -> int:
    """Write an export as a Parquet file; the number of its events. Needs the extra ``parquet``."""
    if path == "-":
        raise InvalidInputError("Parquet cannot be streamed.", field="file", remedy="Name a file.")
    space = await _space(memory) if with_vectors else None
    events = 0
    async with Snapshot.of(memory.database) as snapshot:
        header = await _header(snapshot, query, space=space)
        languages = {row["name"]: row["language"] async for row in snapshot.namespaces(query)}
        with (
            whole_file(Path(path)) as part,
            ParquetFile.create(part, header) as file,
        ):
            async for rows in snapshot.events(query, space):
                await asyncio.to_thread(file.write, rows, languages)
                events += len(rows)
                on_progress(events)
    return events


def event_line(row: Row) -> str:
    """An event as its line; JSON of the database goes through as it is, so that nothing changes."""
    parts = [
        f'"id":"{row["id"]}"',
        f'"namespace":{_text(row["namespace"])}',
        f'"session":{_text(row["session"])}',
        f'"timestamp":"{format_timestamp(row["timestamp"])}"',
        f'"created_at":"{format_timestamp(row["created_at"])}"',
        f'"content":{row["content"]}',
        f'"metadata":{row["metadata"]}',
    ]
    if row["vectors"] is not None:
        parts.append(f'"vectors":{row["vectors"]}')
    return "{" + ",".join(parts) + "}\n"


async def _space(memory: Memory) -> Space:
    space = await memory.spaces.active()
    if space is None:
        raise InvalidInputError(
            "There are no vectors: no model has been used with this database yet.",
            field="--with-vectors",
            remedy="Leave it out.",
        )
    return space


async def _header(snapshot: Snapshot, query: ExportQuery, *, space: Space | None) -> ExportHeader:
    return ExportHeader(
        schema_revision=await snapshot.revision(),
        exported_at=datetime.now(UTC),
        filters=query.model_dump(mode="json", exclude_none=True),
        space=space.model_dump(include=_IDENTITY) if space else None,
    )


def about_line(about: ExportHeader | NamespaceLine | EndLine) -> bytes:
    """A line about the export itself."""
    return json.dumps(about.model_dump(mode="json"), ensure_ascii=False).encode() + b"\n"


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


@contextmanager
def _opened(path: str) -> Iterator[IO[bytes]]:
    if path == "-":
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    with whole_file(Path(path)) as part:
        packed = path.endswith(".gz")
        with gzip.open(part, "wb", compresslevel=6) if packed else part.open("wb") as file:
            yield cast("IO[bytes]", file)
