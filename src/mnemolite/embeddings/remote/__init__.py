"""Embedding by a model server: OpenAI-compatible, TEI, or KServe v2 (Triton), over HTTP.

The server may be slow, busy, wrong or gone. When a request fails for good, a harmless text is
sent: if the server embeds that, the text is to blame (EmbeddingError, and the worker parks it after
some tries); if not, the server is (ModelUnavailableError, and the worker waits).
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mnemolite.embeddings import Kind, ModelInfo, Span, Vectors, check_texts
from mnemolite.embeddings.known_models import known_prefixes
from mnemolite.embeddings.remote.circuit import Circuit
from mnemolite.embeddings.remote.counting import Window
from mnemolite.embeddings.remote.transport import ServerFailureError, Transport
from mnemolite.embeddings.shortening import Shortening, choose_shortening
from mnemolite.embeddings.templates import TEMPLATE
from mnemolite.errors import (
    EmbeddingError,
    ModelMismatchError,
    ModelUnavailableError,
    SettingsError,
)

if TYPE_CHECKING:
    from mnemolite.settings import EmbeddingSettings

__all__ = ["RemoteEmbedder"]

# Where the settings say nothing of the model behind the server.
_MAX_TOKENS = 512
_REVISION = "1"


class RemoteEmbedder:
    """A model behind HTTP. Safe to use from several threads; keeps some requests in flight."""

    def __init__(self, settings: "EmbeddingSettings") -> None:
        query, document = known_prefixes(settings.model)
        query = query if settings.query_prefix is None else settings.query_prefix
        document = document if settings.document_prefix is None else settings.document_prefix
        max_tokens = settings.max_tokens or _MAX_TOKENS
        self._window = Window(
            Path(settings.tokenizer).expanduser() if settings.tokenizer else None,
            max_tokens=max_tokens,
            document_prefix=document,
        )
        self._settings = settings
        self._circuit = Circuit(settings.circuit_seconds)
        self._transport, self._full_dimension = _connect(settings)
        self._pool = ThreadPoolExecutor(settings.concurrency, thread_name_prefix="model-server")
        self._shortening = self._choose_shortening()
        self.info = ModelInfo(
            provider="remote",
            model=settings.model,
            revision=settings.revision or _REVISION,
            dimension=self._shortening.dimension,
            query_prefix=query,
            document_prefix=document,
            pooling="server",
            normalisation=self._shortening.normalisation,
            template=TEMPLATE,
            max_tokens=max_tokens,
        )

    def embed(self, texts: Sequence[str], kind: Kind) -> Vectors:
        check_texts(texts)
        vectors = np.empty((len(texts), self.info.dimension), np.float32)
        prefixed = [self._prefixed(text, kind, number=n) for n, text in enumerate(texts)]
        batches = list(_batches(prefixed, self._settings))
        with self._circuit.attempt():
            calls = [
                self._pool.submit(self._ask, [prefixed[row] for row in rows], kind)
                for rows in batches
            ]
            try:
                for rows, call in zip(batches, calls, strict=True):
                    vectors[rows] = call.result()
            finally:
                for call in calls:
                    call.cancel()
        return vectors

    def passages(self, text: str) -> list[Span]:
        return self._window.passages(text)

    def close(self) -> None:
        """End the connections; harmless when done twice."""
        self._transport.close()
        self._pool.shutdown(cancel_futures=True)

    def _prefixed(self, text: str, kind: Kind, *, number: int) -> str:
        if kind == "query":
            return self.info.query_prefix + self._window.trimmed(text, self.info.query_prefix)
        prefixed = self.info.document_prefix + text
        if not self._window.fits(prefixed):
            raise EmbeddingError(
                f"The text has more than {self.info.max_tokens} tokens.",
                field=f"texts[{number}]",
                remedy="Cut it into passages first.",
            )
        return prefixed

    def _choose_shortening(self) -> Shortening:
        settings = self._settings
        try:
            return choose_shortening(
                settings.model,
                settings.dimension,
                full=self._full_dimension,
                allowed=settings.matryoshka,
            )
        except SettingsError:
            self._transport.close()
            raise

    def _ask(self, texts: Sequence[str], kind: Kind) -> Vectors:
        try:
            matrix = self._transport.ask(texts, kind)
        except ServerFailureError as error:
            if self._transport.answers():
                raise EmbeddingError(f"The model server fails on the text: {error}.") from error
            raise ModelUnavailableError(f"The model server fails: {error}.") from error
        if matrix.shape[1] != self._full_dimension:
            raise ModelMismatchError(
                f"The model server returns {matrix.shape[1]} dimensions, and returned "
                f"{self._full_dimension} at the start.",
                remedy="Serve the former model again, or restart this program.",
            )
        return self._shortening.apply(matrix)


def _connect(settings: "EmbeddingSettings") -> tuple[Transport, int]:
    """The server, and the dimension of what it returns; raises ModelUnavailableError."""
    with ExitStack() as stack:
        transport = Transport(settings)
        stack.callback(transport.close)
        try:
            matrix = transport.open()
        except ServerFailureError as error:
            raise ModelUnavailableError(
                f"The model server {settings.url} cannot be used: {error}.",
                field="MNEMO_EMBEDDING_URL",
                remedy=f"Is it running, and does it speak {settings.protocol!r} "
                "(MNEMO_EMBEDDING_PROTOCOL)?",
            ) from error
        stack.pop_all()
    return transport, matrix.shape[1]


def _batches(texts: Sequence[str], settings: "EmbeddingSettings") -> Iterator[list[int]]:
    """The numbers of the texts in requests of bounded count and bytes, shortest texts first."""
    sizes = [len(text.encode()) for text in texts]
    rows: list[int] = []
    filled = 0
    for row in sorted(range(len(texts)), key=sizes.__getitem__):
        full = len(rows) >= settings.request_texts or filled + sizes[row] > settings.request_bytes
        if rows and full:
            yield rows
            rows, filled = [], 0
        rows.append(row)
        filled += sizes[row]
    if rows:
        yield rows
