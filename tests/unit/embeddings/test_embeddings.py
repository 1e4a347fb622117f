"""The contract's own parts: identity, similarity, and what importing and choosing load."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from mnemolite.embeddings import ModelInfo, create_embedder, similarity
from mnemolite.errors import InvalidVectorError
from mnemolite.settings import EmbeddingSettings

INFO = ModelInfo(
    provider="onnx",
    model="m",
    revision="1",
    dimension=2,
    pooling="mean",
    template="dated-1",
    max_tokens=256,
)


def test_the_digest_is_stable_across_releases() -> None:
    assert INFO.digest == "5c46cd17a853334f81e6490b706df51af0fb3616beaa185834b91bcbb450bcd5"


@pytest.mark.parametrize(
    "changes",
    [
        {"provider": "mock"},
        {"model": "n"},
        {"revision": "2"},
        {"dimension": 3},
        {"query_prefix": "q: "},
        {"document_prefix": "d: "},
        {"pooling": "cls"},
        {"normalisation": "none"},
        {"template": "dated-2"},
        {"max_tokens": 128},
    ],
)
def test_every_part_of_the_identity_is_in_the_digest(changes: dict[str, object]) -> None:
    assert replace(INFO, **changes).digest != INFO.digest  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ([1, 0], [2, 0], 1.0),
        ([1, 0], [1, 1], 0.70710678),
        ([1, 0], [-1, 0], 0.0),
        ([0, 0], [1, 0], 0.0),
        ([1e-20, 0], [1e-20, 0], 1.0),
    ],
)
def test_similarity(a: list[float], b: list[float], expected: float) -> None:
    assert similarity(np.array(a, np.float32), np.array(b, np.float32)) == pytest.approx(expected)


def test_similarity_names_both_dimensions_when_they_differ() -> None:
    with pytest.raises(InvalidVectorError, match=r"2 and 3 dimensions"):
        similarity(np.zeros(2), np.zeros(3))


def test_mock_mode_never_loads_a_runtime() -> None:
    code = (
        "import sys\n"
        "from mnemolite.embeddings import create_embedder\n"
        "from mnemolite.embeddings.batching import BatchingEmbedder\n"
        "from mnemolite.settings import EmbeddingSettings\n"
        "create_embedder(EmbeddingSettings(mode='mock')).embed(['a'], 'query')\n"
        "loaded = {'onnxruntime', 'tokenizers', 'torch'} & set(sys.modules)\n"
        "sys.exit(str(loaded) if loaded else 0)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_create_embedder_follows_the_mode() -> None:
    assert create_embedder(EmbeddingSettings(mode="mock", dimension=7)).info.dimension == 7
    assert create_embedder(EmbeddingSettings(mode="real", threads=1)).info.provider == "onnx"
