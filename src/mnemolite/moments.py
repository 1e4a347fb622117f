"""Moments: the dates and relative times that a question names, read as spans of time.

A pattern for each language finds the phrases, strictly, for "may", "march" and "second" are mostly
not dates; the library dateparser, which knows the languages' words, resolves what was found.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import islice
from typing import Any

# A question is short: of a pasted text, only the beginning is read.
READ_CHARACTERS = 1000
MOST_MOMENTS = 4

_YEAR = r"(?:19|20)\d\d"
_SHARED = rf"{_YEAR}-[01]\d(?:-[0-3]\d)?|[0-3]?\d/[0-3]?\d/{_YEAR}"


@dataclass(frozen=True, slots=True)
class Moment:
    """A phrase and the half-open span that it names; ``None`` is open: "before 2023"."""

    phrase: str
    since: datetime | None
    until: datetime | None


@dataclass(frozen=True, slots=True)
class _Grammar:
    """How one language names time.

    ``pattern`` has the groups ``bound`` (the preposition), ``rolling`` (a length of time up to
    now) and ``core`` (everything else). ``bounds`` says which prepositions leave a side open,
    ``range_bounds`` which begin a range, ``joins`` what may stand between its ends,
    ``conjunctions`` which words are a preposition only there, ``doubtful`` what is no date on its
    own, and ``length_before`` what makes "before" relative: "a week before". ``rewrites`` turn a
    phrase into one that dateparser reads; ``rolling`` and ``ago`` turn a length of time into its
    beginning.
    """

    code: str
    day_first: bool
    pattern: re.Pattern[str]
    bounds: Mapping[str, str]
    range_bounds: frozenset[str]
    joins: re.Pattern[str]
    conjunctions: frozenset[str]
    doubtful: re.Pattern[str]
    length_before: re.Pattern[str]
    rewrites: Sequence[tuple[re.Pattern[str], str]]
    weekend: re.Pattern[str]
    rolling: re.Pattern[str]
    ago: str


def read_moments(question: str, *, now: datetime, language: str) -> tuple[Moment, ...]:
    """The moments that a question names, in its order; none if the language has no grammar.

    ``now`` is aware and is what relative times and dates without a year refer to: "8 May" is the
    last one that was. Days, weeks (from Monday), months and years are those of UTC. ``language``
    is a text-search configuration, such as ``mnemo_french``.
    """
    grammar = _GRAMMARS.get(language.removeprefix("mnemo_"))
    if grammar is None:
        return ()
    found = list(islice(_phrases(question[:READ_CHARACTERS], grammar), MOST_MOMENTS))
    now = now.astimezone(UTC)
    return tuple(_moments(found, grammar, now=now)) if found else ()


def names_moments(question: str, *, language: str) -> bool:
    """Whether there is anything to read, which is far cheaper to tell than what it means."""
    grammar = _GRAMMARS.get(language.removeprefix("mnemo_"))
    return grammar is not None and any(_phrases(question[:READ_CHARACTERS], grammar))


def _phrases(question: str, grammar: _Grammar) -> Iterator[re.Match[str]]:
    """What looks like a date, less what only looks so: "you may 8", "a week before 8 May"."""
    end = 0
    for match in grammar.pattern.finditer(question):
        bound = (match["bound"] or "").lower()
        doubtful = grammar.doubtful.search(match[0]) and not bound
        relative = bound in grammar.bounds and grammar.length_before.search(
            question, max(0, match.start() - 30), match.start()
        )
        stray = bound in grammar.conjunctions and (not end or question[end : match.start()].strip())
        if not doubtful and not relative and not stray:
            end = match.end()
            yield match


def _moments(
    found: Sequence[re.Match[str]], grammar: _Grammar, *, now: datetime
) -> Iterator[Moment]:
    """Resolve the phrases; two that are the ends of one range become one moment."""
    rest = list(found)
    while rest:
        match = rest.pop(0)
        if rest and _is_range(match, rest[0], grammar=grammar):
            moment = _range(match, rest.pop(0), grammar=grammar, now=now)
        else:
            moment = _moment(match, grammar, now=now)
        if moment is not None:
            yield moment


def _is_range(one: re.Match[str], other: re.Match[str], *, grammar: _Grammar) -> bool:
    if (one["bound"] or "").lower() not in grammar.range_bounds or not other["core"]:
        return False
    return grammar.joins.fullmatch(one.string, one.end(), other.start("core")) is not None


def _range(
    one: re.Match[str], other: re.Match[str], *, grammar: _Grammar, now: datetime
) -> Moment | None:
    """From the beginning of the first to the end of the second, whose year counts for both."""
    year = re.search(rf"\b{_YEAR}\b", other[0])
    first = one["core"] or ""
    if year and not re.search(rf"\b{_YEAR}\b", first):
        first = f"{first} {year[0]}"
    start, end = _span(first, grammar, now=now), _span(other["core"] or "", grammar, now=now)
    if start is None or end is None or start[0] >= end[1]:
        return None
    return Moment(one.string[one.start() : other.end()], start[0], end[1])


def _moment(match: re.Match[str], grammar: _Grammar, *, now: datetime) -> Moment | None:
    if match["rolling"]:
        length = grammar.rolling.sub(grammar.ago, match["rolling"])
        start = _resolve(length, grammar, now=now)
        end = _shifted(now, "day")
        return Moment(match[0], start[0], end) if start is not None else None
    span = _span(match["core"], grammar, now=now)
    if span is None:
        return None
    since, until = span
    open_ended = {
        "since": (since, None),
        "after": (until, None),
        "before": (None, since),
        "until": (None, until),
    }
    side = grammar.bounds.get((match["bound"] or "").lower(), "")
    return Moment(match[0], *open_ended.get(side, span))


def _span(core: str, grammar: _Grammar, *, now: datetime) -> tuple[datetime, datetime] | None:
    """The day, week, weekend, month or year that a phrase names."""
    if not grammar.day_first and _is_ambiguous(core):
        return None
    for pattern, replacement in grammar.rewrites:
        core = pattern.sub(replacement, core)
    weekend = grammar.weekend.search(core)
    if weekend:
        core = grammar.weekend.sub({"en": "week", "fr": "semaine"}[grammar.code], core)
    resolved = _resolve(core, grammar, now=now)
    if resolved is None:
        return None
    moment, period = resolved
    try:
        since = _floor(moment, period)
        until = _shifted(since, period)
        return (since + timedelta(days=5), until) if weekend else (since, until)
    except OverflowError:
        return None


def _is_ambiguous(core: str) -> bool:
    """Whether 5/8/2023 could be in May as well as in August."""
    if "/" not in core:
        return False
    one, other, _ = (int(part) for part in core.split("/"))
    return one != other and max(one, other) <= 12  # noqa: PLR2004


def _resolve(phrase: str, grammar: _Grammar, *, now: datetime) -> tuple[datetime, str] | None:
    try:
        read = _parser(grammar.code, now.replace(tzinfo=None)).get_date_data(phrase)
    except (OverflowError, ValueError):  # beyond the years that there are
        return None
    if read is None or read.date_obj is None:
        return None
    return read.date_obj.replace(tzinfo=UTC), read.period


@lru_cache(maxsize=4)
def _parser(code: str, now: datetime) -> Any:
    # Costs a tenth of a second, which programs that never read a date need not pay.
    from dateparser.date import DateDataParser

    return DateDataParser(
        languages=[code],
        settings={
            "RELATIVE_BASE": now,
            "PREFER_DATES_FROM": "past",
            "RETURN_TIME_AS_PERIOD": True,
            "PARSERS": ["relative-time", "absolute-time"],
        },
    )


def _floor(moment: datetime, period: str) -> datetime:
    if period == "time":
        return moment.replace(minute=0, second=0, microsecond=0)
    day = moment.replace(hour=0, minute=0, second=0, microsecond=0)
    match period:
        case "week":
            return day - timedelta(days=day.weekday())
        case "month":
            return day.replace(day=1)
        case "year":
            return day.replace(month=1, day=1)
        case _:
            return day


def _shifted(since: datetime, period: str) -> datetime:
    """The beginning of the next period."""
    match period:
        case "time":
            return since + timedelta(hours=1)
        case "week":
            return since + timedelta(days=7)
        case "month":
            return (since + timedelta(days=31)).replace(day=1)
        case "year":
            return (since + timedelta(days=366)).replace(month=1, day=1)
        case _:
            return _floor(since, "day") + timedelta(days=1)


def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.IGNORECASE)


def _rewrites(*pairs: tuple[str, str]) -> tuple[tuple[re.Pattern[str], str], ...]:
    return tuple((_compiled(pattern), replacement) for pattern, replacement in pairs)


_EN_MONTH = (
    "(?:january|february|march|april|may|june|july|august|september|october|november|december)"
)
_EN_SHORT = rf"(?:{_EN_MONTH}|(?:jan|feb|mar|apr|jun|jul|aug|sept?|oct|nov|dec)\b\.?)"
_EN_DAY = r"(?:[12]\d|3[01]|0?[1-9])(?:st|nd|rd|th)?"
_EN_WEEKDAY = "(?:mon|tues|wednes|thurs|fri|satur|sun)day"
_EN_UNIT = "(?:hour|day|week|month|year)s?"
_EN_NUMBER = (
    r"(?:\d{1,3}|an?\s+couple\s+of|an?|one|two|three|four|five|six|seven|eight|nine|ten"
    "|eleven|twelve)"
)
_ENGLISH = _Grammar(
    code="en",
    day_first=False,
    pattern=_compiled(
        r"\b(?:(?P<bound>in|on|of|during|for|from|between|since|after|before|until|till|by"
        r"|early|late|mid|and|to|through)[\s-]+"
        r"(?:(?:the|early|late|mid)[\s-]+)*)?\b(?:"
        rf"(?:the\s+)?(?:last|past)\s+(?P<rolling>(?:\d{{1,3}}|{_EN_NUMBER})\s+{_EN_UNIT})"
        r"|(?P<core>the\s+day\s+before\s+yesterday|yesterday|today|tonight|tomorrow|last\s+night"
        r"|this\s+(?:morning|afternoon|evening)"
        r"|(?:last|past|previous|this|current|next|coming)\s+(?:week|weekend|month|year)\b"
        r"(?!\s+(?:of|before|after|prior)\b)"
        rf"|(?:last|next)\s+{_EN_WEEKDAY}|last\s+{_EN_MONTH}"
        rf"|{_EN_NUMBER}\s+{_EN_UNIT}\s+(?:ago|from\s+now)"
        rf"|{_EN_DAY}\s+(?:of\s+)?{_EN_SHORT}(?:(?:,\s*|\s+){_YEAR})?"
        rf"|{_EN_SHORT}\s+{_EN_DAY}(?:(?:,\s*|\s+){_YEAR})?"
        rf"|{_EN_SHORT},?\s+(?:of\s+)?{_YEAR}|{_SHARED}|the\s+year\s+{_YEAR}"
        rf"|(?(bound)(?:{_EN_MONTH}|{_YEAR}|{_EN_WEEKDAY})|(?!)))"
        r")(?![\w/]|-\d)"
    ),
    bounds={"since": "since", "after": "after", "before": "before"}
    | dict.fromkeys(("until", "till", "by"), "until"),
    range_bounds=frozenset({"between", "from"}),
    joins=_compiled(r"\s*(?:and|to|through|until|till|-|–)\s*(?:the\s+)?"),  # noqa: RUF001
    conjunctions=frozenset({"and", "to", "through"}),
    doubtful=re.compile(rf"^(?!.*{_YEAR}).*\b(?:may|march|mar)\b"),
    length_before=_compiled(r"\b(?:hour|day|week|weekend|month|year|night|morning)s?\s+$"),
    rewrites=_rewrites(
        (r"^(?:the\s+year|the(?=\s+\d))\s+", ""),
        (r"^(?:past|previous)\b", "last"),
        (r"^coming\b", "next"),
        (r"^current\b", "this"),
        (r"^last\s+night$", "yesterday"),
        (r"^(?:tonight|this\s+(?:morning|afternoon|evening))$", "today"),
        (r"^an?\s+couple\s+of\b", "2"),
        (rf"^last\s+(?={_EN_MONTH})", ""),
        (r"\s+of(?=\s)", ""),
    ),
    weekend=_compiled(r"\bweekend\b"),
    rolling=_compiled(r"^(.+)$"),
    ago=r"\1 ago",
)

_FR_MONTH = (
    "(?:janvier|f[eé]vrier|mars|avril|mai|juin|juillet|ao[uû]t|septembre|octobre|novembre"
    "|d[eé]cembre)"
)
_FR_SHORT = rf"(?:{_FR_MONTH}|(?:janv|f[eé]vr|avr|juil|sept|oct|nov|d[eé]c)\b\.?)"
_FR_DAY = "(?:1er|premier|[12]\\d|3[01]|0?[1-9])"
_FR_WEEKDAY = "(?:lun|mar|mercre|jeu|vendre|same)di|dimanche"
_FR_UNIT = "(?:heure|jour|semaine|moi|an|ann[eé]e)s?"
_FR_NUMBER = r"(?:\d{1,3}|une?|deux|trois|quatre|cinq|six|sept|huit|neuf|dix|onze|douze)"
_FR_LAST = "(?:derni(?:er|[eè]re)|pass[eé]e?)"
_FRENCH = _Grammar(
    code="fr",
    day_first=True,
    pattern=_compiled(
        r"\b(?:(?P<bound>en|de|du|au|entre|pendant|depuis|d[eè]s|avant(?!-hier)|apr[eè]s"
        r"|jusqu['’](?:en|[aà]|au)|d[eé]but|fin|mi|et|[aà])"  # noqa: RUF001
        r"[\s-]+(?:(?:l['’]an|l['’]ann[eé]e|le\s+mois\s+d[e'’]|mois\s+d[e'’]|le|la|l['’]"  # noqa: RUF001
        r"|d[eé]but|fin|mi)[\s-]*)*|(?P<elided>d)['’])?\b(?:"  # noqa: RUF001
        rf"(?P<rolling>{_FR_NUMBER}\s+derni[eè]re?s\s+{_FR_UNIT}"
        rf"|(?<=depuis ){_FR_NUMBER}\s+{_FR_UNIT})"
        r"|(?P<core>avant-hier|hier|aujourd['’]hui|demain|apr[eè]s-demain|ce\s+(?:matin|soir)"  # noqa: RUF001
        rf"|(?:(?:la|le)\s+|l['’])?(?:semaine|mois|ann[eé]e|an|week-?end)\s+{_FR_LAST}"  # noqa: RUF001
        r"|(?:(?:la|le)\s+|l['’])?(?:semaine|mois|ann[eé]e|an|week-?end)\s+prochaine?"  # noqa: RUF001
        rf"|(?:{_FR_WEEKDAY}|{_FR_MONTH})\s+{_FR_LAST}"
        r"|ce(?:tte)?\s+(?:semaine|mois(?:-ci)?|ann[eé]e|week-?end)"
        rf"|il\s+y\s+a\s+(?:environ\s+)?{_FR_NUMBER}\s+{_FR_UNIT}"
        rf"|{_FR_DAY}\s+{_FR_SHORT}(?:\s+{_YEAR})?|{_FR_SHORT}\s+{_YEAR}|{_SHARED}"
        rf"|l['’]an(?:n[eé]e)?\s+{_YEAR}"  # noqa: RUF001
        rf"|(?(bound)(?:{_FR_MONTH}|{_YEAR})|(?(elided){_FR_MONTH}|(?!))))"
        r")(?![\w/]|-\d)"
    ),
    bounds={"depuis": "since", "dès": "since", "des": "since"}
    | dict.fromkeys(("après", "apres"), "after")
    | {"avant": "before"}
    | {f"jusqu{mark}{to}": "until" for mark in "'’" for to in ("en", "à", "a", "au")},  # noqa: RUF001
    range_bounds=frozenset({"entre", "de", "du"}),
    joins=_compiled(r"\s*(?:et|à|a|au|jusqu['’](?:en|[aà]|au)|-|–)\s*(?:le\s+)?"),  # noqa: RUF001
    conjunctions=frozenset({"et", "à", "a"}),
    doubtful=re.compile(r"(?!)"),
    length_before=_compiled(rf"\b(?:{_FR_UNIT}|mois|soir|matin|week-?end)\s+$"),
    rewrites=_rewrites(
        (r"^l['’]an(?:n[eé]e)?\s+(?=\d)", ""),  # noqa: RUF001
        (r"^ce\s+(?:matin|soir)$", "aujourd'hui"),
        (r"^ce(?:tte)?\s+mois$", "ce mois-ci"),
        (r"^premier\b", "1"),
        (r"\benviron\s+", ""),
        (rf"^({_FR_WEEKDAY}|{_FR_MONTH})\s+{_FR_LAST}$", r"\1"),
        (r"^(?:(?:la|le)\s+|l['’])", ""),  # noqa: RUF001
        (r"\bpass[eé]e?\b", "dernier"),
        (r"^ce\s+(?=week)", "cette "),
        (r"^an\b", "année"),
        (r"^ann[eé]e\s+derni(?:er|[eè]re)$", "l'année dernière"),
        (r"^ann[eé]e\s+prochaine?$", "l'année prochaine"),
        (r"^mois\s+(?=derni|prochain)", "le mois "),
        (r"^(semaine|week-?end)\s+derni(?:er|[eè]re)$", r"la \1 dernière"),
        (r"^(semaine|week-?end)\s+prochaine?$", r"la \1 prochaine"),
    ),
    weekend=_compiled(r"\bweek-?end\b"),
    rolling=_compiled(r"^(\S+)\s+(?:derni[eè]re?s\s+)?(\S+)$"),
    ago=r"il y a \1 \2",
)

_GRAMMARS: Mapping[str, _Grammar] = {"english": _ENGLISH, "french": _FRENCH}
