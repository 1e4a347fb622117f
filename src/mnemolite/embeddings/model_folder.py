"""A folder that holds a model: finding its graph, its window and its pooling, checking its sums."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mnemolite.errors import ModelUnavailableError

Pooling = Literal["mean", "cls", "lasttoken"]

PACKAGED_MODEL = "all-MiniLM-L6-v2"
_PACKAGED_FOLDER = Path(__file__).parent / "minilm"
_GRAPHS = ("model.onnx", "onnx/model.onnx", "model_quantized.onnx", "onnx/model_quantized.onnx")
_SUMS = "SHA256SUMS"
_REVISION_LENGTH = 16
_POOLINGS: dict[str, Pooling] = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_lasttoken": "lasttoken",
}


@dataclass(frozen=True)
class ModelFolder:
    """What is known about a model before its graph is loaded."""

    name: str
    graph: Path
    tokenizer: Path
    revision: str
    max_tokens: int
    pooling: Pooling


def open_folder(model: str) -> ModelFolder:
    """Read the packaged model's folder or a local one; raises ModelUnavailableError."""
    folder = _PACKAGED_FOLDER if model == PACKAGED_MODEL else Path(model).expanduser()
    if not folder.is_dir():
        raise ModelUnavailableError(
            f"{model!r} is neither the packaged model nor a folder.",
            field="EMBEDDING_MODEL",
            remedy=f"Use {PACKAGED_MODEL!r}, or a local folder that holds an ONNX export.",
        )
    graph = _find_graph(folder)
    tokenizer = folder / "tokenizer.json"
    if not tokenizer.is_file():
        raise _broken(folder, "it has no tokenizer.json")
    digest = _sha256(graph)
    _check_sums(folder, {graph: digest, tokenizer: _sha256(tokenizer)})
    return ModelFolder(
        name=PACKAGED_MODEL if folder is _PACKAGED_FOLDER else folder.resolve().name,
        graph=graph,
        tokenizer=tokenizer,
        revision=digest[:_REVISION_LENGTH],
        max_tokens=_max_tokens(folder),
        pooling=_pooling(folder),
    )


def _find_graph(folder: Path) -> Path:
    for name in _GRAPHS:
        if (folder / name).is_file():
            return folder / name
    raise _broken(folder, f"it has none of {', '.join(_GRAPHS)}")


def _check_sums(folder: Path, digests: dict[Path, str]) -> None:
    """Compare with SHA256SUMS where the folder has one."""
    if not (folder / _SUMS).is_file():
        return
    lines = (folder / _SUMS).read_text().splitlines()
    expected = {
        folder / name: digest for digest, _, name in (line.partition("  ") for line in lines)
    }
    for path, digest in digests.items():
        if expected.get(path) != digest:
            raise _broken(folder, f"{path.name} does not have the SHA-256 that {_SUMS} names")


def _max_tokens(folder: Path) -> int:
    """The window: what sentence-transformers uses, else what tokeniser and graph can take."""
    length = _read(folder / "sentence_bert_config.json").get("max_seq_length")
    if isinstance(length, int):
        return length
    lengths = (
        _read(folder / "tokenizer_config.json").get("model_max_length"),
        _read(folder / "config.json").get("max_position_embeddings"),
    )
    known = [int(length) for length in lengths if isinstance(length, int | float)]
    if not known:
        raise _broken(folder, "no file says how many tokens the model takes")
    return min(known)


def _pooling(folder: Path) -> Pooling:
    config = _read(folder / "1_Pooling" / "config.json")
    if not config:
        return "mean"
    modes = [name for name, on in config.items() if name.startswith("pooling_mode_") and on is True]
    if len(modes) != 1 or modes[0] not in _POOLINGS:
        raise _broken(folder, f"pooling {modes} is not supported, only {sorted(_POOLINGS)}")
    return _POOLINGS[modes[0]]


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise _broken(path.parent, f"{path.name} is not JSON") from error
    return content if isinstance(content, dict) else {}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _broken(folder: Path, reason: str) -> ModelUnavailableError:
    return ModelUnavailableError(
        f"The model folder {str(folder)!r} cannot be used: {reason}.", field="EMBEDDING_MODEL"
    )
