"""Embedding on the CPU with ONNX Runtime: the packaged model, or a folder with an ONNX export.

The packaged all-MiniLM-L6-v2 is int8 with fixed or per-token scales, so vectors do not change with
the batch; ``tools/build_minilm.py`` tells how. Its integer products are the same on every CPU:
fast with VNNI, slower but exact without, and on aarch64. Other int8 graphs mostly take their scales
from the batch: their texts are run one at a time.
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
from mnemolite.embeddings.graphs import TOKENIZER, Graph, files_to_fetch, open_graph
from mnemolite.embeddings.known_models import Pooling
from mnemolite.embeddings.model_folder import (
    PACKAGED_FOLDER,
    PACKAGED_MODEL,
    ModelFolder,
    broken,
)
from mnemolite.embeddings.shortening import choose_shortening
from mnemolite.embeddings.sources import find_folder
from mnemolite.embeddings.templates import TEMPLATE
from mnemolite.embeddings.tokens import Ids, Tokens
from mnemolite.errors import EmbeddingError, ModelUnavailableError, SettingsError

if TYPE_CHECKING:
    from mnemolite.settings import EmbeddingSettings

# Texts are padded to a multiple of this, and only texts of one padded length share a batch: the
# shape of every computation on a text, and so every bit of its vector, follows from the text.
_LENGTH_STEP = 4
# Tokens of one run, padding included. Larger runs are not faster and take more memory.
_BATCH_TOKENS = 1024
_POOLED_RANK, _TOKENS_RANK = 2, 3
# An export of a whole sentence-transformers model gives the text's vector under this name.
_WHOLE = "sentence_embedding"

# ONNX Runtime's errors have no class in common but Exception.
_RUNTIME_ERRORS: tuple[type[Exception], ...] = tuple(
    error
    for error in vars(onnxruntime_pybind11_state).values()
    if isinstance(error, type) and issubclass(error, Exception)
)


class OnnxEmbedder:
    """An ONNX graph and its tokeniser."""

    def __init__(self, settings: "EmbeddingSettings") -> None:
        if settings.device != "cpu":
            raise SettingsError(
                f"ONNX Runtime runs on the CPU here, not on {settings.device!r}.",
                field="EMBEDDING_DEVICE",
                remedy="Set it to cpu, or MNEMO_EMBEDDING_PROVIDER=sentence-transformers.",
            )
        folder = _find_folder(settings)
        graph = open_graph(folder, settings.onnx_file)
        self._tokens = Tokens(_open_tokenizer(folder), folder.window(settings))
        self._pooling = folder.pooling()
        self._batch_tokens = 0 if graph.scales_from_batch else _BATCH_TOKENS
        self._session = _open_session(graph, settings.threads or _available_cores())
        self._inputs = _known_inputs(self._session, folder)
        self._output = _choose_output(self._session, folder)
        full = self._run(self._tokens.encode(["a"], "query")).shape[1]
        self._shortening = choose_shortening(
            folder.name, settings.dimension, full=full, allowed=settings.matryoshka
        )
        self.info = ModelInfo(
            provider="onnx",
            model=folder.name,
            revision=graph.revision,
            dimension=self._shortening.dimension,
            query_prefix=self._tokens.window.query_prefix,
            document_prefix=self._tokens.window.document_prefix,
            pooling=self._pooling,
            normalisation=self._shortening.normalisation,
            template=TEMPLATE,
            max_tokens=self._tokens.window.max_tokens,
        )

    def embed(self, texts: Sequence[str], kind: Kind) -> Vectors:
        check_texts(texts)
        vectors = np.empty((len(texts), self.info.dimension), np.float32)
        encoded = self._tokens.encode(texts, kind)
        for rows in _batches([len(ids) for ids in encoded], budget=self._batch_tokens):
            vectors[rows] = self._shortening.apply(self._run([encoded[row] for row in rows]))
        return vectors

    def passages(self, text: str) -> list[Span]:
        return self._tokens.passages(text)

    def close(self) -> None:
        """Nothing is held but memory, which goes with the object."""

    def _run(self, batch: list[Ids]) -> Vectors:
        length = _padded(max(map(len, batch)), self._tokens.window.max_tokens)
        ids = np.full((len(batch), length), self._tokens.pad_id, np.int64)
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
            output if output.ndim == _POOLED_RANK else pool(output, mask, pooling=self._pooling)
        )
        return np.asarray(pooled, np.float32)


# --- Loading ------------------------------------------------------------------------------------


def _available_cores() -> int:
    """The cores this process may run on, which can be fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _find_folder(settings: "EmbeddingSettings") -> ModelFolder:
    if settings.model == PACKAGED_MODEL:
        return ModelFolder(PACKAGED_MODEL, PACKAGED_FOLDER)
    return find_folder(
        settings.model,
        lambda names: files_to_fetch(names, settings.onnx_file),
        revision=settings.revision,
    )


def _open_session(graph: Graph, threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # The database often runs on the same cores: waiting threads sleep instead of spinning.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(
            str(graph.path), options, providers=["CPUExecutionProvider"]
        )
    except _RUNTIME_ERRORS as error:
        raise ModelUnavailableError(
            f"ONNX Runtime cannot load {str(graph.path)!r}: {error}", field="EMBEDDING_MODEL"
        ) from error


def _open_tokenizer(folder: ModelFolder) -> Tokenizer:
    path = folder.path / TOKENIZER
    try:
        return Tokenizer.from_buffer(path.read_bytes())
    except ValueError as error:
        raise ModelUnavailableError(
            f"{str(path)!r} is not a tokeniser: {error}", field="EMBEDDING_MODEL"
        ) from error


def _known_inputs(session: Any, folder: ModelFolder) -> set[str]:
    inputs = {node.name for node in session.get_inputs()}
    unknown = sorted(inputs - {"input_ids", "attention_mask", "token_type_ids"})
    if unknown:
        raise broken(folder.path, f"its graph wants {', '.join(unknown)}, which a text has not")
    return inputs


def _choose_output(session: Any, folder: ModelFolder) -> str:
    """The output with the text's vector, else the one with a vector for each token."""
    outputs: dict[str, int] = {node.name: len(node.shape) for node in session.get_outputs()}
    if _WHOLE in outputs:
        return _WHOLE
    name, rank = next(iter(outputs.items()))
    if rank == _TOKENS_RANK and (further := folder.further_modules()):
        raise broken(folder.path, f"its graph leaves out the modules {', '.join(further)}")
    return name


# --- Computing ----------------------------------------------------------------------------------


def _padded(length: int, limit: int) -> int:
    return min(-(-length // _LENGTH_STEP) * _LENGTH_STEP, limit)


def _batches(lengths: list[int], *, budget: int) -> Iterator[list[int]]:
    """Group the numbers of texts by padded length, in batches of at most ``budget`` tokens."""
    groups: defaultdict[int, list[int]] = defaultdict(list)
    for number, length in enumerate(lengths):
        groups[-(-length // _LENGTH_STEP)].append(number)
    for steps, numbers in groups.items():
        size = max(budget // (steps * _LENGTH_STEP), 1)
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
