"""Cutting a long text into overlapping passages at paragraphs, sentences, or else words."""

import re
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from mnemolite.embeddings import Span

# From the best place to cut to the worst; each match ends where the cut goes.
_BORDERS = (
    re.compile(r"\n[ \t\r]*\n"),
    # Ends of sentences with their closing quotes, with or without a space; and of lines.
    re.compile(
        r"[.!?\u2026\u061f\u0964][\"')\]\u201d\u2019\xbb]*\s"
        r"|[\u3002\uff01\uff1f][\u300d\u300f\u201d\u2019]*"
        r"|\n"
    ),
    re.compile(r"\s"),
    re.compile(r"\W"),
)
# A passage ends in the last third of its window; the next one starts 10 to 20 % before that.
_LEAST_FILL = 2 / 3
_OVERLAP = (0.2, 0.1)
# Longer texts are tokenised in blocks of this many characters.
BLOCK = 16_384


def token_starts(text: str, offsets: Callable[[str], Sequence[Span]]) -> NDArray[np.int64]:
    """Where each token of the text starts, found block by block to bound memory."""
    parts = [
        np.array([start + first for first, _ in offsets(text[start:end])], dtype=np.int64)
        for start, end in _blocks(text)
    ]
    return np.concatenate(parts)


def cut(text: str, starts: NDArray[np.int64], *, room: int) -> list[Span]:
    """Cut a text into spans of at most ``room`` tokens, given where its tokens start."""
    spans: list[Span] = []
    first, start = 0, 0
    while len(starts) - first > room:
        least = int(starts[first + int(room * _LEAST_FILL)])
        end = max(_border(text, low=least, high=int(starts[first + room])), start + 1)
        spans.append((start, end))
        if end == len(text):  # many tokens for one last character
            return spans
        behind = int(np.searchsorted(starts, end))
        back = (min(max(behind - int(room * share), 0), len(starts) - 1) for share in _OVERLAP)
        low, high = (int(starts[token]) for token in back)
        start = min(max(_border(text, low=low, high=high), start + 1), end)
        first = max(int(np.searchsorted(starts, start)), first + 1)
    spans.append((start, len(text)))
    return spans


def halve(text: str, span: Span, *, fits: Callable[[str], bool]) -> list[Span]:
    """Cut a span until its parts fit: a piece of a word can have more tokens than inside it."""
    start, end = span
    if end - start == 1 or fits(text[start:end]):
        return [span]
    middle = (start + end) // 2
    border = min(_border(text, low=middle, high=end), end - 1)
    return [
        part for piece in ((start, border), (border, end)) for part in halve(text, piece, fits=fits)
    ]


def _blocks(text: str) -> list[Span]:
    spans: list[Span] = []
    start = 0
    while len(text) - start > BLOCK:
        end = _border(text, low=start + BLOCK // 2, high=start + BLOCK)
        spans.append((start, end))
        start = end
    spans.append((start, len(text)))
    return spans


def _border(text: str, *, low: int, high: int) -> int:
    """The last of the best places to cut in (low, high]; ``high`` itself if there is none."""
    for border in _BORDERS:
        place = low
        for match in border.finditer(text, low, high):
            place = match.end()
        if place > low:
            return place
    return high
