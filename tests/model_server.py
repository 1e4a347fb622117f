"""A real model server for tests: three protocols, deterministic vectors, faults on demand."""

import base64
import json
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np

from mnemolite.embeddings import Vectors
from mnemolite.embeddings.mock import MockEmbedder
from mnemolite.settings import EmbeddingSettings

KEY = "sk-very-secret-0815"
DIMENSION = 32


class Fault:
    """One answer that is not what it should be."""

    def __init__(
        self,
        *,
        status: int = 200,
        headers: dict[str, str] | None = None,
        body: bytes | None = None,
        change: Callable[[list[Any]], list[Any]] | None = None,
        seconds: float = 0,
        cut_off: bool = False,
    ) -> None:
        self.status, self.headers, self.body = status, headers or {}, body
        self.change, self.seconds, self.cut_off = change, seconds, cut_off


class ModelServer:
    """Answers with the vectors of the mock, or with the faults it was given, one a request."""

    def __init__(self) -> None:
        self.dimension = DIMENSION
        self._mock = MockEmbedder(DIMENSION)
        self.faults: deque[Fault] = deque()
        self.always: Callable[[Sequence[str]], Fault | None] = lambda texts: None
        self.as_base64 = False
        self.requests: list[list[str]] = []
        self.keys: set[str | None] = set()
        self.waiting = threading.Event()
        self.release = threading.Event()
        self._lock = threading.Lock()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_port}"

    def stop(self) -> None:
        self.release.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def settings(self, **changes: Any) -> EmbeddingSettings:
        """Settings of a provider that asks this server, without long waits."""
        values: dict[str, Any] = {
            "mode": "real",
            "provider": "remote",
            "model": "test/model",
            "dimension": None,
            "url": self.url,
            "timeout_seconds": 20,
            "retries": 2,
            "circuit_seconds": 0.2,
        }
        return EmbeddingSettings(**(values | changes))

    def take(self, texts: Sequence[str]) -> Fault | None:
        """Write down a request; the fault it shall meet."""
        with self._lock:
            self.requests.append(list(texts))
            return self.always(texts) or (self.faults.popleft() if self.faults else None)

    def vectors(self, texts: Sequence[str]) -> Vectors:
        if self._mock.info.dimension != self.dimension:
            self._mock = MockEmbedder(self.dimension)
        return self._mock.embed(texts, "document")

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(_Handler):
            model_server = server

        return Handler


class _Handler(BaseHTTPRequestHandler):
    model_server: ModelServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        metadata = {
            "name": "test/model",
            "inputs": [{"name": "TEXT", "datatype": "BYTES", "shape": [-1, 1]}],
            "outputs": [{"name": "VECTOR", "datatype": "FP32", "shape": [-1, DIMENSION]}],
        }
        known = self.path == "/v2/models/test%2Fmodel"
        self._send(200 if known else 404, json.dumps(metadata).encode())

    def do_POST(self) -> None:
        server = self.model_server
        server.keys.add(self.headers.get("Authorization"))
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        texts = self._texts(body)
        if texts is None:
            self._send(404, b"no such path")
            return
        fault = server.take(texts) or Fault()
        if fault.seconds:
            server.waiting.set()
            server.release.wait(fault.seconds)
        rows = [[float(number) for number in row] for row in server.vectors(texts)]
        answer = json.dumps(self._answer(rows, fault)).encode()
        self._send(fault.status, fault.body or answer, fault=fault)

    def _texts(self, body: Any) -> list[str] | None:
        if self.path == "/v1/embeddings":
            return list(body["input"])
        if self.path == "/embed":
            return list(body["inputs"])
        if self.path == "/v2/models/test%2Fmodel/infer":
            (tensor,) = body["inputs"]
            assert (tensor["name"], tensor["datatype"]) == ("TEXT", "BYTES")
            assert tensor["shape"] == [len(tensor["data"]), 1]
            return list(tensor["data"])
        return None

    def _answer(self, rows: list[Any], fault: Fault) -> Any:
        if self.path == "/embed":
            return fault.change(rows) if fault.change else rows
        if self.path == "/v1/embeddings":
            written: list[Any] = rows
            if self.model_server.as_base64:
                packed = (np.asarray(row, "<f4").tobytes() for row in rows)
                written = [base64.b64encode(row).decode() for row in packed]
            items = [{"index": n, "embedding": row} for n, row in enumerate(written)]
            return {"object": "list", "data": fault.change(items) if fault.change else items}
        flat = [number for row in rows for number in row]
        output = {"name": "VECTOR", "datatype": "FP32", "shape": [len(rows), len(rows[0])]}
        changed = fault.change(flat) if fault.change else flat
        return {"model_name": "test/model", "outputs": [output | {"data": changed}]}

    def _send(self, status: int, body: bytes, *, fault: Fault | None = None) -> None:
        self.send_response(status)
        for name, value in (fault.headers if fault else {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if fault and fault.cut_off:
            self.wfile.write(body[: len(body) // 2])
            self.close_connection = True
            return
        self.wfile.write(body)


@contextmanager
def running_model_server() -> Iterator[ModelServer]:
    """A model server that is stopped when the block ends."""
    server = ModelServer()
    try:
        yield server
    finally:
        server.stop()
