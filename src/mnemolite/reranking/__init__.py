"""Judging question and text together: what a reranker promises, and the one place that makes one.

Importing this package loads no model runtime and no HTTP client.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from mnemolite.errors import InvalidInputError, InvalidTextError, RerankingError

if TYPE_CHECKING:
    from mnemolite.settings import RerankerSettings

__all__ = ["Reranker", "RerankerInfo", "check_pairs", "check_scores", "create_reranker"]


@dataclass(frozen=True, kw_only=True)
class RerankerInfo:
    """Who judges."""

    provider: str
    model: str


class Reranker(Protocol):
    """Scores texts by how well each answers a query. Its calls may overlap and be cancelled."""

    @property
    def info(self) -> RerankerInfo:
        """Who judges."""

    async def rerank(self, query: str, texts: Sequence[str]) -> list[float]:
        """Return one finite score for each text, in their order; higher is better.

        Scores of one call can be compared with each other and with nothing else. A blank query or
        text raises InvalidInputError; a reranker that fails raises RerankingError. The caller sets
        the deadline, by cancelling.
        """

    async def close(self) -> None:
        """Release the model, or the connections; harmless when repeated."""


def create_reranker(settings: "RerankerSettings") -> Reranker | None:
    """Load what the settings name; None if they name nobody.

    Raises SettingsError or RerankerUnavailableError. Loads a cross-encoder in the calling thread,
    which takes seconds.
    """
    if settings.provider == "none":
        return None
    if settings.provider == "cross-encoder":
        from mnemolite.reranking.cross_encoder import CrossEncoderReranker

        return CrossEncoderReranker(settings)
    from mnemolite.reranking.remote import RemoteReranker

    return RemoteReranker(settings)


def check_pairs(query: str, texts: Sequence[str]) -> None:
    """Raise an error that names the query or the first text which cannot be judged."""
    named = [("query", query), *((f"texts[{n}]", text) for n, text in enumerate(texts))]
    for field, text in named:
        if not text or text.isspace():
            raise InvalidInputError("A blank text cannot be judged.", field=field)
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InvalidTextError(
                f"Character {error.start} is a lone surrogate.", field=field
            ) from error


def check_scores(scores: Sequence[float], count: int) -> list[float]:
    """Return the scores of ``count`` texts; a reranker that gives others has failed."""
    if len(scores) != count:
        raise RerankingError(f"The reranker gave {len(scores)} scores for {count} texts.")
    for number, score in enumerate(scores):
        if not math.isfinite(score):
            raise RerankingError(f"The reranker gave the score {score} to text {number}.")
    return list(scores)
