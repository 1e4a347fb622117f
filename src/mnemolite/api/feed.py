"""The route of the change feed: server-sent events."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import suppress
from typing import Annotated

from fastapi import APIRouter, Header, Query, Response
from pydantic import Field
from starlette.types import Receive, Scope, Send

from mnemolite import metrics
from mnemolite.api.deps import MemoryDep, build, parse_where
from mnemolite.api.events import EXAMPLE_EVENT
from mnemolite.api.problems import DATABASE, problem_of, responses
from mnemolite.errors import (
    CursorGoneError,
    InvalidCursorError,
    InvalidFilterError,
    InvalidInputError,
    InvalidTextError,
    InvalidTimestampError,
    MnemoliteError,
    SlowReaderError,
    TooManyStreamsError,
)
from mnemolite.feed import Reader, Told
from mnemolite.models import FeedOptions, FeedQuery

EVENT_STREAM = "text/event-stream"

router = APIRouter(prefix="/v1/events/stream", tags=["events"])

_RECONNECT_MILLISECONDS = 1000
_PIECE_CHARACTERS = 64 * 1024
_LAST_WORD_SECONDS = 1.0
# Without an empty line behind it, which some clients would take for a message.
_KEEP_ALIVE = ": keep-alive\n"
# Ends of a line to some clients, though not to the standard; JSON may escape any character.
_LINE_ENDS = {0x85: "\\u0085", 0x2028: "\\u2028", 0x2029: "\\u2029"}
_EXAMPLE_STREAM = (
    'retry: 1000\nid: 5f3a9c01-812-0\nevent: ready\ndata: {"cursor":"5f3a9c01-812-0"}\n\n'
    f"id: 5f3a9c01-812-57\nevent: added\ndata: {json.dumps(EXAMPLE_EVENT)}\n\n"
)


class StreamParams(FeedOptions):
    """A part of the feed, as a query string."""

    where: str | None = Field(None, description='Filter as JSON text, such as {"user": "ada"}.')

    def query(self, last_event_id: str | None) -> FeedQuery:
        """The query; a client that comes back wins over what its address says."""
        after = {"after": last_event_id} if last_event_id else {}
        return build(FeedQuery, self.model_dump() | {"where": parse_where(self.where)} | after)


LastEventId = Annotated[
    str | None,
    Header(
        alias="Last-Event-ID",
        description="Of a client that comes back: the id of the last message it got.",
    ),
]


@router.get(
    "",
    summary="Follow what becomes of events",
    response_class=Response,
    responses={
        200: {
            "description": "Server-sent events, until the client leaves.",
            "content": {EVENT_STREAM: {"example": _EXAMPLE_STREAM}},
        },
        **responses(
            InvalidInputError,
            InvalidTextError,
            InvalidTimestampError,
            InvalidFilterError,
            InvalidCursorError,
            CursorGoneError,
            TooManyStreamsError,
            *DATABASE,
        ),
    },
)
async def stream_events(
    memory: MemoryDep,
    params: Annotated[StreamParams, Query()],
    *,
    last_event_id: LastEventId = None,
) -> Response:
    """Each change once: `added` and `changed` with the event, `deleted` with its id. A client that
    comes back with `Last-Event-ID` misses nothing."""
    reader = await memory.feed.read(params.query(last_event_id))
    return EventStream(reader)


class EventStream(Response):
    """An answer that goes on until the reader is closed or the client leaves."""

    media_type = EVENT_STREAM

    def __init__(self, reader: Reader) -> None:
        super().__init__(
            headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
            media_type=self.media_type,
        )
        # Neither a length nor a charset: the stream is UTF-8 by its standard.
        del self.headers["content-length"]
        self.headers["content-type"] = EVENT_STREAM
        self._reader = reader

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: PLR0917 (ASGI)
        writing = asyncio.create_task(self._write(send))
        ends = [asyncio.create_task(end) for end in (_departure(receive), self._reader.ended())]
        try:
            await asyncio.wait([writing, *ends], return_when=asyncio.FIRST_COMPLETED)
            if self._reader.closed:  # the server ends; a client that takes nothing must not hold it
                await asyncio.wait([writing], timeout=_LAST_WORD_SECONDS)
        finally:
            self._reader.close()
            for task in (writing, *ends):
                task.cancel()
            await asyncio.wait([writing, *ends])
        if not writing.cancelled():
            writing.result()

    async def _write(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        settings = self._reader.settings
        try:
            async for text in _texts(self._reader, settings.keep_alive_seconds):
                await _send(send, text, within=settings.stall_seconds)
        except MnemoliteError as error:
            metrics.FEED_DROPPED.labels(error.code).inc()
            problem = problem_of(error).model_dump_json(exclude_none=True)
            with suppress(SlowReaderError):
                await _send(send, _message("error", problem), within=_LAST_WORD_SECONDS)
        with suppress(SlowReaderError):
            await _send(send, "", within=_LAST_WORD_SECONDS, more=False)


async def _send(send: Send, text: str, *, within: float, more: bool = True) -> None:
    try:
        async with asyncio.timeout(within):
            body = text.encode()
            await send({"type": "http.response.body", "body": body, "more_body": more})
    except TimeoutError:
        raise SlowReaderError(
            remedy="Take what is sent at once, and go on with the last id that arrived."
        ) from None


async def _texts(reader: Reader, keep_alive_seconds: float) -> AsyncIterator[str]:
    """What the stream says, a piece at a time."""
    said = reader.cursor
    yield f"retry: {_RECONNECT_MILLISECONDS}\n" + _position("ready", said)
    spoken = time.monotonic()
    while not reader.closed:
        silence = time.monotonic() - spoken
        told = await reader.next(max(0.0, keep_alive_seconds - silence))
        for text in _pieces(told):
            yield text
        if told:
            said, spoken = told[-1].change.cursor, time.monotonic()
        elif time.monotonic() - spoken >= keep_alive_seconds:
            # A client whose filter lets little through moves on all the same.
            yield _KEEP_ALIVE if reader.cursor == said else _position("position", reader.cursor)
            said, spoken = reader.cursor, time.monotonic()


def _pieces(told: Sequence[Told]) -> Iterator[str]:
    """The messages of the changes, joined up to a size."""
    piece, size = list[str](), 0
    for change in told:
        piece.append(_message(change.change.kind, change.data, id=change.change.cursor))
        size += len(piece[-1])
        if size >= _PIECE_CHARACTERS:
            yield "".join(piece)
            piece, size = [], 0
    if piece:
        yield "".join(piece)


def _position(event: str, cursor: str) -> str:
    return _message(event, json.dumps({"cursor": cursor}), id=cursor)


def _message(event: str, data: str, *, id: str | None = None) -> str:
    head = f"id: {id}\n" if id else ""
    return f"{head}event: {event}\ndata: {data.translate(_LINE_ENDS)}\n\n"


async def _departure(receive: Receive) -> None:
    """Return when the client has left."""
    while (await receive())["type"] != "http.disconnect":
        pass
