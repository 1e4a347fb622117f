"""Finding a model: in a folder, in a hub's cache without a network, on a hub over HTTP."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mnemolite.embeddings.sources import find_folder
from mnemolite.errors import ModelUnavailableError
from tests.model_folders import NOMIC, write_cache, write_nomic
from tests.unit.embeddings.hub import COMMIT, running_hub

# The library reads its environment once, when it is imported.
LOAD = """
import json, sys
from dataclasses import asdict
from mnemolite.embeddings import create_embedder
from mnemolite.errors import MnemoliteError
from mnemolite.settings import EmbeddingSettings
try:
    embedder = create_embedder(EmbeddingSettings(**json.loads(sys.argv[1])))
    print(json.dumps(asdict(embedder.info)))
except MnemoliteError as error:
    print(json.dumps({"code": error.code, "field": error.field, "text": str(error)}))
"""


def load(home: Path, *, environment: dict[str, str], **settings: object) -> dict[str, object]:
    done = subprocess.run(
        [sys.executable, "-c", LOAD, json.dumps(settings)],
        check=True,
        capture_output=True,
        text=True,
        env=os.environ | {"HF_HOME": str(home)} | environment,
    )
    answer = json.loads(done.stdout)
    assert isinstance(answer, dict)
    return answer


@pytest.fixture(scope="module")
def nomic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_nomic(tmp_path_factory.mktemp("repository") / "nomic")


def test_a_folder_is_known_by_its_name_or_by_its_place_in_a_cache(
    nomic: Path, tmp_path: Path
) -> None:
    assert find_folder(str(nomic), lambda names: None).name == "nomic"
    snapshot = write_cache(tmp_path, nomic)
    assert find_folder(str(snapshot), lambda names: None).name == NOMIC


@pytest.mark.parametrize("model", ["nothing", "/no/such/folder", "./a/b", "a/b/c", "~/none"])
def test_what_is_neither_folder_nor_id_is_refused_at_once(model: str) -> None:
    with pytest.raises(ModelUnavailableError, match="neither the packaged model") as caught:
        find_folder(model, lambda names: None)
    assert caught.value.field == "EMBEDDING_MODEL"


def test_a_cached_model_needs_no_network(nomic: Path, tmp_path: Path) -> None:
    write_cache(tmp_path, nomic)
    info = load(tmp_path, environment={"HF_HUB_OFFLINE": "1"}, model=NOMIC)
    assert (info["model"], info["dimension"]) == (NOMIC, 768)
    assert (info["query_prefix"], info["document_prefix"]) == (
        "search_query: ",
        "search_document: ",
    )


def test_another_revision_than_the_cached_one_is_not_taken_for_it(
    nomic: Path, tmp_path: Path
) -> None:
    write_cache(tmp_path, nomic)
    offline = {"HF_HUB_OFFLINE": "1"}
    answer = load(tmp_path, environment=offline, model=NOMIC, revision="e" * 40)
    assert answer["code"] == "model_unavailable"
    pinned = load(tmp_path, environment=offline, model=NOMIC, revision="c" * 40)
    assert pinned["dimension"] == 768


def test_without_cache_and_network_the_error_says_what_to_do(tmp_path: Path) -> None:
    answer = load(tmp_path, environment={"HF_HUB_OFFLINE": "1"}, model=NOMIC)
    assert (answer["code"], answer["field"]) == ("model_unavailable", "EMBEDDING_MODEL")
    assert NOMIC in str(answer["text"])
    assert "HF_HOME" in str(answer["text"])
    assert "all-MiniLM-L6-v2" in str(answer["text"])


def test_a_download_fetches_what_is_needed_and_is_kept(nomic: Path, tmp_path: Path) -> None:
    with running_hub(NOMIC, nomic) as (address, fetched):
        first = load(tmp_path, environment={"HF_ENDPOINT": address}, model=NOMIC)
        assert "onnx/model_quantized.onnx" in fetched
        assert "onnx/model.onnx" not in fetched
        del fetched[:]
        assert load(tmp_path, environment={"HF_ENDPOINT": address}, model=NOMIC) == first
        assert fetched == []
        full = load(
            tmp_path,
            environment={"HF_ENDPOINT": address},
            model=NOMIC,
            onnx_file="onnx/model.onnx",
        )
        assert fetched == ["onnx/model.onnx"]
        assert full["revision"] != first["revision"]
    offline = {"HF_HUB_OFFLINE": "1"}
    assert load(tmp_path, environment=offline, model=NOMIC, revision=COMMIT) == first


def test_what_the_hub_does_not_have_is_named(nomic: Path, tmp_path: Path) -> None:
    with running_hub(NOMIC, nomic) as (address, _):
        environment = {"HF_ENDPOINT": address}
        unknown = load(tmp_path, environment=environment, model="some/other")
        lacking = load(tmp_path, environment=environment, model=NOMIC, onnx_file="onnx/none.onnx")
    assert "has no 'some/other'" in str(unknown["text"])
    assert "MNEMO_EMBEDDING_ONNX_FILE" in str(lacking["text"])
