"""Tokens of a text whose model is elsewhere: by its tokeniser's file, or by a cautious estimate."""

import re
from collections.abc import Callable
from pathlib import Path

from tokenizers import Tokenizer

from mnemolite.embeddings import Span, check_texts
from mnemolite.embeddings.passages import BLOCK, cut, halve, token_starts
from mnemolite.embeddings.templates import WRAPPER_TOKENS
from mnemolite.errors import ModelUnavailableError, SettingsError

Offsets = Callable[[str], list[Span]]

# Three letters of a word with the space before it; any other character stands alone. English has
# about five characters a token, and rare words are cut into pieces of two or three letters.
_PIECE = re.compile(r" ?[A-Za-z]{1,3}|[^ ]| +(?! )")
_SPECIAL = 2
# A query beyond this many characters for each token of the window is not looked at.
_QUERY_CHARACTERS_PER_TOKEN = 64
_WRAPPER_SHARE = 8


def estimate(text: str) -> list[Span]:
    """More tokens than tokenisers in use make of a text: of other scripts, one less than bytes.

    A character of two bytes (Cyrillic, Arabic) counts once, of three (Chinese) twice, of four
    (emoji) three times.
    """
    return [
        match.span()
        for match in _PIECE.finditer(text)
        for _ in range(
            max(1, len(match.group().encode()) - 1) if not match.group().isascii() else 1
        )
    ]


class Window:
    """How much text the model takes, and where to cut. Safe to use from several threads."""

    def __init__(self, tokenizer: Path | None, *, max_tokens: int, document_prefix: str) -> None:
        self._offsets: Offsets = estimate
        self._special = _SPECIAL
        self.is_exact = tokenizer is not None
        if tokenizer is not None:
            loaded = _open(tokenizer)
            self._offsets = lambda text: loaded.encode(text, add_special_tokens=False).offsets
            self._special = sum(loaded.encode("a").special_tokens_mask)
        self._max_tokens = max_tokens
        wrapper = max(WRAPPER_TOKENS, max_tokens // _WRAPPER_SHARE)
        self._room = max_tokens - self._special - self.count(document_prefix) - wrapper
        if self._room < 1:
            raise SettingsError(
                f"A window of {max_tokens} tokens has no room beside the prefix and the date.",
                field="MNEMO_EMBEDDING_MAX_TOKENS",
            )

    def count(self, text: str) -> int:
        """The tokens of a text, special ones not counted."""
        return len(self._offsets(text))

    def fits(self, text: str) -> bool:
        """Whether a prefixed text fits the window; an estimate leaves that to the server."""
        return not self.is_exact or self.count(text) + self._special <= self._max_tokens

    def trimmed(self, query: str, prefix: str) -> str:
        """A query, cut so that it fits the window with its prefix."""
        text = query.strip()[: self._max_tokens * _QUERY_CHARACTERS_PER_TOKEN]
        room = max(1, self._max_tokens - self._special - self.count(prefix))
        offsets = self._offsets(text)
        if len(offsets) <= room:
            return text
        return text[: max(1, offsets[room][0])]

    def passages(self, text: str) -> list[Span]:
        """Cut a text into spans that fit once wrapped; see ``Embedder.passages``."""
        check_texts([text])
        starts = token_starts(text, self._offsets)
        if len(starts) <= self._room and len(text) <= BLOCK:
            return [(0, len(text))]
        # A cut inside a word can make other tokens of it: count again.
        return [
            part
            for span in cut(text, starts, room=self._room)
            for part in halve(text, span, fits=lambda piece: self.count(piece) <= self._room)
        ]


def _open(path: Path) -> Tokenizer:
    try:
        tokenizer = Tokenizer.from_buffer(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ModelUnavailableError(
            f"{str(path)!r} is not a tokeniser: {error}", field="MNEMO_EMBEDDING_TOKENIZER"
        ) from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer
