"""Vectors that mean nothing, for tests: a hash of the text, the same in every process."""

import hashlib
from collections.abc import Sequence

import numpy as np
import structlog

from mnemolite.embeddings import Kind, ModelInfo, Span, Vectors, check_texts
from mnemolite.embeddings.passages import cut
from mnemolite.embeddings.templates import TEMPLATE

log = structlog.get_logger(__name__)

_DIMENSION = 384
_MAX_TOKENS = 256
# The window in "tokens" of four characters, less room for the wrapper.
_TOKEN_LENGTH = 4
_ROOM = 220
_DIGEST_NUMBERS = 16


class MockEmbedder:
    """Equal texts get equal vectors, different texts unrelated ones."""

    def __init__(self, dimension: int | None = None) -> None:
        self.info = ModelInfo(
            provider="mock",
            model="mock",
            revision="1",
            dimension=dimension or _DIMENSION,
            pooling="none",
            template=TEMPLATE,
            max_tokens=_MAX_TOKENS,
        )
        log.warning(
            "mock_embeddings",
            detail="EMBEDDING_MODE=mock: vectors are hashes, searching by meaning finds nothing.",
        )

    def embed(self, texts: Sequence[str], kind: Kind) -> Vectors:
        check_texts(texts)
        vectors = np.empty((len(texts), self.info.dimension), np.float32)
        for row, text in zip(vectors, texts, strict=True):
            row[:] = _vector(text, self.info.dimension)
        return vectors

    def passages(self, text: str) -> list[Span]:
        check_texts([text])
        return cut(text, np.arange(0, len(text), _TOKEN_LENGTH), room=_ROOM)

    def close(self) -> None:
        """Nothing to release."""


def _vector(text: str, dimension: int) -> Vectors:
    key = hashlib.blake2b(text.encode()).digest()
    digests = (
        hashlib.blake2b(key, salt=number.to_bytes(16, "little")).digest()
        for number in range(-(-dimension // _DIGEST_NUMBERS))
    )
    numbers = np.frombuffer(b"".join(digests), "<u4")[:dimension]
    vector = (numbers.astype(np.float64) + 0.5) / 2**31 - 1
    return (vector / np.linalg.norm(vector)).astype(np.float32)
