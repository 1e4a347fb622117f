"""Readiness and back-pressure as a load balancer and a client see them, over real HTTP."""

import subprocess
import time
from pathlib import Path
from typing import Any

import httpx
import psycopg

from tests.acceptance.server import command, environment, running_server

LIMIT = 20


def wait_for(client: httpx.Client, status: int) -> Any:
    """The checks once readiness answers with that status."""
    for _ in range(600):
        answer = client.get("/health/ready")
        if answer.status_code == status:
            return answer.json()["checks"]
        time.sleep(0.1)
    raise AssertionError(answer.text)


def red(checks: Any) -> list[str]:
    return [name for name, check in checks.items() if not check["ok"]]


def test_a_server_without_worker_fills_up_turns_red_and_recovers(tmp_path: Path, dsn: str) -> None:
    variables = {
        "DATABASE_URL": dsn,
        "EMBEDDING_MODE": "mock",
        "MNEMO_WORKER_IN_SERVER": "false",
        "MNEMO_READY_MAX_IDLE_SECONDS": "1",
        "MNEMO_MAX_PENDING": str(LIMIT),
    }
    with running_server(tmp_path, variables=variables) as server, server.client() as client:
        wait_for(client, 200)
        for number in range(LIMIT):
            client.post("/v1/events", json={"content": f"event {number}"}).raise_for_status()
        assert red(wait_for(client, 503)) == ["workers"]
        refused = client.post("/v1/events", json={"content": "one more"})
        assert (refused.status_code, refused.json()["code"]) == (503, "queue_full")
        assert int(refused.headers["Retry-After"]) >= 1
        with psycopg.connect(dsn) as connection:
            assert connection.execute("SELECT count(*) FROM events").fetchone() == (LIMIT,)

        worker = subprocess.Popen(command("worker"), env=environment(**variables), cwd=tmp_path)
        try:
            wait_for(client, 200)
            (seen,) = client.get("/v1/stats").json()["workers"]
            assert seen["pid"] == worker.pid
            assert "mnemolite_workers 1.0" in client.get("/metrics").text
            time.sleep(1)  # a count is as old as that at most
            assert client.post("/v1/events", json={"content": "one more"}).status_code == 201
        finally:
            worker.terminate()
            assert worker.wait(60) == 0
