"""The mock warns, and is a function of the text."""

import numpy as np
from structlog.testing import capture_logs

from mnemolite.embeddings.mock import MockEmbedder


def test_it_warns_at_creation() -> None:
    with capture_logs() as logs:
        MockEmbedder()
    assert [(line["log_level"], line["event"]) for line in logs] == [("warning", "mock_embeddings")]


def test_vectors_never_change() -> None:
    [vector] = MockEmbedder(5).embed(["Hello"], "query")
    expected = [-0.18329145, -0.21707635, 0.70716619, 0.49920821, -0.41229755]
    np.testing.assert_allclose(vector, expected, atol=1e-6)


def test_different_texts_have_unrelated_vectors() -> None:
    vectors = MockEmbedder().embed([f"text {number}" for number in range(50)], "document")
    products = vectors @ vectors.T - np.eye(50, dtype=np.float32)
    assert np.abs(products).max() < 0.3
