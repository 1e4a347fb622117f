"""Turning text into vectors: what an embedder promises, and the one place that makes one.

Reproducible: a text's vector depends on the text alone. The packaged model has no scale that is
taken from a batch, and a text is padded to a length that follows from its own. Measured on x86-64:
4,000 texts alone with one thread, and in batches with two, differ in no bit (the bound tested is
equality). Between kinds of CPU the integer products are equal and the last bits of the
floating-point parts may differ; summing in another order, as with other padding, moved components
by at most 3e-8.

Importing this package loads no model runtime.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from mnemolite.errors import InvalidInputError, InvalidTextError, InvalidVectorError

if TYPE_CHECKING:
    from mnemolite.settings import EmbeddingSettings

__all__ = [
    "Embedder",
    "Kind",
    "ModelInfo",
    "Span",
    "Vectors",
    "check_texts",
    "create_embedder",
    "similarity",
]

Kind = Literal["query", "document"]
Span = tuple[int, int]
Vectors = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """The identity of an embedding space: vectors are comparable only if all of this is equal."""

    provider: str
    model: str
    revision: str
    dimension: int
    query_prefix: str = ""
    document_prefix: str = ""
    pooling: str
    normalisation: str = "l2"
    template: str
    max_tokens: int

    @property
    def digest(self) -> str:
        """SHA-256, in hexadecimal, of the identity; the same in every process."""
        identity = json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(identity.encode()).hexdigest()


class Embedder(Protocol):
    """Turns texts into vectors. Synchronous, CPU-bound, safe to call from several threads."""

    @property
    def info(self) -> ModelInfo:
        """What makes this embedder's vectors comparable with others."""

    def embed(self, texts: Sequence[str], kind: Kind) -> Vectors:
        """Return one row of unit length for each text, in their order.

        A blank text raises InvalidInputError. A document that exceeds the model's window raises
        EmbeddingError: cut it with ``passages`` first. A query is cut to the window.
        """

    def passages(self, text: str) -> list[Span]:
        """Cut a text into overlapping ``(start, end)`` spans that fit the window once wrapped.

        Together they cover the text; one that fits is one span.
        """

    def close(self) -> None:
        """Release the model."""


def create_embedder(settings: "EmbeddingSettings") -> Embedder:
    """Load what the settings name; raises SettingsError or ModelUnavailableError if it cannot."""
    # Imported where they are chosen, for each brings the runtime of its models.
    if settings.mode == "mock":
        from mnemolite.embeddings.mock import MockEmbedder

        return MockEmbedder(settings.dimension)
    match settings.provider:
        case "onnx":
            from mnemolite.embeddings.onnx import OnnxEmbedder

            return OnnxEmbedder(settings)
        case "sentence-transformers":
            from mnemolite.embeddings.sentence_transformers import SentenceTransformersEmbedder

            return SentenceTransformersEmbedder(settings)
        case "remote":
            from mnemolite.embeddings.remote import RemoteEmbedder

            return RemoteEmbedder(settings)


def check_texts(texts: Sequence[str]) -> None:
    """Raise an error that names the first text which has no embedding."""
    for number, text in enumerate(texts):
        field = f"texts[{number}]"
        if not text or text.isspace():
            raise InvalidInputError("A blank text has no embedding.", field=field)
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InvalidTextError(
                f"Character {error.start} is a lone surrogate.", field=field
            ) from error


def similarity(a: NDArray[np.floating], b: NDArray[np.floating]) -> float:
    """Cosine of two vectors, clipped to [0, 1]; 0 if one of them is zero."""
    if a.shape != b.shape:
        raise InvalidVectorError(
            f"Vectors of {a.shape[-1]} and {b.shape[-1]} dimensions cannot be compared."
        )
    x, y = a.astype(np.float64), b.astype(np.float64)
    length = float(np.linalg.norm(x) * np.linalg.norm(y))
    return float(np.clip(x @ y / length, 0.0, 1.0)) if length else 0.0
