"""The text that is judged of a hit that no vector has led to."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mnemolite.reranking.stage import best_passage

FILLER = "We talked about the weather, the garden and what to cook on Sunday. "


def test_a_short_text_is_its_own_passage() -> None:
    assert best_passage("The boat leaves at seven.", "boat") == "The boat leaves at seven."


@pytest.mark.parametrize("place", [0, 30, 60])
def test_the_passage_with_the_words_of_the_query_is_taken(place: int) -> None:
    key = "The spare key is under the blue flowerpot. "
    passage = best_passage(FILLER * place + key + FILLER * (60 - place), "Where is the spare KEY?")
    assert key.strip() in passage
    assert len(passage) <= 1500


def test_without_a_common_word_it_is_the_beginning() -> None:
    text = "First words. " + FILLER * 60
    assert text.startswith(best_passage(text, "zebra"))


def test_a_text_without_blanks_has_passages_too() -> None:
    assert len(best_passage("今天天气很好我们去公园散步吧" * 1000, "公园")) == 1500


@given(text=st.text(max_size=50), times=st.integers(0, 400), q=st.text(max_size=20))
def test_it_is_always_a_part_of_the_text(text: str, times: int, q: str) -> None:
    assert best_passage(text * times, q) in text * times
