"""What kill -9 must not break: every change is told at least once, whoever was telling it."""

import contextlib
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import psycopg

from tests.acceptance.server import ServerProcess
from tests.webhook_target import Received, Reply, WebhookTarget

EVENTS = 60
KILLS = 2
VARIABLES = {
    "EMBEDDING_MODE": "mock",
    "MNEMO_WEBHOOK_ALLOW_PRIVATE": "true",
    # The lease is twice as long and two seconds: what a killed process held waits for its end.
    "MNEMO_WEBHOOK_TIMEOUT_SECONDS": "3",
    "MNEMO_WEBHOOK_POLL_SECONDS": "0.1",
    "MNEMO_WEBHOOK_RETRY_SECONDS": "0.1",
    "MNEMO_WEBHOOK_PARALLEL": "4",
}


class _Sluggish:
    """Takes some time for each request, so that there are many moments in the middle of one."""

    def __init__(self) -> None:
        self.under_way = threading.Semaphore(0)

    def __call__(self, received: Received) -> Reply:
        self.under_way.release()
        time.sleep(0.05)
        return Reply()


def _write(url: str, number: int, *, key: str) -> None:
    event = {"content": f"event {number}", "session": "s"}
    for _ in range(600):
        with contextlib.suppress(httpx.TransportError):
            answer = httpx.post(
                f"{url}/v1/events", json=event, headers={"Idempotency-Key": key}, timeout=30
            )
            if answer.status_code == 201:
                return
        time.sleep(0.05)
    raise AssertionError("the server takes no events")


def _pending(sql: "psycopg.Connection[tuple[Any, ...]]") -> int:
    query = (
        "SELECT (SELECT count(*) FROM webhook_deliveries WHERE status = 'pending') + "
        "(SELECT count(*) FROM webhooks w JOIN event_changes c ON (c.xid, c.n) > (w.xid, w.n))"
    )
    row = sql.execute(query.encode()).fetchone()
    assert row is not None
    return int(row[0])


def _add_webhook(server: ServerProcess, target: WebhookTarget) -> None:
    body = {"url": target.url, "kinds": ["added"]}
    with server.client() as client:
        answer = client.post("/v1/webhooks", json=body)
    assert answer.status_code == 201, answer.text
    assert answer.json()["secret"].startswith("whsec_")


def test_each_change_is_told_at_least_once_across_kills(tmp_path: Path, dsn: str) -> None:
    variables = VARIABLES | {"DATABASE_URL": dsn}
    target = WebhookTarget()
    sluggish = target.reply = _Sluggish()
    with target.running():
        # Two processes share the work; the first is killed again and again, in a request.
        first = ServerProcess(tmp_path / "first.log", variables=variables)
        second = ServerProcess(tmp_path / "second.log", variables=variables)
        try:
            _add_webhook(first, target)
            for number in range(EVENTS):
                _write(second.url, number, key=str(number))
                if number % (EVENTS // KILLS) == EVENTS // KILLS // 2:
                    assert sluggish.under_way.acquire(timeout=60)
                    first.kill()
                    first = ServerProcess(tmp_path / "first.log", variables=variables)
            second.kill()
            with psycopg.connect(dsn, autocommit=True) as sql:
                for _ in range(1200):
                    if not _pending(sql):
                        break
                    time.sleep(0.05)
                assert _pending(sql) == 0
                dead = sql.execute("SELECT FROM webhook_deliveries WHERE status <> 'delivered'")
                assert dead.fetchall() == []
        finally:
            for server in (first, second):
                if server.process.poll() is None:
                    server.kill()
    told = [str(text) for text in target.texts]
    assert set(told) == {f"event {number}" for number in range(EVENTS)}
    ids = {one.headers["webhook-id"] for one in target.received}
    assert len(ids) == EVENTS, "a delivery that is repeated keeps its id"
