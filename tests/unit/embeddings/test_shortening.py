"""Cutting vectors: who may, by which recipe, and to unit length."""

import numpy as np
import pytest

from mnemolite.embeddings.shortening import Shortening, choose_shortening
from mnemolite.errors import EmbeddingError, SettingsError

ROWS = np.random.default_rng(0).normal(0.3, 1, (5, 768)).astype(np.float32)


@pytest.mark.parametrize("wanted", [None, 768])
def test_a_whole_vector_is_only_scaled(wanted: int | None) -> None:
    shortening = choose_shortening("nomic-embed-text-v1.5", wanted, full=768)
    assert shortening.normalisation == "l2"
    expected = ROWS / np.linalg.norm(ROWS, axis=1, keepdims=True)
    np.testing.assert_allclose(shortening.apply(ROWS), expected, rtol=1e-6)


def test_nomic_is_layer_normalised_before_it_is_cut() -> None:
    shortening = choose_shortening("nomic-ai/nomic-embed-text-v1.5", 256, full=768)
    assert shortening.normalisation == "layer_norm+l2"
    # The recipe of the model's card, written out.
    levelled = (ROWS - ROWS.mean(axis=1, keepdims=True)) / np.sqrt(
        ROWS.var(axis=1, keepdims=True) + 1e-5
    )
    cut = levelled[:, :256]
    expected = cut / np.linalg.norm(cut, axis=1, keepdims=True)
    np.testing.assert_allclose(shortening.apply(ROWS), expected, atol=1e-6)


def test_other_matryoshka_models_are_only_cut() -> None:
    shortening = choose_shortening("mxbai-embed-large-v1", 512, full=768)
    cut = ROWS[:, :512]
    expected = cut / np.linalg.norm(cut, axis=1, keepdims=True)
    np.testing.assert_allclose(shortening.apply(ROWS), expected, atol=1e-6)


def test_an_unknown_model_is_cut_only_when_the_user_says_so() -> None:
    with pytest.raises(SettingsError, match="768 dimensions, and is not known to allow 64") as one:
        choose_shortening("mine", 64, full=768)
    assert one.value.field == "EMBEDDING_DIMENSION"
    assert "MNEMO_EMBEDDING_MATRYOSHKA=true" in str(one.value.remedy)
    assert choose_shortening("mine", 64, full=768, allowed=True) == Shortening(dimension=64)


def test_no_model_gets_longer() -> None:
    with pytest.raises(SettingsError, match="has 768 dimensions, not 769"):
        choose_shortening("nomic-embed-text-v1.5", 769, full=768, allowed=True)


@pytest.mark.parametrize("bad", [0.0, np.nan, np.inf])
def test_a_vector_without_a_direction_is_an_error(bad: float) -> None:
    rows = np.ones((2, 4), np.float32)
    rows[1] = bad
    with pytest.raises(EmbeddingError, match="without a direction"):
        Shortening(dimension=2).apply(rows)
