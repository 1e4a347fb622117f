"""What is known about families of models: their prefixes, their pooling, how they may be cut.

The facts are from the models' cards. What a model's own files say goes before this table, and the
settings go before both.
"""

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

Pooling = Literal["mean", "cls", "lasttoken"]


@dataclass(frozen=True, kw_only=True)
class KnownModel:
    """A family of models. ``matryoshka``: the first numbers of a vector are a vector too."""

    query_prefix: str = ""
    document_prefix: str = ""
    pooling: Pooling = "mean"
    matryoshka: bool = False
    layer_norm: bool = False
    """Whether vectors are layer-normalised before they are cut."""


_INSTRUCT = "Instruct: Given a web search query, retrieve relevant passages that answer the query"
_SENTENCE = "Represent this sentence for searching relevant passages: "
_NOMIC = ("search_query: ", "search_document: ")

# Patterns of the name's last part in lower case; the first match wins.
_FAMILIES: dict[str, KnownModel] = {
    "nomic-embed-text-v1.5*": KnownModel(
        query_prefix=_NOMIC[0], document_prefix=_NOMIC[1], matryoshka=True, layer_norm=True
    ),
    "nomic-embed-text-v2*": KnownModel(
        query_prefix=_NOMIC[0], document_prefix=_NOMIC[1], matryoshka=True
    ),
    "nomic-embed-text*": KnownModel(query_prefix=_NOMIC[0], document_prefix=_NOMIC[1]),
    "e5-mistral-7b-instruct*": KnownModel(
        query_prefix=f"{_INSTRUCT}\nQuery: ", pooling="lasttoken"
    ),
    "multilingual-e5-large-instruct*": KnownModel(query_prefix=f"{_INSTRUCT}\nQuery: "),
    "e5-*": KnownModel(query_prefix="query: ", document_prefix="passage: "),
    "multilingual-e5-*": KnownModel(query_prefix="query: ", document_prefix="passage: "),
    "bge-m3*": KnownModel(pooling="cls"),
    "bge-*-en*": KnownModel(query_prefix=_SENTENCE, pooling="cls"),
    "bge-*-zh*": KnownModel(query_prefix="为这个句子生成表示以用于检索相关文章：", pooling="cls"),  # noqa: RUF001
    "mxbai-embed-xsmall*": KnownModel(),
    "mxbai-embed-*": KnownModel(query_prefix=_SENTENCE, pooling="cls", matryoshka=True),
    "snowflake-arctic-embed-*-v2*": KnownModel(
        query_prefix="query: ", pooling="cls", matryoshka=True
    ),
    "snowflake-arctic-embed-m-v1.5*": KnownModel(
        query_prefix=_SENTENCE, pooling="cls", matryoshka=True
    ),
    "snowflake-arctic-embed-*": KnownModel(query_prefix=_SENTENCE, pooling="cls"),
    "gte-multilingual-base*": KnownModel(pooling="cls", matryoshka=True),
    "gte-modernbert-*": KnownModel(pooling="cls"),
    "gte-*-en-v1.5*": KnownModel(pooling="cls"),
    "qwen3-embedding-*": KnownModel(
        query_prefix=f"{_INSTRUCT}\nQuery:", pooling="lasttoken", matryoshka=True
    ),
    "embeddinggemma-*": KnownModel(
        query_prefix="task: search result | query: ",
        document_prefix="title: none | text: ",
        matryoshka=True,
    ),
    "granite-embedding-*": KnownModel(pooling="cls"),
}


def known_model(name: str) -> KnownModel:
    """The family of a model by its name or hub id; for all others no prefixes, and the mean."""
    last = name.rstrip("/").rsplit("/", 1)[-1].lower()
    matches = (known for pattern, known in _FAMILIES.items() if fnmatchcase(last, pattern))
    return next(matches, KnownModel())


def known_prefixes(name: str) -> tuple[str, str]:
    """The prefixes (query, document) of a known model; empty ones for the others."""
    known = known_model(name)
    return known.query_prefix, known.document_prefix
