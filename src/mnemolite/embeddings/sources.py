"""Where a model's files are: in this package, in a local folder, or on the Hugging Face hub.

A hub is asked only for what its cache does not hold. So a start needs no network once the files
are there, and a model that moves on the hub does not change under a running memory.
"""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from mnemolite.embeddings.model_folder import PACKAGED_MODEL, ModelFolder
from mnemolite.errors import ModelUnavailableError

Choose = Callable[[Sequence[str]], list[str] | None]

_HUB_ID = re.compile(r"[\w][\w.-]*/[\w.-]+")
_CACHED_FOLDER = re.compile(r"models--([^/]+?)--([^/]+)/snapshots/[^/]+")
# Every model has one of these, so its place is that of the cached files.
_MARKERS = ("config.json", "modules.json")
_ELSE = (
    f"Or set EMBEDDING_MODEL to a local folder, or to {PACKAGED_MODEL!r}, which comes with "
    "MnemoLite."
)


def find_folder(model: str, choose: Choose, *, revision: str | None = None) -> ModelFolder:
    """A local folder, or the cached or downloaded files of a hub id.

    ``choose`` picks the wanted ones of a model's files, or says by None that some are missing.
    Raises ModelUnavailableError.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        return ModelFolder(_name_of(folder), folder)
    if not _HUB_ID.fullmatch(model):
        raise ModelUnavailableError(
            f"{model!r} is neither the packaged model, nor a folder, nor a hub id (owner/name).",
            field="EMBEDDING_MODEL",
            remedy=f"Use {PACKAGED_MODEL!r}, or a folder or hub id with an ONNX export.",
        )
    cached = _cached(model, revision)
    if cached is not None and choose(cached.files()) is not None:
        return cached
    return ModelFolder(model, _download(model, choose, revision=revision))


def _name_of(folder: Path) -> str:
    """The folder's own name, or the hub id of a folder inside a hub's cache."""
    path = folder.resolve()
    cached = _CACHED_FOLDER.fullmatch("/".join(path.parts[-3:]))
    return "/".join(cached.groups()) if cached else path.name


def _cached(model: str, revision: str | None) -> ModelFolder | None:
    # Imported here, for the default model needs no hub.
    from huggingface_hub import try_to_load_from_cache

    found = (try_to_load_from_cache(model, marker, revision=revision) for marker in _MARKERS)
    folders = (Path(path).parent for path in found if isinstance(path, str))
    return next((ModelFolder(model, folder) for folder in folders), None)


def _download(model: str, choose: Choose, *, revision: str | None) -> Path:
    from huggingface_hub import HfApi, errors, snapshot_download

    # The hub's errors have no class in common, nor with those of the HTTP library behind it.
    hub_errors: tuple[type[Exception], ...] = (
        OSError,
        *(e for e in vars(errors).values() if isinstance(e, type) and issubclass(e, Exception)),
    )
    try:
        wanted = choose(HfApi().list_repo_files(model, revision=revision))
        if wanted is not None:
            return Path(snapshot_download(model, revision=revision, allow_patterns=wanted))
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError) as error:
        raise ModelUnavailableError(
            f"The hub has no {model!r} of revision {revision or 'main'!r}, or does not show it.",
            field="EMBEDDING_MODEL",
            remedy=f"Check the id and MNEMO_EMBEDDING_REVISION; some need HF_TOKEN. {_ELSE}",
        ) from error
    except hub_errors as error:
        raise ModelUnavailableError(
            f"{model!r} is not in the hub's cache and cannot be downloaded: {_first_line(error)}.",
            field="EMBEDDING_MODEL",
            remedy="Connect to the hub once (with HF_HUB_OFFLINE unset), or copy a filled cache "
            f"here and name it with HF_HOME. {_ELSE}",
        ) from error
    raise ModelUnavailableError(
        f"The hub's {model!r} lacks files that this provider needs.",
        field="EMBEDDING_MODEL",
        remedy="Check MNEMO_EMBEDDING_ONNX_FILE, or try another MNEMO_EMBEDDING_PROVIDER. " + _ELSE,
    )


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__).rstrip(".")
