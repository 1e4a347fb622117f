"""The real server: one command, real HTTP, a clean end."""

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.acceptance.server import ServerProcess, command, environment, run, running_server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server with the packaged model and a PostgreSQL of its own."""
    folder = tmp_path_factory.mktemp("serve")
    with running_server(folder, "--data-dir", str(folder / "data"), variables={}) as started:
        yield started


def test_a_conversation_is_stored_and_the_right_turn_found(server: ServerProcess) -> None:
    texts = ["I love my pet cat", "Kittens are adorable", "My car is blue", "Dogs are loyal"]
    with server.client() as client:
        stored = client.post(
            "/v1/events/batch",
            params={"wait": "embedded"},
            json={"events": [{"content": text, "namespace": "pets"} for text in texts]},
        )
        assert {event["pending"] for event in stored.json()["data"]} == {False}
        params = {"q": "feline pets", "namespace": "pets"}
        answer = client.get("/v1/search", params=params).json()
    assert {hit["text"] for hit in answer["data"][:2]} == set(texts[:2])
    assert answer["meta"]["pending"] == 0


def test_health_is_green_part_by_part(server: ServerProcess) -> None:
    with server.client() as client:
        assert client.get("/health/live").json() == {"status": "alive"}
        for route in ("/health", "/health/ready"):
            health = client.get(route).json()
            assert health["status"] == "ok"
            assert all(check["ok"] for check in health["checks"].values())


def test_metrics_are_prometheus_text(server: ServerProcess) -> None:
    with server.client() as client:
        client.get("/v1/events/00000000-0000-0000-0000-000000000000")
        text = client.get("/metrics").text
    assert (
        'mnemolite_requests_total{method="GET",route="/v1/events/{event_id}",status="404"}' in text
    )
    for name in ("mnemolite_embedded_events_total", "mnemolite_queue_pending"):
        assert f"\n{name} " in text


def test_a_second_process_joins_the_same_memory(server: ServerProcess, tmp_path: Path) -> None:
    data_dir = server.process.args[-1]  # type: ignore[index]
    rows = [{"text": f"turn {number}", "scope": "joined"} for number in range(5)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    imported = run(
        "import", "rows.jsonl", "--map", "scope=namespace", "--data-dir", str(data_dir),
        cwd=tmp_path, variables={},
    )  # fmt: skip
    assert imported.returncode == 0, imported.stderr
    assert "Stored 5 events" in imported.stdout
    with server.client() as client:
        listed = client.get("/v1/events", params={"namespace": "joined"}).json()
        assert listed["meta"]["count"] == 5
        assert client.get("/health/ready").status_code == 200


def test_a_taken_port_is_said_at_once(server: ServerProcess, tmp_path: Path) -> None:
    port = str(httpx.URL(server.url).port)
    ended = run("serve", "--port", port, cwd=tmp_path, variables={})
    assert ended.returncode == 1
    assert "MNEMO_PORT" in ended.stderr
    assert "Address already in use" in ended.stderr


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"EMBEDDING_MODE": "fake"}, "'real' or 'mock'"),
        ({"MNEMO_HOST": "0.0.0.0"}, "MNEMO_API_KEY"),
        ({"MNEMO_PORT": "many"}, "MNEMO_PORT"),
        ({"DATABASE_URL": "postgresql://localhost:1/none"}, "database_unavailable"),
        ({"EMBEDDING_MODEL": "/no/such/model"}, "model_unavailable"),
        ({"EMBEDDING_DIMENSION": "7"}, "EMBEDDING_DIMENSION"),
    ],
)
def test_a_wrong_setting_ends_the_start(
    tmp_path: Path, variables: dict[str, str], said: str
) -> None:
    arguments = ["serve"] if "MNEMO_PORT" in variables else ["serve", "--port", "0"]
    if "DATABASE_URL" not in variables:
        arguments += ["--data-dir", str(tmp_path / "data")]
    ended = run(*arguments, cwd=tmp_path, variables=variables)
    assert ended.returncode == 1
    assert said in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_key_guards_every_route_but_one(tmp_path: Path, dsn: str) -> None:
    variables = {"DATABASE_URL": dsn, "EMBEDDING_MODE": "mock", "MNEMO_API_KEY": "öpen-sesame"}
    routes = ["/v1/events", "/v1/stats", "/health", "/health/ready", "/metrics", "/docs",
              "/openapi.json", "/nowhere"]  # fmt: skip
    with running_server(tmp_path, variables=variables) as server, server.client() as client:
        assert client.get("/health/live").status_code == 200
        for route in routes:
            refused = client.get(route)
            assert (refused.status_code, refused.json()["code"]) == (401, "unauthorized")
            assert client.get(route, headers={"X-API-Key": "guess"}).status_code == 401
            for name, value in (("X-API-Key", "öpen-sesame"),
                                ("Authorization", "Bearer öpen-sesame")):  # fmt: skip
                known = client.get(route, headers={name.encode(): value.encode()})
                assert known.status_code == (404 if route == "/nowhere" else 200)


def test_a_server_that_is_stopped_does_not_wait_for_its_streams(tmp_path: Path, dsn: str) -> None:
    variables = {"DATABASE_URL": dsn, "EMBEDDING_MODE": "mock", "MNEMO_SHUTDOWN_SECONDS": "600"}
    with running_server(tmp_path, variables=variables) as server, server.client() as client:
        with client.stream("GET", "/v1/events/stream") as stream:
            lines = stream.iter_lines()
            assert next(lines).startswith("retry:")
            assert server.stop() == 0
            assert "event: ready" in list(lines)
        assert "ERROR" not in (tmp_path / "serve.log").read_text().upper()


def test_another_model_than_the_databases_is_refused(tmp_path: Path, dsn: str) -> None:
    mock = {"DATABASE_URL": dsn, "EMBEDDING_MODE": "mock"}
    with running_server(tmp_path, variables=mock) as server, server.client() as client:
        client.post("/v1/events", json={"content": "embedded by the mock"})
        assert server.stop() == 0
    ended = run("serve", "--port", "0", cwd=tmp_path, variables={"DATABASE_URL": dsn})
    assert ended.returncode == 1
    assert "model_mismatch" in ended.stderr
    assert "Set the model back" in ended.stderr


def test_torch_is_never_imported(tmp_path: Path) -> None:
    import subprocess

    program = (
        "import sys, mnemolite.app, mnemolite.cli, mnemolite.worker;"
        "from mnemolite.embeddings import create_embedder;"
        "from mnemolite.settings import Settings;"
        "create_embedder(Settings.load().embedding);"
        "sys.exit('torch' in sys.modules)"
    )
    python = command()[0]
    subprocess.run([python, "-c", program], check=True, env=environment(), cwd=tmp_path)
