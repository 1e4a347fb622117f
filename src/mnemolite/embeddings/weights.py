"""Which files of a model sentence-transformers needs, and the digest of its weights."""

from collections.abc import Iterable

from mnemolite.embeddings.model_folder import ModelFolder, broken, revision_of

_SAFE, _PICKLED = (".safetensors",), (".bin",)
# Weights for other runtimes, which the hub's folders often hold too.
_OTHER_FOLDERS = ("onnx/", "openvino/", "coreml/")
_OTHER_FORMATS = (".h5", ".msgpack", ".ot", ".onnx", ".gguf", ".tflite")


def weights_of(names: Iterable[str]) -> list[str]:
    """The files of weights: those that cannot hold code where there are any, else pickled ones."""
    ours = [name for name in names if not name.startswith(_OTHER_FOLDERS)]
    safe = [name for name in ours if name.endswith(_SAFE)]
    return sorted(safe or (name for name in ours if name.endswith(_PICKLED)))


def files_to_fetch(names: Iterable[str]) -> list[str] | None:
    """What PyTorch needs of a model's files; None if no weights are among them."""
    present = [name for name in names if not name.startswith(_OTHER_FOLDERS)]
    weights = weights_of(present)
    if not weights:
        return None
    skipped = (*_SAFE, *_PICKLED, *_OTHER_FORMATS)
    return weights + [name for name in present if not name.endswith(skipped)]


def digest_of_weights(folder: ModelFolder) -> str:
    """The start of the SHA-256 of the weights, or of those of its files."""
    names = weights_of(folder.files())
    if not names:
        raise broken(folder.path, "it has no weights for PyTorch")
    return revision_of([folder.sha256(name) for name in names])
