"""`mnemolite webhooks` as somebody at a terminal uses it."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from mnemolite.signing import key_of, new_secret
from tests.acceptance.server import run, running_server
from tests.webhook_target import WebhookTarget


@pytest.fixture
def variables(dsn: str) -> dict[str, str]:
    return {
        "DATABASE_URL": dsn,
        "EMBEDDING_MODE": "mock",
        "MNEMO_WEBHOOK_ALLOW_PRIVATE": "true",
        "MNEMO_WEBHOOK_POLL_SECONDS": "0.1",
    }


@pytest.fixture
def target() -> Iterator[WebhookTarget]:
    with WebhookTarget().running() as running:
        yield running


def test_a_webhook_is_added_told_and_removed(
    tmp_path: Path, variables: dict[str, str], target: WebhookTarget
) -> None:
    def said(*arguments: str) -> str:
        ended = run("webhooks", *arguments, cwd=tmp_path, variables=variables)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    own = new_secret()
    (tmp_path / "secret").write_text(own + "\n")
    webhook, secret = said("add", target.url).split()
    assert key_of(secret)
    added = json.loads(said("add", target.url, "--secret-file", "secret", "--json", "-n", "other"))
    assert added["secret"] == own
    with running_server(tmp_path, variables=variables) as server, server.client() as client:
        assert client.post("/v1/events", json={"content": "hello"}).status_code == 201
        target.wait_for(lambda at: len(at.received) == 1)
        while " delivered " not in (log := said("deliveries", webhook)):
            pass
    assert " added " in log
    assert target.texts == ["hello"]
    page = json.loads(said("deliveries", webhook, "--json", "--status", "delivered"))
    assert [one["response_status"] for one in page["data"]] == [204]
    assert "disabled" in said("disable", webhook)
    assert json.loads(said("show", webhook, "--json"))["enabled"] is False
    assert "enabled: False" in said("show", webhook)
    assert json.loads(said("enable", webhook, "--json"))["enabled"] is True
    assert json.loads(said("retry", webhook, "--json")) == {"retried": 0}
    assert secret not in said("list") + said("list", "--json") + said("show", webhook, "--json")
    said("remove", webhook)
    lines = said("list", "--json").splitlines()
    assert [json.loads(line)["id"] for line in lines] == [added["id"]]
    for number in ("serve.log",):
        assert secret not in (tmp_path / number).read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("add", "ftp://example.com"), "url"),
        (("add", "http://127.0.0.1", "--kinds", "moved"), "invalid_input"),
        (("add", "http://127.0.0.1", "--where", "{"), "--where"),
        (("add", "http://127.0.0.1", "--secret-file", "missing"), "--secret-file"),
        (("show", "0199c0de-0000-7000-8000-000000000001"), "webhook_not_found"),
        (("deliveries", "0199c0de-0000-7000-8000-000000000001", "--status", "x"), "status"),
    ],
)
def test_a_wrong_option_is_said(
    tmp_path: Path, variables: dict[str, str], arguments: tuple[str, ...], message: str
) -> None:
    ended = run("webhooks", *arguments, cwd=tmp_path, variables=variables)
    assert ended.returncode == 1
    assert message in ended.stderr
    assert "Traceback" not in ended.stderr


def test_an_address_inside_is_refused(tmp_path: Path, variables: dict[str, str]) -> None:
    strict = variables | {"MNEMO_WEBHOOK_ALLOW_PRIVATE": "false"}
    ended = run("webhooks", "add", "http://127.0.0.1/", cwd=tmp_path, variables=strict)
    assert ended.returncode == 1
    assert "forbidden_address" in ended.stderr
    assert "MNEMO_WEBHOOK_ALLOW_PRIVATE" in ended.stderr
