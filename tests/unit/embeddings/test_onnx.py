"""ONNX Runtime: what the packaged model's vectors mean, other folders, and misuse."""

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from tokenizers import Tokenizer

from mnemolite.embeddings import similarity
from mnemolite.embeddings.known_models import Pooling
from mnemolite.embeddings.model_folder import PACKAGED_FOLDER
from mnemolite.embeddings.onnx import OnnxEmbedder, pool
from mnemolite.embeddings.templates import recall_text
from mnemolite.errors import EmbeddingError, ModelUnavailableError, SettingsError
from mnemolite.settings import EmbeddingSettings
from tests.model_folders import make_graph, write_nomic


@pytest.fixture(scope="module")
def embedder() -> OnnxEmbedder:
    return OnnxEmbedder(EmbeddingSettings(threads=1))


def test_words_that_mean_the_same_are_similar(embedder: OnnxEmbedder) -> None:
    cat, kitten, car = embedder.embed(["cat", "kitten", "car"], "query")
    assert similarity(cat, kitten) > 0.7
    assert similarity(cat, car) < 0.5


def test_a_query_ranks_by_meaning(embedder: OnnxEmbedder) -> None:
    texts = ["My car is blue", "I love my pet cat", "Dogs are loyal", "Kittens are adorable"]
    [query] = embedder.embed(["feline pets"], "query")
    ranked = np.argsort(-(embedder.embed(texts, "document") @ query))
    assert {texts[row] for row in ranked[:2]} == {"I love my pet cat", "Kittens are adorable"}


@pytest.mark.parametrize("length", range(1, 254))
def test_a_text_has_one_vector_whatever_its_company(embedder: OnnxEmbedder, length: int) -> None:
    words = ["river", "green", "walked", "seven", "quickly", "because"]
    texts = [" ".join((words * 60)[offset : offset + length]) for offset in range(3)]
    texts += ["short", "a rather longer text, of more words than the others " * 3]
    together = embedder.embed(texts, "document")
    for row, text in enumerate(texts):
        assert np.array_equal(embedder.embed([text], "document")[0], together[row])


def test_the_number_of_threads_changes_nothing(embedder: OnnxEmbedder) -> None:
    texts = ["cat", "The meeting was moved to Thursday. " * 12]
    two = OnnxEmbedder(EmbeddingSettings(threads=2))
    assert np.array_equal(two.embed(texts, "document"), embedder.embed(texts, "document"))


def test_a_document_beyond_the_window_is_refused_not_cut(embedder: OnnxEmbedder) -> None:
    with pytest.raises(EmbeddingError, match="302 tokens, the model takes 256") as caught:
        embedder.embed(["short", "word " * 300], "document")
    assert caught.value.field == "texts[1]"


def test_a_query_beyond_the_window_is_cut_to_it(embedder: OnnxEmbedder) -> None:
    cut, fitting = embedder.embed(["word " * 10**6, "word " * 254], "query")
    assert np.array_equal(cut, fitting)


def test_a_passage_fits_with_the_longest_wrapper(embedder: OnnxEmbedder) -> None:
    text = "Der Präsident sagte nichts; 김치는 맛있다 und x86-64 ist schnell. " * 200
    spans = embedder.passages(text)
    wrapped = [
        recall_text(text[start:end], speaker="김" * 50, timestamp=None) for start, end in spans
    ]
    assert len(spans) > 1
    assert embedder.embed(wrapped, "document").shape == (len(spans), 384)


def test_pieces_of_words_that_have_more_tokens_than_the_word_still_fit(
    embedder: OnnxEmbedder,
) -> None:
    text = "deadbeef0123zq" * 7 + " "
    spans = embedder.passages(text * 400)
    assert len(embedder.embed([(text * 400)[start:end] for start, end in spans], "document"))


def test_another_dimension_is_refused_naming_both() -> None:
    with pytest.raises(SettingsError, match="384 dimensions, not 512") as caught:
        OnnxEmbedder(EmbeddingSettings(dimension=512))
    assert caught.value.field == "EMBEDDING_DIMENSION"


def test_prefixes_are_part_of_text_and_identity(embedder: OnnxEmbedder) -> None:
    prefixed = OnnxEmbedder(EmbeddingSettings(query_prefix="query: ", threads=1))
    [with_prefix] = prefixed.embed(["cat"], "query")
    [written_out] = embedder.embed(["query: cat"], "query")
    assert np.array_equal(with_prefix, written_out)
    assert prefixed.info.digest != embedder.info.digest


@pytest.mark.parametrize(("name", "message"), [("model.onnx", "load"), ("tokenizer.json", "not a")])
def test_a_broken_file_is_named(tmp_path: Path, name: str, message: str) -> None:
    folder = shutil.copytree(PACKAGED_FOLDER, tmp_path / "mine")
    (folder / "SHA256SUMS").unlink()
    (folder / name).write_bytes(b"broken")
    with pytest.raises(ModelUnavailableError, match=message):
        OnnxEmbedder(EmbeddingSettings(model=str(folder)))


@pytest.mark.parametrize(
    ("pooling", "expected"), [("mean", [4, 6]), ("cls", [1, 2]), ("lasttoken", [3, 4])]
)
def test_pooling_outside_the_graph_ignores_padding(pooling: Pooling, expected: list[float]) -> None:
    states = np.array([[[1, 2], [3, 4], [100, 100]]], np.float32)
    mask = np.array([[1, 1, 0]])
    assert pool(states, mask, pooling=pooling).tolist() == [expected]


# --- Other folders ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def nomic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_nomic(tmp_path_factory.mktemp("models") / "nomic-embed-text-v1.5")


def _by_the_card(folder: Path, text: str, dimension: int) -> np.ndarray:
    """What the card of nomic-embed-text-v1.5 says to do with a text, step by step."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    ids = np.array([tokenizer.encode(text).ids])
    session = onnxruntime.InferenceSession(folder / "onnx" / "model.onnx")
    ones = np.ones_like(ids)
    feed = {"input_ids": ids, "attention_mask": ones, "token_type_ids": ones * 0}
    pooled = session.run(None, feed)[0].mean(axis=1)[0]
    if dimension < len(pooled):
        pooled = ((pooled - pooled.mean()) / np.sqrt(pooled.var() + 1e-5))[:dimension]
    return np.asarray(pooled / np.linalg.norm(pooled))


@pytest.mark.parametrize("dimension", [768, 256, 64])
def test_nomic_is_run_by_the_recipe_of_its_card(nomic: Path, dimension: int) -> None:
    settings = EmbeddingSettings(
        model=str(nomic), onnx_file="onnx/model.onnx", dimension=dimension, threads=1
    )
    embedder = OnnxEmbedder(settings)
    assert embedder.info.dimension == dimension
    [query] = embedder.embed(["What is TSNE?"], "query")
    [document] = embedder.embed(["A method."], "document")
    asked = _by_the_card(nomic, "search_query: What is TSNE?", dimension)
    told = _by_the_card(nomic, "search_document: A method.", dimension)
    np.testing.assert_allclose(query, asked, atol=1e-6)
    np.testing.assert_allclose(document, told, atol=1e-6)


def test_the_quantised_file_is_used_unless_told_otherwise(nomic: Path) -> None:
    quantised = OnnxEmbedder(EmbeddingSettings(model=str(nomic), threads=1))
    full = OnnxEmbedder(EmbeddingSettings(model=str(nomic), onnx_file="onnx/model.onnx"))
    assert quantised.info.revision != full.info.revision
    [a], [b] = (one.embed(["The same text."], "document") for one in (quantised, full))
    assert not np.array_equal(a, b)
    assert similarity(a, b) > 0.98


def test_int8_scales_of_the_batch_do_not_reach_a_vector(nomic: Path) -> None:
    embedder = OnnxEmbedder(EmbeddingSettings(model=str(nomic), threads=1))
    words = ["river", "green", "walked", "seven", "quickly", "because"]
    texts = [" ".join(words[number:] + words[:number]) for number in range(6)]
    together = embedder.embed([*texts, "zebra " * 5], "document")
    for row, text in enumerate(texts):
        assert np.array_equal(embedder.embed([text], "document")[0], together[row])


def test_only_a_matryoshka_model_is_cut(nomic: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(nomic, tmp_path / "mine")
    with pytest.raises(SettingsError, match="not known to allow 256"):
        OnnxEmbedder(EmbeddingSettings(model=str(copy), dimension=256))
    told = OnnxEmbedder(EmbeddingSettings(model=str(copy), dimension=256, matryoshka=True))
    assert (told.info.dimension, told.info.normalisation) == (256, "l2")


def test_a_window_too_small_for_wrapper_and_prefix_is_refused(nomic: Path) -> None:
    settings = EmbeddingSettings(model=str(nomic), max_tokens=64, document_prefix="word " * 30)
    with pytest.raises(SettingsError, match="leaves 0 for the text") as caught:
        OnnxEmbedder(settings)
    assert caught.value.field == "MNEMO_EMBEDDING_MAX_TOKENS"


def test_a_graph_that_wants_more_than_a_text_has_is_refused(nomic: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(nomic, tmp_path / "mine")
    onnx.save(make_graph(inputs=("past_key_values",)), copy / "model_quantized.onnx")
    with pytest.raises(ModelUnavailableError, match="wants past_key_values"):
        OnnxEmbedder(EmbeddingSettings(model=str(copy)))


def test_a_graph_without_the_models_last_modules_is_refused(nomic: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(nomic, tmp_path / "mine")
    modules = json.loads((copy / "modules.json").read_text())
    dense = {"path": "2_Dense", "type": "sentence_transformers.models.Dense"}
    (copy / "modules.json").write_text(json.dumps([*modules, dense]))
    with pytest.raises(ModelUnavailableError, match="leaves out the modules Dense"):
        OnnxEmbedder(EmbeddingSettings(model=str(copy)))


def test_a_graph_of_the_whole_model_is_used_as_it_is(tmp_path: Path) -> None:
    folder = shutil.copytree(PACKAGED_FOLDER, tmp_path / "mine")
    (folder / "SHA256SUMS").unlink()
    graph = onnx.load(folder / "model.onnx")
    made = graph.graph.output[0].name
    graph.graph.node.append(onnx.helper.make_node("Identity", [made], ["sentence_embedding"]))
    value = onnx.helper.make_tensor_value_info("sentence_embedding", 1, ["n", 384])
    graph.graph.output.append(value)
    onnx.save(graph, folder / "model.onnx")
    packaged = OnnxEmbedder(EmbeddingSettings(threads=1))
    whole = OnnxEmbedder(EmbeddingSettings(model=str(folder), threads=1))
    assert np.array_equal(whole.embed(["cat"], "query"), packaged.embed(["cat"], "query"))


def test_only_the_cpu_is_offered() -> None:
    with pytest.raises(SettingsError, match="not on 'cuda'") as caught:
        OnnxEmbedder(EmbeddingSettings(device="cuda"))
    assert caught.value.field == "EMBEDDING_DEVICE"
