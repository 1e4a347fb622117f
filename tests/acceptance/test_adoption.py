"""`mnemolite db adopt` as an operator types it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import foreign
from tests.acceptance.server import run
from tests.conftest import _fresh_database


@pytest.fixture
def source(server_dsn: str) -> Iterator[str]:
    for dsn in _fresh_database(server_dsn, "template0"):
        foreign.create(dsn)
        foreign.fill(dsn, 1, 30)
        yield dsn


@pytest.fixture
def variables(dsn: str) -> dict[str, str]:
    return {"DATABASE_URL": dsn, "EMBEDDING_MODE": "mock", "COLUMNS": "200"}


def test_it_is_adopted_shown_and_finished(
    source: str, variables: dict[str, str], tmp_path: Path
) -> None:
    with foreign.connect(source) as sql:
        sql.execute(
            "INSERT INTO events (id, timestamp, content) VALUES (gen_random_uuid(), now(), '[]')"
        )
    arguments = ("db", "adopt", "--from", source, "--space", "old-model", "--skip-bad")
    previewed = run(*arguments, "--dry-run", cwd=tmp_path, variables=variables)
    assert previewed.returncode == 3
    assert "31 rows, 26 vectors" in previewed.stderr
    assert "content: it is no JSON object but array" in previewed.stderr
    adopted = run(*arguments, cwd=tmp_path, variables=variables)
    assert adopted.returncode == 3
    sums = next(line for line in adopted.stdout.splitlines() if line.startswith("events sum"))
    *_, theirs, ours = sums.split()
    assert theirs == ours
    status = run("db", "adopt", "--status", cwd=tmp_path, variables=variables)
    assert "copied" in status.stdout
    assert "30 of 31" in status.stdout
    finished = run("db", "adopt", "--finish", cwd=tmp_path, variables=variables)
    assert finished.returncode == 0
    status = run("db", "adopt", "--status", cwd=tmp_path, variables=variables)
    assert "No adoption" in status.stdout


def test_what_is_missing_or_too_much_is_named(variables: dict[str, str], tmp_path: Path) -> None:
    missing = run("db", "adopt", cwd=tmp_path, variables=variables)
    assert missing.returncode == 1
    assert "(adoption_refused) --from: The address" in missing.stderr
    both = run("db", "adopt", "--cutover", "--finish", cwd=tmp_path, variables=variables)
    assert both.returncode == 1
    assert "Only one step" in both.stderr
