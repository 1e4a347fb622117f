"""A model hub over HTTP for tests: one repository, as much of the interface as a download needs."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "d" * 40


class _Hub(ThreadingHTTPServer):
    model: str
    folder: Path
    fetched: list[str]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Hub

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        api, files = f"/api/models/{self.server.model}", f"/{self.server.model}/resolve/"
        if path.startswith(f"{api}/tree/"):
            self._send_json([self._entry(name) for name in self._names()])
        elif path.startswith(api):
            siblings = [{"rfilename": name} for name in self._names()]
            self._send_json({"id": self.server.model, "sha": COMMIT, "siblings": siblings})
        elif path.startswith(files):
            self._send_file(path.removeprefix(files).partition("/")[2])
        else:
            self._send_json({"error": "no such repository"}, status=404, error="RepoNotFound")

    def _names(self) -> list[str]:
        files = (path for path in self.server.folder.rglob("*") if path.is_file())
        return [path.relative_to(self.server.folder).as_posix() for path in files]

    def _entry(self, name: str) -> dict[str, Any]:
        content = (self.server.folder / name).read_bytes()
        oid = hashlib.sha256(content).hexdigest()[:40]
        return {"type": "file", "path": name, "size": len(content), "oid": oid}

    def _send_file(self, name: str) -> None:
        if self.command == "GET":
            self.server.fetched.append(name)
        body = (self.server.folder / name).read_bytes()
        self._send(body, {"ETag": f'"{self._entry(name)["oid"]}"', "X-Repo-Commit": COMMIT})

    def _send_json(self, content: object, *, status: int = 200, error: str = "") -> None:
        headers = {"Content-Type": "application/json"} | ({"X-Error-Code": error} if error else {})
        self._send(json.dumps(content).encode(), headers, status=status)

    def _send(self, body: bytes, headers: dict[str, str], *, status: int = 200) -> None:
        self.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(body))}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: the tests ask what was fetched."""


@contextmanager
def running_hub(model: str, folder: Path) -> Iterator[tuple[str, list[str]]]:
    """The hub's address, and the names of the files that have been fetched from it."""
    server = _Hub(("127.0.0.1", 0), _Handler)
    server.model, server.folder, server.fetched = model, folder, []
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", server.fetched
    finally:
        server.shutdown()
        server.server_close()
