"""Choosing an ONNX file of a folder, checking it, and telling one revision from another."""

import shutil
from pathlib import Path

import pytest

from mnemolite.embeddings.graphs import choose_graph, files_to_fetch, open_graph
from mnemolite.embeddings.model_folder import PACKAGED_FOLDER, PACKAGED_MODEL, ModelFolder
from mnemolite.errors import ModelUnavailableError
from tests.model_folders import write_nomic

PACKAGED = ModelFolder(PACKAGED_MODEL, PACKAGED_FOLDER)


@pytest.fixture
def folder(tmp_path: Path) -> ModelFolder:
    (tmp_path / "onnx").mkdir()
    (tmp_path / "onnx" / "model.onnx").write_bytes(b"graph")
    (tmp_path / "tokenizer.json").write_text("{}")
    return ModelFolder("mine", tmp_path)


@pytest.mark.parametrize(
    ("names", "wanted", "expected"),
    [
        (["model.onnx"], None, "model.onnx"),
        (["onnx/model.onnx", "onnx/model_quantized.onnx"], None, "onnx/model_quantized.onnx"),
        (["onnx/model.onnx", "onnx/model_int8.onnx"], None, "onnx/model_int8.onnx"),
        (["onnx/model.onnx", "onnx/model_quantized.onnx"], "onnx/model.onnx", "onnx/model.onnx"),
        (["onnx/model.onnx"], "model.onnx", None),
        (["onnx/model_fp16.onnx", "README.md"], None, None),
    ],
)
def test_the_choice(names: list[str], wanted: str | None, expected: str | None) -> None:
    assert choose_graph(names, wanted) == expected


def test_what_is_fetched_is_what_is_read() -> None:
    names = [
        *("README.md", "model.safetensors", "tokenizer.json", "1_Pooling/config.json"),
        *("onnx/model.onnx", "onnx/model.onnx_data", "onnx/model_fp16.onnx", "onnx/config.json"),
    ]
    fetched = files_to_fetch(names, None)
    assert fetched is not None
    assert sorted(fetched) == [
        *("1_Pooling/config.json", "onnx/model.onnx", "onnx/model.onnx_data", "tokenizer.json")
    ]
    assert files_to_fetch([name for name in names if name != "tokenizer.json"], None) is None


def test_a_copy_of_the_packaged_model_is_the_same_revision(tmp_path: Path) -> None:
    copy = ModelFolder("mine", shutil.copytree(PACKAGED_FOLDER, tmp_path / "mine"))
    assert open_graph(copy, None).revision == open_graph(PACKAGED, None).revision


def test_weights_beside_the_graph_are_part_of_the_revision(folder: ModelFolder) -> None:
    revisions = {open_graph(folder, None).revision}
    for weights in (b"one", b"two"):
        (folder.path / "onnx" / "model.onnx_data").write_bytes(weights)
        revisions.add(open_graph(folder, None).revision)
    assert len(revisions) == 3


@pytest.mark.parametrize("name", ["model.onnx", "tokenizer.json"])
def test_a_damaged_file_is_refused(tmp_path: Path, name: str) -> None:
    copy = shutil.copytree(PACKAGED_FOLDER, tmp_path / "mine")
    with (copy / name).open("r+b") as file:
        file.seek(1000)
        file.write(b"\0\0\0\0")
    with pytest.raises(ModelUnavailableError, match=f"{name} does not have the SHA-256"):
        open_graph(ModelFolder("mine", copy), None)


def test_scales_that_come_from_the_batch_are_noticed(tmp_path: Path) -> None:
    folder = ModelFolder("nomic", write_nomic(tmp_path / "nomic"))
    assert open_graph(folder, None).scales_from_batch
    assert not open_graph(folder, "onnx/model.onnx").scales_from_batch
    assert not open_graph(PACKAGED, None).scales_from_batch


@pytest.mark.parametrize(
    ("name", "message"),
    [("onnx/model.onnx", "none of model_quantized.onnx"), ("tokenizer.json", "no tokenizer.json")],
)
def test_what_is_missing_is_named(folder: ModelFolder, name: str, message: str) -> None:
    (folder.path / name).unlink()
    with pytest.raises(ModelUnavailableError, match=message):
        open_graph(folder, None)


def test_a_named_file_that_is_missing_is_named(folder: ModelFolder) -> None:
    with pytest.raises(ModelUnavailableError, match=r"it has no onnx/other\.onnx"):
        open_graph(folder, "onnx/other.onnx")
