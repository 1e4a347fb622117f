"""Embedding on the CPU with ONNX Runtime: the packaged model, or a folder with an ONNX export.

The packaged all-MiniLM-L6-v2 is int8 with fixed or per-token scales, so vectors do not change with
the batch; ``tools/build_minilm.py`` tells how. Its integer products are the same on every CPU:
fast with VNNI, slower but exact without, and on aarch64.
"""

import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.capi import onnxruntime_pybind11_state
from tokenizers import Tokenizer

from mnemolite.embeddings import Kind, ModelInfo, Span, Vectors, check_texts
from mnemolite.embeddings.model_folder import ModelFolder, Pooling, open_folder
from mnemolite.embeddings.passages import BLOCK, cut, halve, token_starts
from mnemolite.embeddings.prefixes import known_prefixes
from mnemolite.embeddings.templates import TEMPLATE, WRAPPER_TOKENS
from mnemolite.errors import EmbeddingError, ModelUnavailableError, SettingsError

if TYPE_CHECKING:
    from mnemolite.settings import EmbeddingSettings

Ids = list[int]

# Texts are padded to a multiple of this, and only texts of one padded length share a batch: the
# shape of every computation on a text, and so every bit of its vector, follows from the text.
_LENGTH_STEP = 4
# Tokens of one run, padding included. Larger runs are not faster and take more memory.
_BATCH_TOKENS = 1024
# A query beyond this many characters for each token of the window is not even tokenised.
_QUERY_CHARACTERS_PER_TOKEN = 64
# Of large windows more is left for the wrapper: their tokenisers may need more tokens for a name.
_WRAPPER_SHARE = 8
_POOLED_RANK = 2

# ONNX Runtime's errors have no class in common but Exception.
_RUNTIME_ERRORS: tuple[type[Exception], ...] = tuple(
    error
    for error in vars(onnxruntime_pybind11_state).values()
    if isinstance(error, type) and issubclass(error, Exception)
)


class OnnxEmbedder:
    """An ONNX graph and its tokeniser."""

    def __init__(self, settings: "EmbeddingSettings") -> None:
        self._folder = open_folder(settings.model)
        self._tokenizer = _open_tokenizer(self._folder)
        self._pad_id = _pad_id(self._tokenizer)
        self._special, self._tail = _special_tokens(self._tokenizer)
        self._session = _open_session(self._folder, settings.threads or _available_cores())
        self._inputs = {node.name for node in self._session.get_inputs()}
        self._output: str = self._session.get_outputs()[0].name
        dimension = self._run([self._tokenizer.encode("a").ids]).shape[1]
        self.info = _describe(self._folder, settings, dimension=dimension)

    def embed(self, texts: Sequence[str], kind: Kind) -> Vectors:
        check_texts(texts)
        vectors = np.empty((len(texts), self.info.dimension), np.float32)
        encoded = self._encode(texts, kind)
        for rows in _batches([len(ids) for ids in encoded]):
            vectors[rows] = self._run([encoded[row] for row in rows])
        return vectors

    def passages(self, text: str) -> list[Span]:
        check_texts([text])
        prefix = self._tokenizer.encode(self.info.document_prefix, add_special_tokens=False)
        wrapper = max(WRAPPER_TOKENS, self.info.max_tokens // _WRAPPER_SHARE)
        room = self.info.max_tokens - self._special - len(prefix.ids) - wrapper
        starts = token_starts(text, self._offsets)
        if len(starts) <= room and len(text) <= BLOCK:
            return [(0, len(text))]
        # A cut inside a word, or a block's border there, can make other tokens of it: count again.
        spans = cut(text, starts, room=room)
        pieces = [text[start:end] for start, end in spans]
        encoded = self._tokenizer.encode_batch_fast(pieces, add_special_tokens=False)
        return [
            part
            for span, piece in zip(spans, encoded, strict=True)
            for part in ([span] if len(piece.ids) <= room else self._halve(text, span, room=room))
        ]

    def close(self) -> None:
        """Nothing is held but memory, which goes with the object."""

    def _halve(self, text: str, span: Span, *, room: int) -> list[Span]:
        return halve(text, span, fits=lambda piece: len(self._offsets(piece)) <= room)

    def _offsets(self, text: str) -> list[Span]:
        return self._tokenizer.encode(text, add_special_tokens=False).offsets

    def _encode(self, texts: Sequence[str], kind: Kind) -> list[Ids]:
        if kind == "document":
            prefixed = [self.info.document_prefix + text for text in texts]
        else:
            longest = self.info.max_tokens * _QUERY_CHARACTERS_PER_TOKEN
            prefixed = [self.info.query_prefix + text.strip()[:longest] for text in texts]
        encoded = [one.ids for one in self._tokenizer.encode_batch_fast(prefixed)]
        return [self._fit(ids, kind, number=number) for number, ids in enumerate(encoded)]

    def _fit(self, ids: Ids, kind: Kind, *, number: int) -> Ids:
        limit = self.info.max_tokens
        if len(ids) <= limit:
            return ids
        if kind == "document":
            raise EmbeddingError(
                f"The text has {len(ids)} tokens, the model takes {limit}.",
                field=f"texts[{number}]",
                remedy="Cut it into passages first.",
            )
        end = len(ids) - self._tail
        return ids[: limit - self._tail] + ids[end:]

    def _run(self, batch: list[Ids]) -> Vectors:
        length = _padded(max(map(len, batch)), self._folder.max_tokens)
        ids = np.full((len(batch), length), self._pad_id, np.int64)
        mask = np.zeros_like(ids)
        for row, text in enumerate(batch):
            ids[row, : len(text)] = text
            mask[row, : len(text)] = 1
        feed = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        feed = {name: value for name, value in feed.items() if name in self._inputs}
        try:
            [output] = self._session.run([self._output], feed)
        except _RUNTIME_ERRORS as error:
            raise EmbeddingError(f"ONNX Runtime failed: {error}") from error
        # A graph that gives one row for each text has pooled already.
        pooled = (
            output
            if output.ndim == _POOLED_RANK
            else pool(output, mask, pooling=self._folder.pooling)
        )
        return _normalise(pooled)


# --- Loading ------------------------------------------------------------------------------------


def _available_cores() -> int:
    """The cores this process may run on, which can be fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _open_session(folder: ModelFolder, threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # The database often runs on the same cores: waiting threads sleep instead of spinning.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(
            str(folder.graph), options, providers=["CPUExecutionProvider"]
        )
    except _RUNTIME_ERRORS as error:
        raise ModelUnavailableError(
            f"ONNX Runtime cannot load {str(folder.graph)!r}: {error}", field="EMBEDDING_MODEL"
        ) from error


def _open_tokenizer(folder: ModelFolder) -> Tokenizer:
    try:
        tokenizer = Tokenizer.from_buffer(folder.tokenizer.read_bytes())
    except ValueError as error:
        raise ModelUnavailableError(
            f"{str(folder.tokenizer)!r} is not a tokeniser: {error}", field="EMBEDDING_MODEL"
        ) from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def _pad_id(tokenizer: Tokenizer) -> int:
    """The mask hides padding, but some models count positions by its id."""
    ids = (tokenizer.token_to_id(token) for token in ("[PAD]", "<pad>"))
    return next((number for number in ids if number is not None), 0)


def _special_tokens(tokenizer: Tokenizer) -> tuple[int, int]:
    """How many special tokens the tokeniser adds to a text, and how many of them at its end."""
    mask = tokenizer.encode("a").special_tokens_mask
    return sum(mask), mask[::-1].index(0)


def _describe(folder: ModelFolder, settings: "EmbeddingSettings", *, dimension: int) -> ModelInfo:
    if settings.dimension not in (None, dimension):
        raise SettingsError(
            f"The model {folder.name!r} has {dimension} dimensions, not {settings.dimension}.",
            field="EMBEDDING_DIMENSION",
        )
    query, document = known_prefixes(folder.name)
    return ModelInfo(
        provider="onnx",
        model=folder.name,
        revision=folder.revision,
        dimension=dimension,
        query_prefix=query if settings.query_prefix is None else settings.query_prefix,
        document_prefix=document if settings.document_prefix is None else settings.document_prefix,
        pooling=folder.pooling,
        template=TEMPLATE,
        max_tokens=folder.max_tokens,
    )


# --- Computing ----------------------------------------------------------------------------------


def _padded(length: int, limit: int) -> int:
    return min(-(-length // _LENGTH_STEP) * _LENGTH_STEP, limit)


def _batches(lengths: list[int]) -> Iterator[list[int]]:
    """Group the numbers of texts by padded length, in batches of bounded size."""
    groups: defaultdict[int, list[int]] = defaultdict(list)
    for number, length in enumerate(lengths):
        groups[-(-length // _LENGTH_STEP)].append(number)
    for steps, numbers in groups.items():
        size = max(_BATCH_TOKENS // (steps * _LENGTH_STEP), 1)
        for start in range(0, len(numbers), size):
            yield numbers[start : start + size]


def pool(states: Vectors, mask: NDArray[np.int64], *, pooling: Pooling) -> Vectors:
    """One row for each text from one for each token, of any length."""
    if pooling == "cls":
        return np.asarray(states[:, 0])
    if pooling == "lasttoken":
        return np.asarray(states[np.arange(len(states)), mask.sum(axis=1) - 1])
    # The mean's divisor cancels in the normalisation.
    return np.asarray((states * mask[:, :, None]).sum(axis=1), np.float32)


def _normalise(vectors: Vectors) -> Vectors:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    if not (np.isfinite(lengths).all() and lengths.all()):
        raise EmbeddingError("The model returned a vector without a direction.")
    return np.asarray(vectors / lengths, np.float32)
