"""What known families of models want to read before a query or a document."""

# By a part of the model's name in lower case; the first match wins.
_PREFIXES: dict[str, tuple[str, str]] = {
    "nomic-embed-text": ("search_query: ", "search_document: "),
    "multilingual-e5-large-instruct": ("Instruct: Retrieve what answers the query\nQuery: ", ""),
    "e5-small": ("query: ", "passage: "),
    "e5-base": ("query: ", "passage: "),
    "e5-large": ("query: ", "passage: "),
    "bge-m3": ("", ""),
    "bge-small-en": ("Represent this sentence for searching relevant passages: ", ""),
    "bge-base-en": ("Represent this sentence for searching relevant passages: ", ""),
    "bge-large-en": ("Represent this sentence for searching relevant passages: ", ""),
    "mxbai-embed": ("Represent this sentence for searching relevant passages: ", ""),
    "arctic-embed-m-v2": ("query: ", ""),
    "arctic-embed-l-v2": ("query: ", ""),
    "arctic-embed": ("Represent this sentence for searching relevant passages: ", ""),
}


def known_prefixes(model: str) -> tuple[str, str]:
    """The prefixes (query, document) of a known model; empty ones for the others."""
    name = model.lower()
    return next((both for part, both in _PREFIXES.items() if part in name), ("", ""))
