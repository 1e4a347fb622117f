"""Contexts: the best of a search as dated, spoken lines that fit a prompt's budget of tokens."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import groupby
from uuid import UUID

from mnemolite.embeddings.templates import written_day
from mnemolite.models import (
    Context,
    ContextPart,
    ContextQuery,
    Event,
    Hit,
    SearchResult,
)
from mnemolite.tokens import Count, counter

Span = tuple[int, int]

# A text beyond this many characters whose passages are not known gives its beginning only.
_LONG_TEXT = 2000
_BEGINNING = 1000
_SENTENCE_END = re.compile(r"[.!?…][\"')\]”’»]*\s|[。！？][」』”’]*|\n")  # noqa: RUF001
_WORD = re.compile(r"\S+")
_WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


@dataclass(frozen=True, slots=True)
class Snippet:
    """A piece of an event that could be told; ``hit`` is the event's rank, if it is a hit."""

    event: Event
    span: Span
    hit: int | None

    @property
    def essence(self) -> tuple[str, str]:
        """Who said what, but for case and blanks: said twice, it is told once."""
        text = self.event.text[slice(*self.span)]
        return self.event.speaker.casefold(), " ".join(text.split()).casefold()


@dataclass(slots=True)
class Entry:
    """What of an event is told."""

    event: Event
    hit: int | None
    spans: list[Span] = field(default_factory=list)

    def with_span(self, span: Span) -> "Entry":
        return Entry(self.event, self.hit, _merge([*self.spans, span]))

    def line(self) -> str:
        """``13:56 Caroline: …``; further lines of the text are indented below it."""
        text, told, end = self.event.text, "", 0
        for start, stop in self.spans:
            left_out = text[end:start].strip()
            told += (" … " if left_out else " ") + _indented(text[start:stop])
            end = stop
        told = told.strip() + (" …" if text[end:].strip() else "")
        speaker = self.event.speaker
        clock = self.event.timestamp.strftime("%H:%M")
        return f"{clock} {speaker}: {told}\n" if speaker else f"{clock} {told}\n"


class Page:
    """The text in the making: what was chosen, grouped by session and day, and its tokens."""

    def __init__(self, max_tokens: int, count_tokens: Count) -> None:
        self._left = max_tokens
        self._count = count_tokens
        self._entries: dict[UUID, Entry] = {}
        self._headings: set[str] = set()
        self._told: set[tuple[str, str]] = set()

    def add(self, snippet: Snippet) -> None:
        """Tell the snippet if it is new and fits; the very first one is shortened to fit."""
        if not snippet.essence[1] or snippet.essence in self._told:
            return
        entry = self._fitting(snippet)
        if entry is None:
            return
        self._left -= self._cost(entry)
        self._entries[entry.event.id] = entry
        self._headings.add(_heading(entry.event))
        self._told.add(snippet.essence)

    def entries(self) -> list[Entry]:
        """In the order of the text: the session of the best hit first, each in order of time."""
        threads: dict[str, int] = {}
        for entry in self._entries.values():
            threads.setdefault(_thread(entry.event), len(threads))

        def place(entry: Entry) -> tuple[int, datetime, UUID]:
            return threads[_thread(entry.event)], entry.event.timestamp, entry.event.id

        return sorted(self._entries.values(), key=place)

    def _fitting(self, snippet: Snippet) -> Entry | None:
        known = self._entries.get(snippet.event.id) or Entry(snippet.event, snippet.hit)
        entry = known.with_span(snippet.span)
        if self._cost(entry) <= self._left:
            return entry
        return None if self._entries else self._shortened(entry)

    def _cost(self, entry: Entry) -> int:
        """The tokens that the text grows by."""
        heading = _heading(entry.event)
        before = self._entries.get(entry.event.id)
        had = self._count(before.line()) if before else 0
        new = 0 if heading in self._headings else self._count(heading)
        return new + self._count(entry.line()) - had

    def _shortened(self, entry: Entry) -> Entry | None:
        """As many words of its beginning as fit."""
        ((start, end),) = entry.spans
        ends = [start + word.end() for word in _WORD.finditer(entry.event.text[start:end])]
        low, high = 0, len(ends)
        fitting: Entry | None = None
        while low < high:
            middle = (low + high) // 2
            tried = Entry(entry.event, entry.hit, [(start, ends[middle])])
            if self._cost(tried) <= self._left:
                low, fitting = middle + 1, tried
            else:
                high = middle
        return fitting


def pack(query: ContextQuery, result: SearchResult) -> Context:
    """Choose snippets, the most useful first, until nothing more fits; print them in order.

    The tokens of the text never exceed ``query.max_tokens``.
    """
    count_tokens = counter(query.tokenizer)
    page = Page(query.max_tokens, count_tokens)
    for snippet in snippets(result.data):
        page.add(snippet)
    entries = page.entries()
    text = "".join(
        heading + "".join(entry.line() for entry in group)
        for heading, group in groupby(entries, key=lambda entry: _heading(entry.event))
    ).strip("\n")
    return Context(
        text=text,
        parts=[part for entry in entries for part in _parts(entry)],
        tokens=count_tokens(text),
        max_tokens=query.max_tokens,
        tokenizer=query.tokenizer,
        meta=result.meta,
    )


def snippets(hits: Sequence[Hit]) -> Iterator[Snippet]:
    """All that could be told, the most useful first.

    The hits in their order, long ones by their best passage; then what stands next to each hit,
    in their order again; then what stands two places away; and so on.
    """
    ranks = {hit.id: rank for rank, hit in enumerate(hits, start=1)}
    events: dict[UUID, Event] = {hit.id: hit for hit in hits}
    events |= {near.id: near.event for hit in hits for near in hit.neighbours if near.event}
    for hit in hits:
        yield Snippet(hit, _best_span(hit), ranks[hit.id])
    reach = max((abs(near.place) for hit in hits for near in hit.neighbours), default=0)
    for distance in range(1, reach + 1):
        for hit in hits:
            for near in hit.neighbours:
                if abs(near.place) != distance:
                    continue
                if near.passage:
                    yield Snippet(hit, (near.passage.start, near.passage.end), ranks[hit.id])
                elif near.id not in ranks and near.id in events:
                    yield Snippet(events[near.id], _beginning(events[near.id].text), None)


def _best_span(hit: Hit) -> Span:
    return (hit.passage.start, hit.passage.end) if hit.passage else _beginning(hit.text)


def _beginning(text: str) -> Span:
    """All of a text, or the sentences at the beginning of a long one."""
    if len(text) <= _LONG_TEXT:
        return 0, len(text)
    ends = [match.end() for match in _SENTENCE_END.finditer(text, 0, _BEGINNING)]
    return 0, ends[-1] if ends else _BEGINNING


def _merge(spans: Sequence[Span]) -> list[Span]:
    """Spans in order, those that touch or overlap as one."""
    merged: list[Span] = []
    for start, end in sorted(spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(end, merged[-1][1])
        else:
            merged.append((start, end))
    return merged


def _parts(entry: Entry) -> Iterator[ContextPart]:
    text = entry.event.text
    for start, end in entry.spans:
        whole = not text[:start].strip() and not text[end:].strip()
        yield ContextPart(
            id=entry.event.id,
            part="whole" if whole else "passage",
            start=start,
            end=end,
            hit=entry.hit,
        )


def _thread(event: Event) -> str:
    """What is told together: a session, or what happened on one day outside of sessions."""
    return f"session {event.session}" if event.session else written_day(event.timestamp)


def _heading(event: Event) -> str:
    day = f"{_WEEKDAYS[event.timestamp.weekday()]}, {written_day(event.timestamp)}"
    return f"\n{day} (session {event.session})\n" if event.session else f"\n{day}\n"


def _indented(text: str) -> str:
    """Further lines of a text set off from the speakers' own."""
    lines = (line.rstrip() for line in text.splitlines())
    return "\n  ".join(line for line in lines if line).strip()
