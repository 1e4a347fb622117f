"""The server: one process with the REST interface and, by default, a worker."""

import asyncio
import contextlib
import hmac
import math
import signal
import socket
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import structlog
import uvicorn
from fastapi import FastAPI, Security
from fastapi.exceptions import RequestValidationError
from fastapi.security import APIKeyHeader, HTTPBearer
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mnemolite import metrics
from mnemolite.api import OPEN_ROUTER, ROUTERS
from mnemolite.api.feed import EVENT_STREAM
from mnemolite.api.problems import (
    move_problems,
    on_error,
    on_http_exception,
    on_validation_error,
    respond,
)
from mnemolite.courier import running_courier
from mnemolite.errors import MnemoliteError, SettingsError, StartingError, UnauthorizedError
from mnemolite.memory import VERSION, Memory
from mnemolite.models import Check, Health
from mnemolite.settings import ServerSettings, Settings
from mnemolite.worker import running_worker

log = structlog.get_logger(__name__)

LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
_OPEN_ROUTE = "/health/live"
_DESCRIPTION = (
    "A long-term memory for LLM agents: every event kept exactly, found by meaning, words, time "
    "and metadata, dated and deletable."
)


def check_exposure(settings: ServerSettings) -> None:
    """Refuse to listen where others can reach the memory without a key."""
    if settings.host not in LOOPBACK and settings.api_key is None:
        raise SettingsError(
            f"Listening on {settings.host} would show the memory to others.",
            field="MNEMO_HOST",
            remedy="Set MNEMO_API_KEY (8 characters at least), or listen on 127.0.0.1.",
        )


async def serve(settings: Settings) -> None:
    """Listen, open the memory, and work until SIGINT or SIGTERM.

    Until the memory is open, `/health/live` answers and everything else is 503. Whatever keeps the
    service from being whole (database, schema, model, port) ends it here.
    """
    check_exposure(settings.server)
    with _bind(settings.server) as listener:
        url = _url(listener)
        log.info("listening", address=url.removeprefix("http://"), state="starting")
        gate = Gate(settings)
        config = uvicorn.Config(
            gate,
            log_config=None,
            access_log=False,
            lifespan="off",
            timeout_graceful_shutdown=math.ceil(settings.server.shutdown_seconds),
        )
        server = _Server(config, gate)
        listening = asyncio.create_task(server.serve(sockets=[listener]), name="server")
        working = asyncio.create_task(_work(settings, gate, url=url, until=listening))
        await asyncio.wait([listening, working], return_when=asyncio.FIRST_COMPLETED)
        if listening.done() and not gate.is_open:  # told to stop while it was starting
            working.cancel()
        await asyncio.wait([working])
        server.should_exit = True
        await listening
        if not working.cancelled():
            working.result()


async def _work(settings: Settings, gate: "Gate", *, url: str, until: asyncio.Task[None]) -> None:
    """Open the memory, let requests in, and close it once the server has ended."""
    async with Memory.open(settings) as memory:
        app = create_app(memory)
        async with app.router.lifespan_context(app):
            gate.open(app)
            space = memory.space
            log.info("ready", url=url, version=VERSION, model=space.model, space=space.id)
            await asyncio.wait([until])


def create_app(memory: Memory) -> FastAPI:
    """The application over an open memory; its worker runs as long as the application."""
    app = _App(
        title="MnemoLite",
        version=VERSION,
        description=_DESCRIPTION,
        lifespan=_lifespan,
        redoc_url=None,
    )
    app.state.memory = memory
    app.state.settings = memory.settings
    documented = [
        Security(HTTPBearer(auto_error=False)),
        Security(APIKeyHeader(name="X-API-Key", auto_error=False)),
    ]
    for router in ROUTERS:
        app.include_router(router, dependencies=documented)
    app.include_router(OPEN_ROUTER)
    app.add_exception_handler(MnemoliteError, on_error)
    app.add_exception_handler(RequestValidationError, on_validation_error)
    app.add_exception_handler(HTTPException, on_http_exception)
    app.add_exception_handler(Exception, _on_crash)
    app.add_middleware(KeyMiddleware, settings=memory.settings.server)
    app.add_middleware(MetricsMiddleware)
    return app


class _App(FastAPI):
    """FastAPI whose description calls a problem by its own media type."""

    def openapi(self) -> dict[str, Any]:
        document = super().openapi()
        move_problems(document)
        return document


@contextlib.asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    memory: Memory = app.state.memory
    if not memory.settings.worker.in_server:
        yield
        return
    async with running_worker(memory), running_courier(memory):
        yield


class Gate:
    """Stands before the application while the memory is being opened, and says so."""

    def __init__(self, settings: Settings) -> None:
        self._app: FastAPI | None = None
        self._starting = KeyMiddleware(self._refuse, settings.server)
        model = settings.embedding.model if settings.embedding.mode == "real" else "mock"
        self._reasons = {
            "model": f"{model} is being loaded",
            "database": "is being opened and brought up to date",
        }

    @property
    def is_open(self) -> bool:
        """Whether requests reach the application."""
        return self._app is not None

    def open(self, app: FastAPI) -> None:
        """Let requests through to the application."""
        self._app = app

    def end_streams(self) -> None:
        """Let the answers end that would go on for ever."""
        if self._app is not None:
            self._app.state.memory.feed.end_readers()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: PLR0917 (ASGI)
        await (self._app or self._starting)(scope, receive, send)

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: PLR0917 (ASGI)
        response: Response
        if scope["type"] != "http":
            return
        if scope["path"] == _OPEN_ROUTE:
            response = JSONResponse({"status": "alive"})
        elif scope["path"] in ("/health", "/health/ready"):
            checks = {
                name: Check(ok=False, detail=reason) for name, reason in self._reasons.items()
            }
            health = Health(status="not_ready", version=VERSION, checks=checks)
            response = JSONResponse(health.model_dump(), status_code=503)
        else:
            response = respond(StartingError(retry_after=1))
        await response(scope, receive, send)


class _Server(uvicorn.Server):
    """Uvicorn that a signal ends without killing the process, and that ends streams first."""

    def __init__(self, config: uvicorn.Config, gate: Gate) -> None:
        super().__init__(config)
        self._gate = gate

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._gate.end_streams()  # it would wait for them until its time is up
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        # The memory is closed after the server; uvicorn would raise the signal again before that.
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        try:
            yield
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)


def _bind(settings: ServerSettings) -> socket.socket:
    """Take the port before anything else is started. Raises SettingsError if it is taken."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    # Only of sockets that are TCP by name does asyncio turn Nagle's algorithm off; with it, every
    # second answer would wait 40 ms for an acknowledgement.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((settings.host, settings.port))
    except OSError as error:
        listener.close()
        raise SettingsError(
            f"Cannot listen on {settings.host}:{settings.port}: {error.strerror}.",
            field="MNEMO_PORT",
            remedy="Stop what listens there, or choose another port with --port.",
        ) from error
    return listener


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


async def _on_crash(_: Request, error: Exception) -> Response:
    """A top-level handler: what nobody foresaw is logged whole and answered without details."""
    log.error("request_crashed", exc_info=error)
    return respond(MnemoliteError())


class KeyMiddleware:
    """Refuses every request without the server's key, if it has one."""

    def __init__(self, app: ASGIApp, settings: ServerSettings) -> None:
        self._app = app
        key = settings.api_key
        self._key = None if key is None else key.get_secret_value().encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: PLR0917 (ASGI)
        if scope["type"] != "http" or scope["path"] == _OPEN_ROUTE or self._is_known(scope):
            await self._app(scope, receive, send)
            return
        error = UnauthorizedError(remedy="Send the header Authorization: Bearer <MNEMO_API_KEY>.")
        await respond(error)(scope, receive, send)

    def _is_known(self, scope: Scope) -> bool:
        if self._key is None:
            return True
        headers = Headers(scope=scope)
        scheme, _, token = headers.get("authorization", "").partition(" ")
        given = token.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
        # The comparison takes as long for a good guess as for a bad one.
        return hmac.compare_digest(given.encode("latin-1"), self._key)


class MetricsMiddleware:
    """Counts and times requests by route, never by path: paths hold ids."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: PLR0917 (ASGI)
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        status, streamed = 500, False

        async def observed_send(message: Message) -> None:
            nonlocal status, streamed
            if message["type"] == "http.response.start":
                status = message["status"]
                # How long a client listens says nothing of how fast it was answered.
                streamed = Headers(raw=message["headers"]).get("content-type") == EVENT_STREAM
            await send(message)

        try:
            await self._app(scope, receive, observed_send)
        finally:
            route = getattr(scope.get("route"), "path", "none")
            method = scope["method"]
            metrics.REQUESTS.labels(method, route, str(status)).inc()
            if not streamed:
                metrics.REQUEST_SECONDS.labels(method, route).observe(time.perf_counter() - started)
