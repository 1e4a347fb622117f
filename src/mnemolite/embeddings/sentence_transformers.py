"""Embedding with sentence-transformers on PyTorch: any of its models, on a CPU or a GPU.

Needs the extra ``sentence-transformers``. The model runs as its authors ship it, so vectors are
theirs up to the last bits: what shares a batch with a text moves them by less than 1e-6 in fp32.
"""

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from pickle import PickleError
from typing import TYPE_CHECKING, Any

import numpy as np
from tokenizers import Tokenizer

from mnemolite.embeddings import Kind, ModelInfo, Span, Vectors, check_texts
from mnemolite.embeddings.model_folder import ModelFolder, broken
from mnemolite.embeddings.shortening import choose_shortening
from mnemolite.embeddings.sources import find_folder
from mnemolite.embeddings.templates import TEMPLATE
from mnemolite.embeddings.tokens import Tokens
from mnemolite.embeddings.weights import digest_of_weights, files_to_fetch
from mnemolite.errors import EmbeddingError, ModelUnavailableError, SettingsError

if TYPE_CHECKING:
    from mnemolite.settings import EmbeddingSettings

# What loaders of files and a model's own code raise; they have no class in common.
_LOAD_ERRORS = (
    *(OSError, ValueError, TypeError, LookupError, RuntimeError, ImportError, PickleError),
    *(AttributeError, NameError, SyntaxError, AssertionError),
)
_REMOTE_CODE = "trust_remote_code"
# Bounds of one run: tokens with their padding, and texts.
_BATCH_TOKENS, _BATCH_TEXTS = 8192, 64


class SentenceTransformersEmbedder:
    """A sentence-transformers model. One call runs at a time."""

    def __init__(self, settings: "EmbeddingSettings") -> None:
        folder = find_folder(_address(settings.model), files_to_fetch, revision=settings.revision)
        self._model = _load(folder, settings)
        self._tokens = _tokens_of(self._model, folder, settings=settings)
        self._lock = threading.Lock()
        full = self._run(["a"], prefix="").shape[1]
        self._shortening = choose_shortening(
            folder.name, settings.dimension, full=full, allowed=settings.matryoshka
        )
        window = self._tokens.window
        self.info = ModelInfo(
            provider="sentence-transformers",
            model=folder.name,
            revision=digest_of_weights(folder),
            dimension=self._shortening.dimension,
            query_prefix=window.query_prefix,
            document_prefix=window.document_prefix,
            pooling="+".join(folder.pooling_modes()) or "model",
            normalisation=self._shortening.normalisation,
            template=TEMPLATE,
            max_tokens=window.max_tokens,
        )

    def embed(self, texts: Sequence[str], kind: Kind) -> Vectors:
        check_texts(texts)
        vectors = np.empty((len(texts), self.info.dimension), np.float32)
        trimmed, prefix = self._tokens.trimmed(texts, kind), self._tokens.prefix(kind)
        lengths = [len(ids) for ids in self._tokens.encode(texts, kind)]
        for rows in _batches(lengths):
            computed = self._run([trimmed[row] for row in rows], prefix=prefix)
            vectors[rows] = self._shortening.apply(computed)
        return vectors

    def passages(self, text: str) -> list[Span]:
        return self._tokens.passages(text)

    def close(self) -> None:
        """Nothing is held but memory, which goes with the object."""

    def _run(self, texts: list[str], *, prefix: str) -> Vectors:
        try:
            # Its tokeniser keeps a state that two threads must not change at a time.
            with self._lock:
                computed = self._model.encode(
                    texts,
                    prompt=prefix,
                    batch_size=len(texts),
                    show_progress_bar=False,
                    convert_to_numpy=True,
                )
        except (RuntimeError, ValueError, IndexError) as error:  # PyTorch's own among them
            raise EmbeddingError(f"sentence-transformers failed: {error}") from error
        return np.asarray(computed, np.float32)


# --- Loading ------------------------------------------------------------------------------------


def _address(model: str) -> str:
    """Bare names are models of the library's own account on the hub, as in the library."""
    given = "/" in model or Path(model).expanduser().is_dir()
    return model if given else f"sentence-transformers/{model}"


def _load(folder: ModelFolder, settings: "EmbeddingSettings") -> Any:
    # Imported here, for PyTorch takes seconds and the extra may be missing.
    try:
        import torch
        from safetensors import SafetensorError
        from sentence_transformers import SentenceTransformer
        from transformers.utils.logging import disable_progress_bar
    except ImportError as error:
        raise SettingsError(
            f"sentence-transformers cannot be imported: {error}.",
            field="MNEMO_EMBEDDING_PROVIDER",
            remedy="Install it: pip install 'mnemolite[sentence-transformers]'.",
        ) from error
    _check_device(torch, settings.device)
    disable_progress_bar()  # a server's log is no place for it
    if settings.threads:
        torch.set_num_threads(settings.threads)
    try:
        return SentenceTransformer(
            str(folder.path),
            device=settings.device,
            trust_remote_code=settings.trust_remote_code,
        )
    except (*_LOAD_ERRORS, SafetensorError) as error:
        raise _load_error(folder, error) from error


def _load_error(folder: ModelFolder, error: Exception) -> ModelUnavailableError:
    wants_trust = _REMOTE_CODE in str(error)
    return ModelUnavailableError(
        f"sentence-transformers cannot load {folder.name!r}: {error}",
        field="EMBEDDING_MODEL",
        remedy="The model brings code of its own. If you trust its authors, let it run with "
        "MNEMO_EMBEDDING_TRUST_REMOTE_CODE=true."
        if wants_trust
        else "Check that the folder is whole.",
    )


def _check_device(torch: Any, device: str) -> None:
    usable = {
        "cpu": True,
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
    }
    if not usable[device]:
        raise SettingsError(
            f"PyTorch {torch.__version__} finds no {device!r} on this machine.",
            field="EMBEDDING_DEVICE",
            remedy=f"Set it to {' or '.join(name for name, there in usable.items() if there)}, or "
            "install a build of PyTorch for the device.",
        )


def _tokens_of(model: Any, folder: ModelFolder, *, settings: "EmbeddingSettings") -> Tokens:
    """The model's tokeniser, a copy of our own, and its window, which the model is held to."""
    tokenizer = getattr(model.tokenizer, "backend_tokenizer", model.tokenizer)
    if not isinstance(tokenizer, Tokenizer):
        raise broken(folder.path, "its tokeniser has no fast form, so texts cannot be cut to fit")
    window = folder.window(settings, limit=model.max_seq_length)
    if model.max_seq_length is not None:
        model.max_seq_length = window.max_tokens
    return Tokens(Tokenizer.from_str(tokenizer.to_str()), window)


def _batches(lengths: list[int]) -> Iterator[list[int]]:
    """The numbers of texts by growing length, in batches that a model's memory can bear."""
    rows: list[int] = []
    for row in sorted(range(len(lengths)), key=lambda row: lengths[row]):
        full = len(rows) == _BATCH_TEXTS or lengths[row] * (len(rows) + 1) > _BATCH_TOKENS
        if rows and full:
            yield rows
            rows = []
        rows.append(row)
    if rows:
        yield rows
