"""The wording of an event before it is embedded."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from mnemolite.embeddings.model_folder import PACKAGED_FOLDER
from mnemolite.embeddings.templates import TEMPLATE, WRAPPER_TOKENS, recall_text

DAY = datetime(2023, 5, 8, 13, 56, tzinfo=UTC)


@pytest.mark.parametrize(
    ("speaker", "timestamp", "expected"),
    [
        ("Caroline", DAY, 'On 8 May 2023, Caroline said: "Hi"'),
        (None, DAY, 'On 8 May 2023: "Hi"'),
        ("Caroline", None, 'Caroline said: "Hi"'),
        (None, None, "Hi"),
        (" \n", DAY, 'On 8 May 2023: "Hi"'),
        ("Dr.\n Who", None, 'Dr. Who said: "Hi"'),
        ("Ada", datetime(2023, 12, 31), 'On 31 December 2023, Ada said: "Hi"'),
        ("a" * 30, None, f'{"a" * 24} said: "Hi"'),
        ("김" * 30, None, f'{"김" * 8} said: "Hi"'),
    ],
)
def test_forms(speaker: str | None, timestamp: datetime | None, expected: str) -> None:
    assert recall_text("Hi", speaker=speaker, timestamp=timestamp) == expected
    assert TEMPLATE == "dated-1", "another wording needs another template version"


def test_the_day_is_that_of_utc_wherever_the_timestamp_came_from() -> None:
    midnight = datetime(2023, 5, 9, 1, 30, tzinfo=timezone(timedelta(hours=2)))
    assert recall_text("Hi", timestamp=midnight) == 'On 8 May 2023: "Hi"'


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    tokenizer = Tokenizer.from_file(str(PACKAGED_FOLDER / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


@given(
    speaker=st.text(st.characters(exclude_categories=["Cs"])),
    timestamp=st.datetimes(timezones=st.just(UTC)),
)
def test_no_wrapper_takes_more_than_its_room(
    tokenizer: Tokenizer, speaker: str, timestamp: datetime
) -> None:
    wrapper = recall_text("", speaker=speaker, timestamp=timestamp)
    assert len(tokenizer.encode(wrapper, add_special_tokens=False).ids) <= WRAPPER_TOKENS
