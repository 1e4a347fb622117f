"""Reading a query: its syntax, the rarity of its words, and which of them fetch candidates."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mnemolite.lexicon import (
    Question,
    Term,
    candidate_words,
    inverse_document_frequency,
    parse_syntax,
    quote_lexeme,
)


@pytest.mark.parametrize(
    ("q", "plain", "phrases", "excluded"),
    [
        ("plain words", "plain words", (), ()),
        ('"a phrase"', "a phrase", ("a phrase",), ()),
        ('"one" "two b"', "one two b", ("one", "two b"), ()),
        ('who wrote "Becoming Nicole"?', "who wrote ? Becoming Nicole", (), ()),
        ("tea -coffee", "tea", (), ("coffee",)),
        ('tea -"black coffee"', "tea", (), ("black coffee",)),
        ("well-known ERR-4512 5 -3 --", "well-known ERR-4512 5 -3 --", (), ()),
        ('an open " quote', 'an open " quote', (), ()),
        ("", "", (), ()),
    ],
)
def test_syntax(q: str, plain: str, phrases: tuple[str, ...], excluded: tuple[str, ...]) -> None:
    words, *rest = parse_syntax(q)
    assert " ".join(words.split()) == plain
    assert rest == [phrases, excluded]


@given(st.text())
def test_any_text_is_a_query(q: str) -> None:
    plain, _, _ = parse_syntax(q)
    assert len(plain) <= len(q) + q.count('"') + 1


def test_rarity() -> None:
    assert inverse_document_frequency(1, 100) > inverse_document_frequency(50, 100) > 0
    assert inverse_document_frequency(100, 100) > 0
    assert inverse_document_frequency(0, 100) == pytest.approx(math.log(1 + 100.5 / 0.5))
    # Figures that lag behind deletions must not break the logarithm.
    assert inverse_document_frequency(120, 100) > 0
    assert inverse_document_frequency(-3, 100) == inverse_document_frequency(0, 100)


def question(*documents: int) -> Question:
    terms = tuple(Term(f"w{number}", count, 1.0) for number, count in enumerate(documents))
    return Question(terms=terms)


def test_rare_words_fetch_candidates_until_the_budget_is_spent() -> None:
    assert candidate_words(question()) == []
    assert candidate_words(question(10, 20)) == ["'w0' | 'w1'"]
    assert candidate_words(question(10, 2000, 90_000)) == ["'w0' | 'w1'"]
    assert candidate_words(question(10, 2490, 90_000)) == ["'w0' | 'w1'"]


def test_the_rarest_word_is_asked_for_whatever_it_costs() -> None:
    assert candidate_words(question(1_000_000)) == ["'w0'"]
    assert candidate_words(question(50_000, 900_000)) == ["'w0'"]


def test_common_words_count_where_two_of_them_meet() -> None:
    assert candidate_words(question(10, 5000, 9000)) == ["'w0' | ('w1' & 'w2')"]
    assert candidate_words(question(10, 5000, 900_000)) == ["'w0' | ('w1' & 'w2')"]
    assert candidate_words(question(10, 50_000, 90_000)) == ["'w0'"]


def test_the_rarest_word_if_it_is_common_is_asked_for_together_with_others_first() -> None:
    assert candidate_words(question(5000, 9000)) == ["('w0' & 'w1')", "'w0'"]


def test_a_word_that_was_not_counted_yet_is_asked_for_and_does_not_stand_for_another() -> None:
    assert candidate_words(question(0)) == ["'w0'"]
    assert candidate_words(question(0, 10)) == ["'w0' | 'w1'"]
    assert candidate_words(question(0, 5000)) == ["'w0'", "'w1'"]


def test_lexemes_are_quoted() -> None:
    assert quote_lexeme("it's \\ here") == "'it''s \\\\ here'"
