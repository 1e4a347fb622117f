"""Known models: the facts of their cards, by name, hub id or the name of a copy."""

import pytest

from mnemolite.embeddings.known_models import KnownModel, known_model, known_prefixes

SENTENCE = "Represent this sentence for searching relevant passages: "


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("nomic-ai/nomic-embed-text-v1", ("search_query: ", "search_document: ")),
        ("nomic-ai/nomic-embed-text-v1.5", ("search_query: ", "search_document: ")),
        ("intfloat/e5-base-v2", ("query: ", "passage: ")),
        ("intfloat/multilingual-E5-small", ("query: ", "passage: ")),
        ("BAAI/bge-m3", ("", "")),
        ("Xenova/bge-small-en-v1.5", (SENTENCE, "")),
        ("thenlper/gte-base", ("", "")),
        ("mixedbread-ai/mxbai-embed-large-v1", (SENTENCE, "")),
        ("Snowflake/snowflake-arctic-embed-m-v1.5", (SENTENCE, "")),
        ("Snowflake/snowflake-arctic-embed-l-v2.0", ("query: ", "")),
        ("google/embeddinggemma-300m", ("task: search result | query: ", "title: none | text: ")),
        ("all-MiniLM-L6-v2", ("", "")),
        ("e5-lookalikes/something", ("", "")),
    ],
)
def test_prefixes(model: str, expected: tuple[str, str]) -> None:
    assert known_prefixes(model) == expected


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("BAAI/bge-base-en-v1.5", "cls"),
        ("thenlper/gte-base", "mean"),
        ("Alibaba-NLP/gte-base-en-v1.5", "cls"),
        ("Snowflake/snowflake-arctic-embed-xs", "cls"),
        ("Qwen/Qwen3-Embedding-0.6B", "lasttoken"),
        ("unknown", "mean"),
    ],
)
def test_pooling(model: str, expected: str) -> None:
    assert known_model(model).pooling == expected


@pytest.mark.parametrize(
    ("model", "matryoshka", "layer_norm"),
    [
        ("nomic-ai/nomic-embed-text-v1", False, False),
        ("nomic-ai/nomic-embed-text-v1.5", True, True),
        ("nomic-ai/nomic-embed-text-v2-moe", True, False),
        ("Snowflake/snowflake-arctic-embed-m", False, False),
        ("Snowflake/snowflake-arctic-embed-m-v1.5", True, False),
        ("mixedbread-ai/mxbai-embed-large-v1", True, False),
    ],
)
def test_who_may_be_cut(model: str, matryoshka: bool, layer_norm: bool) -> None:
    known = known_model(model)
    assert (known.matryoshka, known.layer_norm) == (matryoshka, layer_norm)


def test_others_are_taken_as_they_come() -> None:
    assert known_model("my/own-model") == KnownModel()
