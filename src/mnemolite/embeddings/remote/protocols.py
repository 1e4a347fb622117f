"""What model servers speak: a request for some texts, and the vectors in its answer.

OpenAI: https://platform.openai.com/docs/api-reference/embeddings. TEI:
https://huggingface.github.io/text-embeddings-inference. KServe v2, which Triton speaks:
https://kserve.github.io/website/docs/concepts/architecture/data-plane/v2-protocol.
"""

import base64
from collections.abc import Callable, Sequence
from typing import Any, Protocol
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from mnemolite.embeddings import Kind

Matrix = NDArray[np.float64]
Fetch = Callable[[str], Any]


class AnswerError(Exception):
    """The answer is not what the protocol says."""


class RemoteProtocol(Protocol):
    """One way of asking; its methods do no I/O."""

    path: str

    def body(self, texts: Sequence[str], kind: Kind) -> dict[str, Any]:
        """The JSON of a request."""

    def rows(self, answer: Any, count: int) -> Matrix:
        """One row for each of ``count`` texts, in their order. Raises AnswerError."""


class OpenAIProtocol:
    """`POST /v1/embeddings`; of an address that ends in `/v1` that part is not repeated."""

    def __init__(self, model: str, url: str) -> None:
        self.path = "/embeddings" if url.rstrip("/").endswith("/v1") else "/v1/embeddings"
        self._model = model

    def body(self, texts: Sequence[str], kind: Kind) -> dict[str, Any]:
        return {"model": self._model, "input": list(texts), "encoding_format": "float"}

    def rows(self, answer: Any, count: int) -> Matrix:
        data = answer.get("data") if isinstance(answer, dict) else None
        if not isinstance(data, list) or not all(isinstance(item, dict) for item in data):
            raise AnswerError("it has no list `data`")
        places = [item.get("index", place) for place, item in enumerate(data)]
        if sorted(places, key=str) != sorted(range(count), key=str):
            raise AnswerError(f"its items are not those of {count} texts")
        by_place = dict(zip(places, data, strict=True))
        return _matrix([_vector(by_place[place].get("embedding")) for place in range(count)], count)


class TeiProtocol:
    """`POST /embed` of text-embeddings-inference. Documents are refused rather than truncated."""

    path = "/embed"

    def body(self, texts: Sequence[str], kind: Kind) -> dict[str, Any]:
        return {"inputs": list(texts), "normalize": True, "truncate": kind == "query"}

    def rows(self, answer: Any, count: int) -> Matrix:
        return _matrix(answer, count)


class KServeProtocol:
    """`POST /v2/models/NAME/infer` of a model that takes text (datatype BYTES), tokeniser inside.

    The names and ranks of its tensors are read from the model's metadata.
    """

    def __init__(self, model: str, fetch: Fetch) -> None:
        root = f"/v2/models/{quote(model, safe='')}"
        self.path = f"{root}/infer"
        metadata = fetch(root)
        text = _tensor(metadata, "inputs", datatypes=("BYTES",))
        self._input, self._rank = text["name"], len(text["shape"])
        self._output = _tensor(metadata, "outputs", datatypes=("FP32", "FP16", "FP64"))["name"]

    def body(self, texts: Sequence[str], kind: Kind) -> dict[str, Any]:
        shape = [len(texts)] + [1] * (self._rank - 1)
        tensor = {"name": self._input, "shape": shape, "datatype": "BYTES", "data": list(texts)}
        return {"inputs": [tensor], "outputs": [{"name": self._output}]}

    def rows(self, answer: Any, count: int) -> Matrix:
        outputs = answer.get("outputs") if isinstance(answer, dict) else None
        if not isinstance(outputs, list):
            raise AnswerError("it has no list `outputs`")
        for output in outputs:
            if isinstance(output, dict) and output.get("name") == self._output:
                values = _numbers(output.get("data"))
                if count and values.size % count == 0 and output.get("shape", [0])[0] == count:
                    return values.reshape(count, -1)
                raise AnswerError(f"its tensor is not one of {count} rows")
        raise AnswerError(f"it has no tensor {self._output!r}")


def _tensor(metadata: Any, side: str, *, datatypes: Sequence[str]) -> dict[str, Any]:
    """The first tensor of these types in a model's metadata."""
    tensors = metadata.get(side) if isinstance(metadata, dict) else None
    for tensor in tensors if isinstance(tensors, list) else ():
        known = isinstance(tensor, dict) and tensor.get("datatype") in datatypes
        if known and isinstance(tensor.get("shape"), list) and isinstance(tensor.get("name"), str):
            return dict(tensor)
    raise AnswerError(f"the model has no tensor of type {' or '.join(datatypes)} in `{side}`")


def _vector(embedding: Any) -> Any:
    """The numbers of an embedding: a list, or base64 of little-endian float32."""
    if not isinstance(embedding, str):
        return embedding
    try:
        return np.frombuffer(base64.b64decode(embedding, validate=True), "<f4")
    except ValueError:
        raise AnswerError("an embedding is not base64 of float32") from None


def _matrix(rows: Any, count: int) -> Matrix:
    matrix = _numbers(rows)
    if matrix.ndim != 2 or len(matrix) != count:  # noqa: PLR2004 (rows and columns)
        raise AnswerError(f"it has the shape {matrix.shape} for {count} texts")
    return matrix


def _numbers(values: Any) -> Matrix:
    try:
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise AnswerError("its vectors are not rows of numbers of one length") from None
