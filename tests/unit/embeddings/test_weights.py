"""Which files of a repository PyTorch needs, and how one set of weights differs from another."""

from pathlib import Path

import pytest

from mnemolite.embeddings.model_folder import ModelFolder
from mnemolite.embeddings.weights import digest_of_weights, files_to_fetch, weights_of
from mnemolite.errors import ModelUnavailableError

NAMES = [
    *("config.json", "tokenizer.json", "modeling_own.py", "2_Dense/model.safetensors"),
    *("model.safetensors", "pytorch_model.bin", "tf_model.h5", "onnx/model.onnx"),
]


def test_weights_that_cannot_hold_code_are_preferred() -> None:
    assert weights_of(NAMES) == ["2_Dense/model.safetensors", "model.safetensors"]
    assert weights_of(["pytorch_model.bin", "config.json"]) == ["pytorch_model.bin"]


def test_weights_of_other_runtimes_are_not_fetched() -> None:
    fetched = files_to_fetch(NAMES)
    assert fetched is not None
    assert set(NAMES) - set(fetched) == {"pytorch_model.bin", "tf_model.h5", "onnx/model.onnx"}
    assert files_to_fetch(["config.json", "onnx/model.onnx"]) is None


def test_every_file_of_weights_is_in_the_digest(tmp_path: Path) -> None:
    folder = ModelFolder("mine", tmp_path)
    with pytest.raises(ModelUnavailableError, match="no weights for PyTorch"):
        digest_of_weights(folder)
    digests = []
    for name in ("a.safetensors", "b.safetensors"):
        (tmp_path / name).write_bytes(name.encode())
        digests.append(digest_of_weights(folder))
    (tmp_path / "b.safetensors").write_bytes(b"other")
    digests.append(digest_of_weights(folder))
    assert len(set(digests)) == 3
