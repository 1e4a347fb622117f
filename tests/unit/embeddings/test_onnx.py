"""The packaged model: what its vectors mean, and how misuse is answered."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from mnemolite.embeddings import similarity
from mnemolite.embeddings.model_folder import PACKAGED_MODEL, Pooling, open_folder
from mnemolite.embeddings.onnx import OnnxEmbedder, pool
from mnemolite.embeddings.templates import recall_text
from mnemolite.errors import EmbeddingError, ModelUnavailableError, SettingsError
from mnemolite.settings import EmbeddingSettings


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
    folder = shutil.copytree(open_folder(PACKAGED_MODEL).graph.parent, tmp_path / "mine")
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
