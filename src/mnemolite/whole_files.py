"""Files that are there whole or not at all, also after a crash in the midst of writing them."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mnemolite.errors import InvalidFileError


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A path to write to, which takes the place of ``path`` once the block has ended well.

    Until then its name begins with a dot and ends in ``.part``. A device or a pipe is written to
    directly.
    """
    try:
        if path.exists() and not path.is_file():
            if path.is_dir():
                raise InvalidFileError(f"{path} is a folder.", field="file")
            yield path
            return
        fd, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        os.close(fd)
        part = Path(name)
        try:
            yield part
            _sync(part)
            part.replace(path)
            _sync(path.parent)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise InvalidFileError(f"{path}: {error.strerror or error}.", field="file") from error


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
