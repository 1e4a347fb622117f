"""Named queries: each name once, each query used, each use named."""

import re
from importlib.resources import files
from pathlib import Path

import pytest

import mnemolite
from mnemolite.sql import load

SOURCE = Path(mnemolite.__file__).parent
NOUNS = sorted(path.stem for path in (SOURCE / "sql").glob("*.sql"))
_LOADED = re.compile(r"""(\w+) = load\("(\w+)"\)""")
_USED = r"""\b{variable}\[f?"([^"]+)"\]"""


def uses() -> dict[str, set[str]]:
    """The names that the code asks for, by noun; a name made up at run time is a pattern."""
    found: dict[str, set[str]] = {}
    for path in SOURCE.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        for variable, noun in _LOADED.findall(text):
            names = re.findall(_USED.format(variable=re.escape(variable)), text)
            if f"{variable}[" in re.sub(_USED.format(variable=re.escape(variable)), "", text):
                # A name kept in a variable: any string of the module can be one.
                names += set(re.findall(r'"(\w+)"', text)) & set(load(noun))
            found.setdefault(noun, set()).update(names)
    return found


def as_pattern(name: str) -> str:
    return re.sub(r"\\{[^}]*\\}", r"\\w+", re.escape(name))


def test_every_file_is_loaded_by_somebody() -> None:
    assert sorted(uses()) == NOUNS


@pytest.mark.parametrize("noun", NOUNS)
def test_names_are_unique_and_lines_that_look_like_names_are_some(noun: str) -> None:
    text = files("mnemolite.sql").joinpath(f"{noun}.sql").read_text(encoding="utf-8")
    names = re.findall(r"^--\s*name\b:?\s*(\S*)", text, re.MULTILINE | re.IGNORECASE)
    assert sorted(names) == sorted(load(noun)), "twice, or not in the form '-- name: <query>'"
    assert text.startswith("-- name: ")


@pytest.mark.parametrize("noun", NOUNS)
def test_every_query_is_used_and_every_use_exists(noun: str) -> None:
    asked = uses()[noun]
    unused = {name for name in load(noun)
              if not any(re.fullmatch(as_pattern(one), name) for one in asked)}  # fmt: skip
    assert not unused
    missing = {one for one in asked
               if not any(re.fullmatch(as_pattern(one), name) for name in load(noun))}  # fmt: skip
    assert not missing


@pytest.mark.parametrize("noun", NOUNS)
def test_queries_are_single_statements_without_an_end(noun: str) -> None:
    for name, query in load(noun).items():
        text = query.as_string(None)
        assert text, name
        assert not text.endswith(";"), name
