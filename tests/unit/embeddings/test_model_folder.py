"""Reading a model's folder: what is missing or damaged is named."""

import json
import shutil
from pathlib import Path

import pytest

from mnemolite.embeddings.model_folder import PACKAGED_MODEL, open_folder
from mnemolite.errors import ModelUnavailableError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small folder in the layout of a hub export; its graph is never loaded."""
    (tmp_path / "onnx").mkdir()
    (tmp_path / "onnx" / "model.onnx").write_bytes(b"graph")
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / "config.json").write_text('{"max_position_embeddings": 512}')
    return tmp_path


def _write_pooling(folder: Path, config: dict[str, object]) -> None:
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(config))


def test_the_packaged_model() -> None:
    folder = open_folder(PACKAGED_MODEL)
    assert (folder.name, folder.max_tokens, folder.pooling) == (PACKAGED_MODEL, 256, "mean")


def test_a_copy_of_the_packaged_model_is_the_same_revision(tmp_path: Path) -> None:
    packaged = open_folder(PACKAGED_MODEL)
    copy = shutil.copytree(packaged.graph.parent, tmp_path / "mine")
    assert open_folder(str(copy)).revision == packaged.revision


@pytest.mark.parametrize("name", ["model.onnx", "tokenizer.json"])
def test_a_damaged_file_is_refused(tmp_path: Path, name: str) -> None:
    copy = shutil.copytree(open_folder(PACKAGED_MODEL).graph.parent, tmp_path / "mine")
    with (copy / name).open("r+b") as file:
        file.seek(1000)
        file.write(b"\0\0\0\0")
    with pytest.raises(ModelUnavailableError, match=f"{name} does not have the SHA-256"):
        open_folder(str(copy))


def test_a_hub_layout_without_pooling_files_is_read(folder: Path) -> None:
    model = open_folder(str(folder))
    assert model.graph == folder / "onnx" / "model.onnx"
    assert (model.max_tokens, model.pooling) == (512, "mean")


def test_the_smaller_of_two_windows_counts(folder: Path) -> None:
    (folder / "tokenizer_config.json").write_text('{"model_max_length": 128}')
    assert open_folder(str(folder)).max_tokens == 128
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 64}')
    assert open_folder(str(folder)).max_tokens == 64


def test_pooling_is_read(folder: Path) -> None:
    _write_pooling(folder, {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False})
    assert open_folder(str(folder)).pooling == "cls"


def test_unknown_pooling_is_refused(folder: Path) -> None:
    _write_pooling(folder, {"pooling_mode_max_tokens": True})
    with pytest.raises(ModelUnavailableError, match="pooling_mode_max_tokens"):
        open_folder(str(folder))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("onnx/model.onnx", "none of model.onnx"),
        ("tokenizer.json", "no tokenizer.json"),
        ("config.json", "how many tokens"),
    ],
)
def test_what_is_missing_is_named(folder: Path, name: str, message: str) -> None:
    (folder / name).unlink()
    with pytest.raises(ModelUnavailableError, match=message):
        open_folder(str(folder))


def test_a_broken_config_is_named(folder: Path) -> None:
    (folder / "config.json").write_text("{")
    with pytest.raises(ModelUnavailableError, match=r"config\.json is not JSON"):
        open_folder(str(folder))


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(ModelUnavailableError, match="'no/such-model' is neither") as caught:
        open_folder("no/such-model")
    assert caught.value.field == "EMBEDDING_MODEL"
    assert PACKAGED_MODEL in str(caught.value.remedy)
