"""Named queries: each ``<noun>.sql`` holds sections that open with ``-- name: <query>``."""

import re
from functools import cache
from importlib.resources import files
from typing import LiteralString, cast

from psycopg.sql import SQL

_NAME = re.compile(r"^-- name: (\w+)\n", re.MULTILINE)


@cache
def load(noun: str) -> dict[str, SQL]:
    """The queries of ``<noun>.sql`` by name."""
    text = files(__name__).joinpath(f"{noun}.sql").read_text(encoding="utf-8")
    parts = _NAME.split(text)
    # The files ship with the package, so their text is as trusted as a literal in the code.
    return {
        name: SQL(cast("LiteralString", body.strip()))
        for name, body in zip(parts[1::2], parts[2::2], strict=True)
    }
