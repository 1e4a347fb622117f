"""Routes of whole sources: events in as a stream, events out as a stream."""

import asyncio
import io
from collections.abc import AsyncIterator
from concurrent.futures import CancelledError, Future
from contextlib import aclosing
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import StreamingResponse
from pydantic import Field
from starlette.requests import ClientDisconnect

from mnemolite.api.deps import MemoryDep, build, parse_where
from mnemolite.api.problems import DATABASE, WRITING, example, responses
from mnemolite.errors import (
    InvalidFileError,
    InvalidFilterError,
    InvalidInputError,
    InvalidTimestampError,
    UnsupportedMediaTypeError,
)
from mnemolite.import_export import ImportReport, LineMapping, export_lines, import_events
from mnemolite.import_export.lines import faults_of, unpacked
from mnemolite.models import ExportQuery, Frozen, TimeRange

router = APIRouter(prefix="/v1/events", tags=["events"])

NDJSON = "application/x-ndjson"
_MEDIA_TYPES = frozenset({NDJSON, "application/jsonl", "application/json", "application/gzip"})
_ENCODINGS = frozenset({"", "identity", "gzip"})
_EXAMPLE_REPORT: dict[str, Any] = {
    "format": "jsonl",
    "unit": "line",
    "stored": 2,
    "already_there": 0,
    "vectors": 0,
    "bad": 1,
    "bad_lines": [{"number": 3, "reason": "the line is not a JSON object"}],
    "zoneless": 0,
    "kept_in_metadata": ["doc_id"],
    "skipped": {},
    "kept_as_data": {},
    "notes": [],
}
_EXAMPLE_END = '{"mnemolite": "end", "events": 0}\n'
_EXAMPLE_LINES = '{"text": "I went to a support group.", "timestamp": "2023-05-08T13:56:00Z"}\n'


class _JsonLines(StreamingResponse):
    media_type = NDJSON


class ImportParams(Frozen):
    """How the source is to be read."""

    format: str = Field("auto", description="Its format; auto recognises it by what it holds.")
    namespace: str | None = Field(None, description="For events that name none.")
    map: list[str] = Field([], description="key=target for JSON lines; repeatable.")
    timezone: str = Field("UTC", description="Zone of timestamps that name none.")
    strict: bool = Field(False, description="Stop at the first bad line.")


class ExportParams(TimeRange):
    """Which events, as a query string."""

    namespace: str | None = Field(None, description="Only this one.")
    session: str | None = Field(None, description="Only this thread.")
    where: str | None = Field(None, description='Filter as JSON text, such as {"user": "ada"}.')
    vectors: bool = Field(False, description="The vectors of the active space too.")

    def query(self) -> ExportQuery:
        given = self.model_dump(exclude={"vectors"}) | {"where": parse_where(self.where)}
        return build(ExportQuery, given)


@router.post(
    "/import",
    summary="Store the events of a stream",
    responses={
        200: example(_EXAMPLE_REPORT),
        **responses(InvalidInputError, InvalidFileError, UnsupportedMediaTypeError, *WRITING),
    },
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {NDJSON: {"schema": {"type": "string"}, "example": _EXAMPLE_LINES}},
        }
    },
)
async def import_stream(
    memory: MemoryDep, request: Request, *, params: Annotated[ImportParams, Query()]
) -> ImportReport:
    """Of any size, packed with gzip if you like. Not all or nothing: up to 1,000 events are one
    transaction, bad lines are left out and reported, and what was stored before a fault stays. The
    same stream again stores what is missing, and doubles nothing."""
    _check_headers(request)
    mapping = LineMapping.parse(params.map, namespace=params.namespace, zone=params.timezone)
    body = _Body(request.stream())
    try:
        with faults_of("the body"):
            source = await asyncio.to_thread(unpacked, io.BufferedReader(body))
            return await import_events(
                memory, source, mapping=mapping, format=params.format, strict=params.strict
            )
    finally:
        body.abandon()


@router.get(
    "/export",
    summary="Read events as a stream",
    response_class=_JsonLines,
    responses={
        200: {
            "description": "JSON lines: a header, namespaces, events, an end.",
            "content": {NDJSON: {"schema": {"type": "string"}, "example": _EXAMPLE_END}},
        },
        **responses(InvalidInputError, InvalidTimestampError, InvalidFilterError, *DATABASE),
    },
)
async def export_stream(memory: MemoryDep, params: Annotated[ExportParams, Query()]) -> _JsonLines:
    """As they were at one moment. The last line tells their number: without it, the stream was
    cut off."""
    chunks = export_lines(memory, params.query(), with_vectors=params.vectors)
    # What is wrong with the request shows here, while it can still be answered as a problem.
    first = await anext(chunks)
    return _JsonLines(_lines(first, chunks))


async def _lines(
    first: tuple[bytes, int], chunks: AsyncIterator[tuple[bytes, int]]
) -> AsyncIterator[bytes]:
    async with aclosing(chunks):  # type: ignore[type-var]  # it is a generator
        yield first[0]
        async for chunk, _ in chunks:
            yield chunk


def _check_headers(request: Request) -> None:
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type not in _MEDIA_TYPES:
        raise UnsupportedMediaTypeError(
            "The body must be sent as JSON lines.",
            remedy=f"Send the header Content-Type: {NDJSON}.",
        )
    encoding = request.headers.get("content-encoding", "").strip().lower()
    if encoding not in _ENCODINGS:
        raise UnsupportedMediaTypeError(
            f"The body's encoding {encoding!r} is not known.", remedy="Send it plain, or as gzip."
        )


class _Body(io.RawIOBase):
    """A request's body as a file for a thread: each read waits for the client's next chunk."""

    def __init__(self, stream: AsyncIterator[bytes]) -> None:
        self._stream = stream
        self._loop = asyncio.get_running_loop()
        self._waiting: Future[bytes] | None = None
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        if not self._rest:
            self._rest = memoryview(self._next_chunk())
        size = min(len(buffer), len(self._rest))
        buffer[:size] = self._rest[:size]
        self._rest = self._rest[size:]
        return size

    def abandon(self) -> None:
        """Let go of a thread that waits for more."""
        if self._waiting is not None:
            self._waiting.cancel()

    def _next_chunk(self) -> bytes:
        self._waiting = asyncio.run_coroutine_threadsafe(self._receive(), self._loop)
        try:
            return self._waiting.result()
        except (ClientDisconnect, CancelledError) as error:
            raise OSError("the client went away") from error

    async def _receive(self) -> bytes:
        async for chunk in self._stream:
            if chunk:
                return chunk
        return b""
