"""From what a model computed to a vector of the wanted dimension and unit length."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mnemolite.embeddings import Vectors
from mnemolite.embeddings.known_models import known_model
from mnemolite.errors import EmbeddingError, SettingsError


@dataclass(frozen=True, kw_only=True)
class Shortening:
    """How many numbers of a vector are kept, and whether its mean is taken off before."""

    dimension: int
    layer_norm: bool = False

    @property
    def normalisation(self) -> str:
        """Its part in the identity of a space."""
        return "layer_norm+l2" if self.layer_norm else "l2"

    def apply(self, vectors: NDArray[np.floating]) -> Vectors:
        """Cut each row and scale it to unit length; raises EmbeddingError if it has no direction.

        Of a layer normalisation only the mean matters: its divisor cancels in the unit length.
        """
        rows = np.asarray(vectors, np.float32)
        if self.layer_norm:
            rows = rows - rows.mean(axis=1, keepdims=True)
        rows = rows[:, : self.dimension]
        lengths = np.linalg.norm(rows, axis=1, keepdims=True)
        if not (np.isfinite(lengths).all() and lengths.all()):
            raise EmbeddingError("The model returned a vector without a direction.")
        return np.asarray(rows / lengths, np.float32)


def choose_shortening(
    model: str, wanted: int | None, *, full: int, allowed: bool = False
) -> Shortening:
    """What EMBEDDING_DIMENSION means for a model whose vectors have ``full`` numbers.

    Raises SettingsError for more than the model has, and for fewer where neither the model is known
    to allow it nor the settings say so (``allowed``).
    """
    if wanted is None or wanted == full:
        return Shortening(dimension=full)
    if wanted > full:
        raise SettingsError(
            f"The model {model!r} has {full} dimensions, not {wanted}.",
            field="EMBEDDING_DIMENSION",
            remedy=f"Leave it unset or set it to {full}.",
        )
    known = known_model(model)
    if not (known.matryoshka or allowed):
        raise SettingsError(
            f"The model {model!r} has {full} dimensions, and is not known to allow {wanted}.",
            field="EMBEDDING_DIMENSION",
            remedy="Leave it unset; or set MNEMO_EMBEDDING_MATRYOSHKA=true if the model's card "
            "says that its vectors may be cut.",
        )
    return Shortening(dimension=wanted, layer_norm=known.layer_norm)
