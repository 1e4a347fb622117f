"""The real server with its model on another: outages degrade it, and park nothing."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.acceptance.server import ServerProcess, run, running_server
from tests.model_server import KEY, Fault, ModelServer, running_model_server


@pytest.fixture
def model() -> Iterator[ModelServer]:
    with running_model_server() as started:
        yield started


@pytest.fixture
def variables(model: ModelServer, dsn: str) -> dict[str, str]:
    return {
        "DATABASE_URL": dsn,
        "EMBEDDING_MODEL": "test/model",
        "MNEMO_EMBEDDING_PROVIDER": "remote",
        "MNEMO_EMBEDDING_PROTOCOL": "tei",
        "MNEMO_EMBEDDING_URL": model.url,
        "MNEMO_EMBEDDING_API_KEY": KEY,
        "MNEMO_EMBEDDING_RETRIES": "0",
        "MNEMO_EMBEDDING_CIRCUIT_SECONDS": "0.5",
        "MNEMO_WORKER_MAX_ATTEMPTS": "2",
        "MNEMO_WORKER_RETRY_SECONDS": "0.05",
        "MNEMO_LOG_LEVEL": "debug",
    }


@pytest.fixture
def server(tmp_path: Path, variables: dict[str, str]) -> Iterator[ServerProcess]:
    with running_server(tmp_path, variables=variables) as started:
        yield started


def queue(client: httpx.Client) -> Any:
    return client.get("/v1/stats").json()["queue"]


def wait_until(client: httpx.Client, **state: int) -> None:
    deadline = time.monotonic() + 120
    while not state.items() <= queue(client).items():
        assert time.monotonic() < deadline, queue(client)
        time.sleep(0.1)


def test_an_outage_degrades_searches_and_parks_nothing(
    server: ServerProcess, model: ModelServer, tmp_path: Path
) -> None:
    with server.client() as client:
        stored = client.post(
            "/v1/events", params={"wait": "embedded"}, json={"content": "before the outage"}
        )
        assert stored.json()["pending"] is False
        model.always = lambda texts: Fault(status=502)
        assert client.post("/v1/events", json={"content": "in the outage"}).status_code == 201
        found = client.get("/v1/search", params={"q": "outage"})
        assert found.status_code == 200
        assert found.json()["meta"]["degraded"][0]["reason"].startswith("model_unavailable")
        assert len(found.json()["data"]) == 2
        refused = client.get("/v1/search", params={"q": "outage", "mode": "vector"})
        assert (refused.status_code, refused.json()["code"]) == (503, "model_unavailable")
        time.sleep(2)  # longer than all tries of an event would take
        assert queue(client)["parked"] == 0
        model.always = lambda texts: None
        wait_until(client, pending=0)
    assert KEY not in (tmp_path / "serve.log").read_text()


def test_a_text_that_fails_is_parked_until_it_is_retried(
    server: ServerProcess, model: ModelServer, variables: dict[str, str], tmp_path: Path
) -> None:
    poison = Fault(status=500, body=b"CUDA error")
    model.always = lambda texts: poison if any("poison" in text for text in texts) else None
    with server.client() as client:
        events = [{"content": text} for text in ("one", "poison", "two")]
        client.post("/v1/events/batch", json={"events": events})
        wait_until(client, pending=1, parked=1)
        assert "CUDA error" in queue(client)["errors"][0]
        assert "\nmnemolite_queue_parked 1.0\n" in client.get("/metrics").text
        doctor = run("doctor", "--json", cwd=tmp_path, variables=variables)
        assert doctor.returncode == 1
        assert "mnemolite queue retry" in doctor.stdout
        status = run("queue", "status", cwd=tmp_path, variables=variables)
        assert "CUDA error" in status.stdout
        model.always = lambda texts: None
        retried = run("queue", "retry", "--json", cwd=tmp_path, variables=variables)
        assert '"retried": 1' in retried.stdout
        wait_until(client, pending=0, parked=0)
        assert client.post("/v1/queue/retry").json() == {"retried": 0}


def test_a_model_server_that_is_down_ends_the_start(
    variables: dict[str, str], model: ModelServer, tmp_path: Path
) -> None:
    model.stop()
    ended = run("serve", "--port", "0", cwd=tmp_path, variables=variables)
    assert ended.returncode == 1
    assert "model_unavailable" in ended.stderr
    assert "MNEMO_EMBEDDING_URL" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_until_the_model_is_loaded_the_server_says_that_it_starts(
    variables: dict[str, str], model: ModelServer, tmp_path: Path
) -> None:
    import socket
    import threading

    model.always = lambda texts: Fault(seconds=60)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    options = {"MNEMO_PORT": str(port), "MNEMO_API_KEY": "open-sesame"}
    seen: dict[str, httpx.Response] = {}

    def look() -> None:
        assert model.waiting.wait(60)
        headers = {"X-API-Key": "open-sesame"}
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=headers) as client:
            seen.update({path: client.get(path) for path in ("/health/ready", "/v1/events")})
            seen["live"] = httpx.get(f"http://127.0.0.1:{port}/health/live")
            seen["no key"] = httpx.get(f"http://127.0.0.1:{port}/health/ready")
        model.always = lambda texts: None
        model.release.set()

    looking = threading.Thread(target=look)
    looking.start()
    with running_server(tmp_path, "--port", str(port), variables=variables | options) as server:
        looking.join()
        with server.client(headers={"X-API-Key": "open-sesame"}) as client:
            assert client.get("/health/ready").status_code == 200
        assert server.stop() == 0
    assert seen["/health/ready"].status_code == 503
    assert "is being loaded" in seen["/health/ready"].json()["checks"]["model"]["detail"]
    starting = seen["/v1/events"]
    assert (starting.status_code, starting.json()["code"]) == (503, "starting")
    assert starting.headers["Retry-After"] == "1"
    assert [seen["live"].status_code, seen["no key"].status_code] == [200, 401]
