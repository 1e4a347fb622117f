"""Counting tokens: exact by name, estimated by name, and safe to add up line by line."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mnemolite.models import Tokenizer
from mnemolite.tokens import counter

TOKENIZERS: tuple[Tokenizer, ...] = ("all-MiniLM-L6-v2", "characters/4")
each_tokenizer = pytest.mark.parametrize("name", TOKENIZERS)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


def test_the_packaged_tokenizer_counts_its_word_pieces() -> None:
    count = counter("all-MiniLM-L6-v2")
    assert count("I went to a support group yesterday.") == 8
    assert count("unbelievabilities") > 1
    assert count("word " * 1000) == 1000, "nothing is cut off"


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("", 0),
        ("a", 1),
        ("abcd", 1),
        ("abcde", 2),
        ("猫", 1),
        ("猫が好き", 4),
        ("猫ab", 2),
        ("🐈", 1),
    ],
)
def test_the_estimate(text: str, tokens: int) -> None:
    assert counter("characters/4")(text) == tokens


@each_tokenizer
@settings(deadline=None)  # the first call loads the tokenizer
@given(st.lists(TEXTS, max_size=5), TEXTS)
def test_lines_can_be_counted_one_by_one(name: Tokenizer, lines: list[str], rest: str) -> None:
    count = counter(name)
    ended = [f"{line}\n" for line in lines]
    assert count("".join(ended) + rest) <= sum(map(count, ended)) + count(rest)
