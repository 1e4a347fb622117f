"""The model is changed and changed back while a server is written to and searched."""

import asyncio
import json
import subprocess
import time
from pathlib import Path

import pytest

from mnemolite.embeddings import Vectors, create_embedder
from mnemolite.memory import Memory
from mnemolite.models import NewEvent
from mnemolite.settings import DatabaseSettings, EmbeddingSettings, Settings
from mnemolite.worker import Worker
from tests.acceptance.load import NAMESPACE, Load, Probe, facts, missing, probes, recall, strangers
from tests.acceptance.server import run, running_server
from tests.other_model import build_projected_model

EVENTS = 600
PROBES = 12
SECONDS = 3.0


@pytest.fixture(scope="module")
def other_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_projected_model(tmp_path_factory.mktemp("model") / "projected")


async def fill(dsn: str, texts: list[str]) -> None:
    settings = Settings(database=DatabaseSettings(url=dsn), embedding=EmbeddingSettings())
    async with Memory.open(settings) as memory:
        await memory.add_many(
            [NewEvent(content={"text": text}, namespace=NAMESPACE) for text in texts]
        )
        await Worker(memory).drain()


@pytest.mark.timeout(900)
def test_a_change_of_the_model_and_back_under_load(
    dsn: str, tmp_path: Path, other_model: Path
) -> None:
    texts = facts(EVENTS)
    asyncio.run(fill(dsn, texts))
    variables = {"DATABASE_URL": dsn, "COLUMNS": "200"}
    asked = probes(texts, PROBES)
    with running_server(tmp_path, variables=variables) as server:
        load = Load(server.url, asked)

        def reembed(*arguments: str) -> tuple[float, float]:
            started = time.time()
            done = run("reembed", *arguments, cwd=tmp_path, variables=variables, timeout=600)
            assert done.returncode == 0, done.stderr
            return started, time.time()

        with load.running(writers=2, searchers=2):
            time.sleep(SECONDS)
            reembed("start", "--model", str(other_model))
            switching, switched = reembed("switch")
            time.sleep(SECONDS)
            returning, returned = reembed("rollback")
            time.sleep(SECONDS)
        with server.client() as client:
            while any(
                space["progress"]["pending"] for space in client.get("/v1/spaces").json()["data"]
            ):
                time.sleep(0.2)
    assert load.failures == []
    # While a change is made, both spaces answer; before and after it, one.
    assert {answer.space for answer in load.between(0, switching)} == {1}
    assert {answer.space for answer in load.between(switched, returning)} == {2}
    assert {answer.space for answer in load.between(returned)} == {1}
    assert missing(dsn, 1) == missing(dsn, 2) == 0
    assert strangers(dsn, load.answers, question_vectors(asked, other_model)) == 0
    # A question is answered alike by a space at all times, so no moment is worse than both.
    outcomes = {(answer.space, answer.probe): answer.found for answer in load.answers}
    assert all(outcomes[a.space, a.probe] == a.found for a in load.answers)
    assert recall(load.answers) > 0.5


@pytest.mark.timeout(600)
def test_from_mock_to_real_and_back(dsn: str, tmp_path: Path) -> None:
    base = {"DATABASE_URL": dsn, "COLUMNS": "200"}
    mock, real = base | {"EMBEDDING_MODE": "mock"}, base | {"EMBEDDING_MODE": "real"}

    def call(variables: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
        return run(*arguments, cwd=tmp_path, variables=variables)

    assert call(mock, "add", "My cat sleeps.").returncode == 0
    refused = call(real, "search", "kitten")
    assert refused.returncode == 1
    assert "model_mismatch" in refused.stderr
    assert "mnemolite reembed start" in refused.stderr
    started = call(mock, "reembed", "start", "--model", "all-MiniLM-L6-v2")
    assert started.returncode == 0, started.stderr
    assert json.loads(call(mock, "reembed", "verify", "--json").stdout)["missing"] == 0
    assert "building" in call(mock, "reembed", "status").stdout
    switched = call(mock, "reembed", "switch")
    assert "EMBEDDING_MODE=real" in switched.stderr
    for variables in (mock, real):
        found = json.loads(call(variables, "search", "kitten", "--json").stdout)
        assert (found["meta"]["space"], found["data"][0]["text"]) == (2, "My cat sleeps.")
    again = call(real, "reembed", "start", "--provider", "mock")
    assert "mnemolite reembed rollback" in again.stderr
    assert call(real, "reembed", "rollback").returncode == 0
    assert json.loads(call(mock, "search", "kitten", "--json").stdout)["meta"]["space"] == 1
    assert call(mock, "reembed", "drop", "2").returncode == 0
    assert "model_mismatch" in call(real, "search", "kitten").stderr


def question_vectors(asked: list[Probe], other_model: Path) -> dict[int, dict[str, Vectors]]:
    """The vector of each question in each of the two spaces."""
    questions = [probe.question for probe in asked]
    models = {1: EmbeddingSettings(), 2: EmbeddingSettings(model=str(other_model))}
    return {
        space: dict(
            zip(questions, create_embedder(settings).embed(questions, "query"), strict=True)
        )
        for space, settings in models.items()
    }
