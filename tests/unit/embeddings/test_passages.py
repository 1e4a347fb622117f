"""Cutting texts: nothing is lost, nothing is too long, and the cuts are where people read."""

import re
from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mnemolite.embeddings.passages import BLOCK, cut, halve, token_starts


def _words(text: str) -> list[tuple[int, int]]:
    return [match.span() for match in re.finditer(r"\w+|[^\w\s]", text)]


def _cut_words(text: str, room: int) -> list[str]:
    spans = cut(text, token_starts(text, _words), room=room)
    return [text[start:end] for start, end in spans]


@given(
    text=st.text(min_size=1, max_size=400),
    positions=st.lists(st.integers(0, 10**6), max_size=400),
    room=st.integers(1, 60),
)
def test_any_token_borders_give_spans_that_cover_the_text(
    text: str, positions: list[int], room: int
) -> None:
    starts = np.array(sorted(position % len(text) for position in positions), dtype=np.int64)
    spans = cut(text, starts, room=room)
    assert spans == cut(text, starts, room=room)
    assert spans[0][0] == 0
    assert spans[-1][1] == len(text)
    assert all(start < end for start, end in spans)
    for (start, end), (next_start, next_end) in pairwise(spans):
        assert start < next_start <= end <= next_end


@given(text=st.text(min_size=1, max_size=600), room=st.integers(1, 40))
def test_no_passage_has_more_words_than_there_is_room_for(text: str, room: int) -> None:
    for passage in _cut_words(text, room):
        # A passage may begin inside a word; that is one more word than the text had there.
        assert len(_words(passage)) <= room + 1


def test_a_text_that_fits_is_one_passage() -> None:
    assert _cut_words("One two three.", 4) == ["One two three."]


def test_paragraphs_come_before_sentences_and_sentences_before_words() -> None:
    sentence = "one two three four five six. "
    assert _cut_words(sentence * 3 + "\n\n" + sentence, 24)[0] == sentence * 3 + "\n\n"
    assert _cut_words(sentence * 6, 25)[0] == sentence * 3
    assert _cut_words("word " * 30, 10)[0] == "word " * 10


def test_scripts_without_spaces_are_cut_after_their_sentences() -> None:
    text = "今天天气很好。" * 20
    starts = np.arange(len(text))
    assert all(text[end - 1] == "。" for _, end in cut(text, starts, room=40))


def test_code_is_cut_at_its_lines() -> None:
    line = "value = compute(first, second)\n"
    assert all(passage.endswith("\n") for passage in _cut_words(line * 50, 60))


def test_passages_overlap_by_about_a_seventh() -> None:
    text = "word " * 3000
    spans = cut(text, token_starts(text, _words), room=200)
    overlaps = [
        (end - next_start) / (end - start) for (start, end), (next_start, _) in pairwise(spans)
    ]
    assert min(overlaps) >= 0.1
    assert max(overlaps) <= 0.21


def test_token_starts_are_the_same_whether_or_not_the_text_is_read_in_blocks() -> None:
    text = "some words, and more. " * (3 * BLOCK // 20)
    assert token_starts(text, _words).tolist() == [start for start, _ in _words(text)]


@given(text=st.text(min_size=1, max_size=300), limit=st.integers(1, 50))
def test_halving_covers_the_span_with_parts_that_fit(text: str, limit: int) -> None:
    parts = halve(text, (0, len(text)), fits=lambda piece: len(piece) <= limit)
    assert "".join(text[start:end] for start, end in parts) == text
    assert all(0 < end - start <= limit for start, end in parts)
