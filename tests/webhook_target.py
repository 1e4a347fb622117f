"""A real HTTP server on this machine that takes what webhooks send, or misbehaves as it is told."""

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Received:
    """One request as it came."""

    path: str
    headers: dict[str, str]  # by their names in lower case
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def text(self) -> str | None:
        """The text of the event that is told."""
        said: str | None = self.json["data"].get("text")
        return said


@dataclass(frozen=True)
class Reply:
    """How to answer. A status of 0 closes the connection without a word."""

    status: int = 204
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    hang: bool = False  # until the server ends


class WebhookTarget:
    """Notes every request; ``reply`` says how it is answered, and may block."""

    def __init__(self) -> None:
        self.received: list[Received] = []
        self.reply: Callable[[Received], Reply] = lambda _: Reply()
        self.ended = threading.Event()
        self._changed = threading.Condition()
        self._server = _Server(self)
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}/hook?from=memory"

    def take(self, received: Received) -> Reply:
        with self._changed:
            self.received.append(received)
            self._changed.notify_all()
        return self.reply(received)

    def wait_for(self, enough: Callable[["WebhookTarget"], bool], seconds: float = 30) -> None:
        """Wait until what was received is enough."""
        with self._changed:
            assert self._changed.wait_for(lambda: enough(self), seconds), self.received

    @property
    def texts(self) -> list[str | None]:
        return [one.text for one in list(self.received)]

    @contextmanager
    def running(self) -> Iterator["WebhookTarget"]:
        thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self.ended.set()
            self._server.shutdown()
            self._server.server_close()
            thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, target: WebhookTarget) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.target = target

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A caller that was killed in the middle is no fault of ours."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        headers = {name.lower(): value for name, value in self.headers.items()}
        reply = self.server.target.take(Received(self.path, headers, body))
        if reply.hang:
            self.server.target.ended.wait()
        if reply.hang or not reply.status:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        if reply.status != 204:
            self.send_header("Content-Length", str(len(reply.body)))
        self.end_headers()
        self.wfile.write(reply.body)

    def log_message(self, format: str, *args: Any) -> None:
        """Tests read what was received instead."""
