"""Requests to targets: to the address that was checked, for the name that was asked for."""

import shutil
import ssl
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from mnemolite.posting import Poster
from tests.webhook_target import Reply, WebhookTarget

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def target() -> Iterator[WebhookTarget]:
    with WebhookTarget().running() as running:
        yield running


async def test_a_connection_is_made_to_the_address_and_for_the_name(target: WebhookTarget) -> None:
    url = f"http://localhost:{target.port}/x"
    async with Poster(url, seconds=20, allow_private=True) as poster:
        answer = await poster.post(b"{}", {"webhook-id": "1"})
    assert answer.status == 204
    (received,) = target.received
    assert received.headers["host"] == f"localhost:{target.port}"
    assert received.headers["webhook-id"] == "1"


async def test_an_address_inside_is_not_connected_to(target: WebhookTarget) -> None:
    for host in ("127.0.0.1", "localhost", "2130706433"):
        url = f"http://{host}:{target.port}/"
        async with Poster(url, seconds=20, allow_private=False) as poster:
            answer = await poster.post(b"{}", {})
        assert (answer.taken, answer.away, answer.status) == (False, True, None)
    assert target.received == []


async def test_proxies_of_the_environment_are_not_asked(
    target: WebhookTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    async with Poster(target.url, seconds=20, allow_private=True) as poster:
        assert (await poster.post(b"{}", {})).taken


async def test_cookies_and_redirects_lead_nowhere(target: WebhookTarget) -> None:
    target.reply = lambda _: Reply(307, {"Location": target.url, "Set-Cookie": "a=b"})
    async with Poster(target.url, seconds=20, allow_private=True) as poster:
        for _ in range(2):
            answer = await poster.post(b"{}", {})
            assert answer.error == "The target answered 307; redirects are not followed."
    assert len(target.received) == 2
    assert not any("cookie" in received.headers for received in target.received)


@pytest.mark.parametrize(
    ("value", "seconds"), [("7", 7.0), ("9" * 400, 86_400.0), ("soon", 0.0), ("-5", 0.0)]
)
async def test_how_long_a_target_wants_to_be_left_alone(
    target: WebhookTarget, value: str, seconds: float
) -> None:
    target.reply = lambda _: Reply(503, {"Retry-After": value})
    async with Poster(target.url, seconds=20, allow_private=True) as poster:
        assert (await poster.post(b"{}", {})).retry_after_seconds == seconds


# --- Certificates -------------------------------------------------------------------------------


class _Taker(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.send_response(204)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing is read of it."""


def certificate(folder: Path, name: str) -> Path:
    """A certificate that signs itself, with its key, for a name."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed")
    path = folder / f"{name}.pem"
    command = [
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-subj",
        f"/CN={name}",
    ]
    names = ["-addext", f"subjectAltName=DNS:{name}", "-keyout", f"{path}.key", "-out", str(path)]
    subprocess.run([openssl, *command, *names], check=True, capture_output=True)
    return path


@pytest.mark.parametrize("name", ["localhost", "elsewhere.example"])
async def test_the_certificate_must_be_the_names(tmp_path: Path, name: str) -> None:
    path = certificate(tmp_path, name)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path, f"{path}.key")
    asked_for: list[str | None] = []
    context.sni_callback = lambda _, said, __: asked_for.append(said)
    with HTTPServer(("127.0.0.1", 0), _Taker) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        url = f"https://localhost:{server.server_address[1]}/"
        trust = ssl.create_default_context(cafile=path)
        async with Poster(url, seconds=20, allow_private=True, trust=trust) as poster:
            answer = await poster.post(b"{}", {})
        server.shutdown()
        thread.join()
    assert asked_for == ["localhost"]
    assert answer.taken == (name == "localhost"), answer.error
