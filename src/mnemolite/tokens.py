"""Counting tokens: exactly by the packaged model's tokenizer, or by a documented estimate."""

import re
from collections.abc import Callable
from functools import cache
from importlib.resources import files
from typing import Any

from mnemolite.models import Tokenizer

# Given a text, its tokens. Whatever comes after a line's end never makes more tokens of the line:
# ``count(line + rest) <= count(line) + count(rest)``, so lines can be counted one by one.
Count = Callable[[str], int]

_CHARACTERS_PER_TOKEN = 4
# Chinese, Japanese and Korean characters, and pictures: about a token each.
_WIDE = re.compile("[\u2e80-\ud7af\uf900-\ufaff\U00010000-\U0010ffff]")


def counter(tokenizer: Tokenizer) -> Count:
    """What counts tokens under that name, the special tokens around a text left out."""
    return _estimate if tokenizer == "characters/4" else _count_exactly


def _estimate(text: str) -> int:
    """A token for four characters, rounded up; one for each wide character."""
    wide = len(_WIDE.findall(text))
    return wide - (wide - len(text)) // _CHARACTERS_PER_TOKEN


def _count_exactly(text: str) -> int:
    return len(_packaged_tokenizer().encode(text, add_special_tokens=False).ids)


@cache
def _packaged_tokenizer() -> Any:
    # Loaded when first asked for: most programs never count.
    from tokenizers import Tokenizer as TokenizerFile

    file = files("mnemolite.embeddings").joinpath("minilm", "tokenizer.json")
    tokenizer = TokenizerFile.from_buffer(file.read_bytes())
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer
