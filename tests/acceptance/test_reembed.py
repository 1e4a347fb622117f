"""The model is changed and changed back while a server is written to and searched."""

import asyncio
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
