"""sentence-transformers for real: the published MiniLM in fp32, its meaning, its errors."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mnemolite.embeddings import similarity
from mnemolite.embeddings.sentence_transformers import SentenceTransformersEmbedder
from mnemolite.errors import EmbeddingError, ModelUnavailableError, SettingsError
from mnemolite.settings import EmbeddingSettings
from tests.extras import minilm_folder, needs_sentence_transformers

pytestmark = needs_sentence_transformers


def settings(**changes: object) -> EmbeddingSettings:
    values = {"provider": "sentence-transformers", "model": minilm_folder(), "threads": 1}
    return EmbeddingSettings.model_validate(values | changes)


@pytest.fixture(scope="module")
def embedder() -> SentenceTransformersEmbedder:
    return SentenceTransformersEmbedder(settings())


def test_the_identity_is_that_of_the_weights(embedder: SentenceTransformersEmbedder) -> None:
    info = embedder.info
    assert (info.provider, info.pooling) == ("sentence-transformers", "mean_tokens")
    assert (info.dimension, info.max_tokens) == (384, 256)
    assert info.revision == "53aa51172d142c89"


def test_words_that_mean_the_same_are_similar(embedder: SentenceTransformersEmbedder) -> None:
    cat, kitten, car = embedder.embed(["cat", "kitten", "car"], "query")
    assert similarity(cat, kitten) > 0.7
    assert similarity(cat, car) < 0.5


def test_vectors_are_those_of_the_library(embedder: SentenceTransformersEmbedder) -> None:
    from sentence_transformers import SentenceTransformer

    library = SentenceTransformer(minilm_folder(), device="cpu")
    texts = ["cat", "Où est la gare ?", "a rather longer text " * 20]
    expected = library.encode(texts, normalize_embeddings=True)
    np.testing.assert_allclose(embedder.embed(texts, "document"), expected, atol=1e-6)


def test_prefixes_are_put_before_texts_of_their_kind(
    embedder: SentenceTransformersEmbedder,
) -> None:
    prefixed = SentenceTransformersEmbedder(
        settings(query_prefix="query: ", document_prefix="passage: ")
    )
    for kind, prefix in (("query", "query: "), ("document", "passage: ")):
        [with_prefix] = prefixed.embed(["cat"], kind)  # type: ignore[arg-type]
        [written_out] = embedder.embed([prefix + "cat"], "document")
        np.testing.assert_allclose(with_prefix, written_out, atol=1e-6)


def test_prompts_of_the_models_own_files_are_used(
    embedder: SentenceTransformersEmbedder, tmp_path: Path
) -> None:
    copy = shutil.copytree(minilm_folder(), tmp_path / "mine")
    config = {"prompts": {"query": "q: ", "document": "d: "}, "default_prompt_name": "document"}
    (copy / "config_sentence_transformers.json").write_text(json.dumps(config))
    prompted = SentenceTransformersEmbedder(settings(model=str(copy)))
    assert (prompted.info.query_prefix, prompted.info.document_prefix) == ("q: ", "d: ")
    [query] = prompted.embed(["cat"], "query")
    [written_out] = embedder.embed(["q: cat"], "document")
    np.testing.assert_allclose(query, written_out, atol=1e-6)


def test_a_document_beyond_the_window_is_refused_and_a_query_cut(
    embedder: SentenceTransformersEmbedder,
) -> None:
    with pytest.raises(EmbeddingError, match="302 tokens, the model takes 256") as caught:
        embedder.embed(["short", "word " * 300], "document")
    assert caught.value.field == "texts[1]"
    cut, fitting = embedder.embed(["word " * 10**5, "word " * 254], "query")
    np.testing.assert_allclose(cut, fitting, atol=1e-6)


def test_a_smaller_window_holds_for_model_and_passages() -> None:
    small = SentenceTransformersEmbedder(settings(max_tokens=64))
    spans = small.passages("word " * 100)
    assert len(spans) > 3
    cut, fitting = small.embed(["word " * 300, "word " * 62], "query")
    np.testing.assert_allclose(cut, fitting, atol=1e-6)


def test_a_cut_vector_is_that_of_a_model_told_to_be_matryoshka() -> None:
    with pytest.raises(SettingsError, match="not known to allow 128"):
        SentenceTransformersEmbedder(settings(dimension=128))
    short = SentenceTransformersEmbedder(settings(dimension=128, matryoshka=True))
    [vector] = short.embed(["cat"], "query")
    assert vector.shape == (128,)
    assert np.linalg.norm(vector) == pytest.approx(1)


def test_a_device_that_is_not_there_is_named() -> None:
    import torch

    absent = "mps" if torch.cuda.is_available() else "cuda"
    with pytest.raises(SettingsError, match=f"no '{absent}'") as caught:
        SentenceTransformersEmbedder(settings(device=absent))
    assert caught.value.field == "EMBEDDING_DEVICE"


def test_a_folder_without_weights_is_named(tmp_path: Path) -> None:
    copy = shutil.copytree(minilm_folder(), tmp_path / "mine")
    (copy / "model.safetensors").write_bytes(b"broken")
    with pytest.raises(ModelUnavailableError, match="cannot load 'mine'") as caught:
        SentenceTransformersEmbedder(settings(model=str(copy)))
    assert caught.value.field == "EMBEDDING_MODEL"


def test_a_models_own_code_runs_only_when_the_user_says_so(tmp_path: Path) -> None:
    copy = shutil.copytree(minilm_folder(), tmp_path / "mine")
    config = json.loads((copy / "config.json").read_text())
    config |= {
        "model_type": "own",
        "auto_map": {"AutoConfig": "own.OwnConfig", "AutoModel": "own.Own"},
    }
    (copy / "config.json").write_text(json.dumps(config))
    (copy / "own.py").write_text(
        "from transformers import BertConfig, BertModel\n"
        f"open({str(tmp_path / 'ran')!r}, 'w').close()\n"
        "class OwnConfig(BertConfig):\n    model_type = 'own'\n"
        "class Own(BertModel):\n    config_class = OwnConfig\n"
    )
    with pytest.raises(ModelUnavailableError) as caught:
        SentenceTransformersEmbedder(settings(model=str(copy)))
    assert "MNEMO_EMBEDDING_TRUST_REMOTE_CODE=true" in str(caught.value.remedy)
    assert not (tmp_path / "ran").exists()
    trusted = SentenceTransformersEmbedder(settings(model=str(copy), trust_remote_code=True))
    assert (tmp_path / "ran").exists()
    assert trusted.info.dimension == 384


def test_a_bare_name_is_one_of_the_librarys_own_models(tmp_path: Path) -> None:
    code = (
        "from mnemolite.embeddings import create_embedder\n"
        "from mnemolite.settings import EmbeddingSettings\n"
        "create_embedder(EmbeddingSettings(provider='sentence-transformers'))\n"
    )
    offline = {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, env=os.environ | offline
    )
    assert "'sentence-transformers/all-MiniLM-L6-v2' is not in the hub's cache" in done.stderr
