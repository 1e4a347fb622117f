"""Dates in questions: what is read, as what span, and what is left alone."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mnemolite.moments import MOST_MOMENTS, READ_CHARACTERS, names_moments, read_moments

# A Wednesday.
NOW = datetime(2026, 11, 18, 15, 30, tzinfo=UTC)

ENGLISH = [
    ("What did I do yesterday?", "2026-11-17", "2026-11-18"),
    ("What happened last week?", "2026-11-09", "2026-11-16"),
    ("the past month", "2026-10-01", "2026-11-01"),
    ("What do we plan for next week?", "2026-11-23", "2026-11-30"),
    ("plans for this weekend", "2026-11-21", "2026-11-23"),
    ("Who came last weekend?", "2026-11-14", "2026-11-16"),
    ("last night's dinner", "2026-11-17", "2026-11-18"),
    ("What did we say this morning?", "2026-11-18", "2026-11-19"),
    ("last friday", "2026-11-13", "2026-11-14"),
    ("on Monday", "2026-11-16", "2026-11-17"),
    ("three months ago", "2026-08-01", "2026-09-01"),
    ("a couple of weeks ago", "2026-11-02", "2026-11-09"),
    ("2 years ago", "2024-01-01", "2025-01-01"),
    ("over the past 3 days", "2026-11-15T15:30", "2026-11-19"),
    ("the trip in May 2023", "2023-05-01", "2023-06-01"),
    ("in early May 2023", "2023-05-01", "2023-06-01"),
    ("on 8 May, 2023", "2023-05-08", "2023-05-09"),
    ("on May 8th", "2026-05-08", "2026-05-09"),
    ("the 21st of April", "2026-04-21", "2026-04-22"),
    ("on 25 December", "2025-12-25", "2025-12-26"),
    ("December 1,2023", "2023-12-01", "2023-12-02"),
    ("on 2023-05-08", "2023-05-08", "2023-05-09"),
    ("25/08/2023", "2023-08-25", "2023-08-26"),
    ("in 2019", "2019-01-01", "2020-01-01"),
    ("in december", "2025-12-01", "2026-01-01"),
    ("between April and May 2024", "2024-04-01", "2024-06-01"),
    ("from 2019 to 2021", "2019-01-01", "2022-01-01"),
    ("since last month", "2026-10-01", None),
    ("after 2021", "2022-01-01", None),
    ("before 8 May 2023", None, "2023-05-08"),
    ("until June", None, "2026-07-01"),
]
FRENCH = [
    ("Qu'ai-je fait hier soir ?", "2026-11-17", "2026-11-18"),
    ("avant-hier", "2026-11-16", "2026-11-17"),
    ("la semaine dernière", "2026-11-09", "2026-11-16"),
    ("la semaine derniere", "2026-11-09", "2026-11-16"),
    ("le mois dernier", "2026-10-01", "2026-11-01"),
    ("l’année dernière", "2025-01-01", "2026-01-01"),  # noqa: RUF001
    ("l'an dernier", "2025-01-01", "2026-01-01"),
    ("le week-end dernier", "2026-11-14", "2026-11-16"),
    ("lundi dernier", "2026-11-16", "2026-11-17"),
    ("cette année", "2026-01-01", "2027-01-01"),
    ("il y a trois mois", "2026-08-01", "2026-09-01"),
    ("les 3 derniers mois", "2026-08-18T15:30", "2026-11-19"),
    ("depuis deux semaines", "2026-11-04T15:30", "2026-11-19"),
    ("en mai 2023", "2023-05-01", "2023-06-01"),
    ("au mois de février", "2026-02-01", "2026-03-01"),
    ("début mai", "2026-05-01", "2026-06-01"),
    ("le 1er mai 2023", "2023-05-01", "2023-05-02"),
    ("le 8 mai", "2026-05-08", "2026-05-09"),
    ("05/12/2023", "2023-12-05", "2023-12-06"),
    ("la dernière semaine d'octobre", "2026-10-01", "2026-11-01"),
    ("en 2010", "2010-01-01", "2011-01-01"),
    ("de 1990 à 1995", "1990-01-01", "1996-01-01"),
    ("entre mars et mai 2020", "2020-03-01", "2020-06-01"),
    ("depuis 1990", "1990-01-01", None),
    ("avant 2012", None, "2012-01-01"),
    ("jusqu'en 2005", None, "2006-01-01"),
]
NO_DATES = [
    ("english", "You may say that she sat for a second."),
    ("english", "the 8 may be enough"),
    ("english", "the march of time, version 2023, 20 years old"),
    ("english", "in the 1990s"),
    ("english", "a week before 8 May 2023"),
    ("english", "What did she say to May and June?"),
    ("english", "05/08/2023"),
    ("english", "31 February 2023"),
    ("english", "5000 years ago"),
    ("english", "How far did he run in 3 months?"),
    ("french", "dans les années 2000"),
    ("french", "une semaine avant le 8 mai"),
    ("french", "la planète Mars"),
    ("german", "im Mai 2023"),
    ("", "yesterday"),
]


def moment(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("language", "question", "since", "until"),
    [("mnemo_english", *row) for row in ENGLISH] + [("mnemo_french", *row) for row in FRENCH],
)
def test_a_phrase_is_read_as_its_span(
    language: str, question: str, since: str | None, until: str | None
) -> None:
    assert names_moments(question, language=language)
    (read,) = read_moments(question, now=NOW, language=language)
    assert read.phrase in question
    assert (read.since, read.until) == (moment(since), moment(until))


@pytest.mark.parametrize(("language", "question"), NO_DATES)
def test_what_only_looks_like_a_date_is_left_alone(language: str, question: str) -> None:
    assert read_moments(question, now=NOW, language=language) == ()


def test_several_dates_are_read_in_their_order() -> None:
    read = read_moments("Was it in 2019 or on 8 May 2023?", now=NOW, language="english")
    assert [one.phrase for one in read] == ["in 2019", "on 8 May 2023"]
    many = "in 2019, " * 10
    assert len(read_moments(many, now=NOW, language="english")) == MOST_MOMENTS


def test_only_the_beginning_of_a_long_text_is_read() -> None:
    padding = "x " * (READ_CHARACTERS // 2)
    assert read_moments(f"{padding} in 2019", now=NOW, language="english") == ()


def test_relative_times_are_those_of_utc() -> None:
    late = datetime(2026, 11, 19, 0, 30, tzinfo=timezone(timedelta(hours=2)))
    (read,) = read_moments("yesterday", now=late, language="english")
    assert read.since == datetime(2026, 11, 17, tzinfo=UTC)


@pytest.mark.parametrize("year", [1, 9999])
@pytest.mark.parametrize("phrase", ["99 years ago", "next week", "99 years from now", "yesterday"])
def test_the_ends_of_the_calendar_are_no_error(year: int, phrase: str) -> None:
    for edge in (datetime(year, 1, 1, tzinfo=UTC), datetime(year, 12, 31, 23, tzinfo=UTC)):
        for read in read_moments(phrase, now=edge, language="english"):
            assert read.since is not None


@given(
    st.text(max_size=200),
    st.sampled_from(["mnemo_english", "mnemo_french"]),
    st.datetimes(datetime(1900, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)),
)
def test_any_text_can_be_read(question: str, language: str, now: datetime) -> None:
    for read in read_moments(question, now=now, language=language):
        assert read.phrase in question


WORDS = "in since between and may 8 2023 last week ago 3 the en depuis entre et mai il y a de à"


@given(
    st.lists(st.sampled_from(WORDS.split()), max_size=12),
    st.sampled_from(["mnemo_english", "mnemo_french"]),
)
def test_spans_are_never_empty(words: list[str], language: str) -> None:
    for read in read_moments(" ".join(words), now=NOW, language=language):
        assert read.since or read.until
        assert read.since is None or read.until is None or read.since < read.until
