"""Which ONNX file of a folder is used, whether it is what it should be, and its digest."""

import mmap
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from mnemolite.embeddings.model_folder import ModelFolder, broken, revision_of

# Only forms that run alike on every kind of CPU, so that all machines choose the same one.
_QUANTISED = ("model_quantized.onnx", "model_int8.onnx")
GRAPHS = tuple(folder + name for name in (*_QUANTISED, "model.onnx") for folder in ("", "onnx/"))
TOKENIZER = "tokenizer.json"
_SUMS = "SHA256SUMS"
# ONNX Runtime's operators that take a scale from their whole input, which is the batch.
_DYNAMIC_SCALES = b"DynamicQuantize"


@dataclass(frozen=True)
class Graph:
    """A graph's file, the start of its SHA-256, and whether its scales come from the batch."""

    path: Path
    revision: str
    scales_from_batch: bool


def choose_graph(names: Iterable[str], wanted: str | None) -> str | None:
    """The graph among a folder's files: the named one, else a quantised one, else the full one."""
    present = set(names)
    return next((name for name in ([wanted] if wanted else GRAPHS) if name in present), None)


def files_of_graph(names: Iterable[str], graph: str) -> list[str]:
    """The graph's file and the files beside it that hold its weights."""
    return sorted(name for name in names if name.startswith(graph))


def files_to_fetch(names: Iterable[str], wanted: str | None) -> list[str] | None:
    """What must be there to run a graph of these files; None if it is not among them."""
    present = list(names)
    graph = choose_graph(present, wanted)
    if graph is None or TOKENIZER not in present:
        return None
    described = [name for name in present if name.endswith(".json") and "onnx/" not in name]
    return described + files_of_graph(present, graph)


def open_graph(folder: ModelFolder, wanted: str | None) -> Graph:
    """Find and check the graph; raises ModelUnavailableError."""
    names = folder.files()
    name = choose_graph(names, wanted)
    if name is None:
        raise broken(
            folder.path, f"it has {f'no {wanted}' if wanted else 'none of ' + ', '.join(GRAPHS)}"
        )
    if TOKENIZER not in names:
        raise broken(folder.path, f"it has no {TOKENIZER}")
    digests = {file: folder.sha256(file) for file in files_of_graph(names, name)}
    _check_sums(folder.path, digests | {TOKENIZER: folder.sha256(TOKENIZER)})
    return Graph(
        path=folder.path / name,
        revision=revision_of(list(digests.values())),
        scales_from_batch=_contains(folder.path / name, _DYNAMIC_SCALES),
    )


def _check_sums(folder: Path, digests: dict[str, str]) -> None:
    """Compare with SHA256SUMS where the folder has one."""
    if not (folder / _SUMS).is_file():
        return
    lines = (folder / _SUMS).read_text().splitlines()
    expected = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    for name, digest in digests.items():
        if expected.get(name) != digest:
            raise broken(folder, f"{name} does not have the SHA-256 that {_SUMS} names")


def _contains(path: Path, words: bytes) -> bool:
    if not path.stat().st_size:
        return False
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.find(words) >= 0
