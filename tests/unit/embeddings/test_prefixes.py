"""Known models and their prefixes."""

import pytest

from mnemolite.embeddings.prefixes import known_prefixes


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("nomic-ai/nomic-embed-text-v1.5", ("search_query: ", "search_document: ")),
        ("intfloat/multilingual-E5-small", ("query: ", "passage: ")),
        ("BAAI/bge-m3", ("", "")),
        ("all-MiniLM-L6-v2", ("", "")),
    ],
)
def test_prefixes(model: str, expected: tuple[str, str]) -> None:
    assert known_prefixes(model) == expected
