"""Writes and searches that go on while something else happens, and an account of every answer."""

import itertools
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

import httpx
import psycopg
from psycopg.rows import dict_row

NAMESPACE = "load"
_PEOPLE = ("Ada", "Boris", "Chloe", "David", "Elena", "Farid", "Greta", "Hugo", "Ines", "Jonas")
_DEEDS = (
    "bought a {} bicycle",
    "lost a {} umbrella",
    "painted a {} door",
    "sold a {} guitar",
    "repaired a {} lamp",
    "found a {} suitcase",
    "knitted a {} scarf",
    "carved a {} spoon",
    "borrowed a {} ladder",
    "dropped a {} vase",
)
_COLOURS = ("red", "blue", "green", "yellow", "black", "white", "purple", "orange", "brown", "pink")
_PLACES = ("Lisbon", "Oslo", "Cairo", "Lima", "Kyoto", "Quebec", "Naples", "Dakar", "Perth", "Riga")
_TIMES = ("in spring", "in June", "on a Monday", "at noon", "last year", "before dinner")


@dataclass(frozen=True)
class Probe:
    """A question and the event that answers it."""

    question: str
    answer: str


def facts(count: int) -> list[str]:
    """So many different sentences, at most 60,000."""
    combined = itertools.product(_TIMES, _COLOURS, _PLACES, _DEEDS, _PEOPLE)
    return [
        f"{person} {deed.format(colour)} in {place} {when}."
        for when, colour, place, deed, person in itertools.islice(combined, count)
    ]


def probes(texts: Sequence[str], count: int) -> list[Probe]:
    """Questions about some of the sentences, spread over all of them."""
    chosen = texts[:: max(1, len(texts) // count)][:count]
    return [Probe("Who " + text.partition(" ")[2].replace(".", "?"), text) for text in chosen]


@dataclass
class Answer:
    """What one search found."""

    at: float
    probe: Probe
    seconds: float
    space: int
    hits: list[tuple[str, float]]  # id and distance
    found: bool


@dataclass
class Load:
    """Clients that write and search without a pause, and keep account."""

    url: str
    probes: list[Probe]
    pause_seconds: float = 0.05
    stored: set[str] = field(default_factory=set)
    answers: list[Answer] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def running(self, *, writers: int = 1, searchers: int = 1) -> Iterator[None]:
        threads = [
            threading.Thread(target=target, args=(number,))
            for target, count in ((self._write, writers), (self._search, searchers))
            for number in range(count)
        ]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in threads:
                thread.join()

    def between(self, since: float, until: float | None = None) -> list[Answer]:
        """The answers to searches of a span of time."""
        return [a for a in self.answers if since <= a.at < (until or float("inf"))]

    def _write(self, number: int) -> None:
        with httpx.Client(base_url=self.url, timeout=60) as client:
            for turn in itertools.count():
                if self._stop.wait(self.pause_seconds):
                    return
                text = f"Reminder {number}.{turn}: water the plants on the balcony."
                event = {"namespace": NAMESPACE, "content": text}
                if answer := self._ask(client, "/v1/events", event):
                    self.stored.add(answer["id"])

    def _search(self, number: int) -> None:
        with httpx.Client(base_url=self.url, timeout=60) as client:
            for probe in itertools.cycle(self.probes[number:] + self.probes[:number]):
                if self._stop.wait(self.pause_seconds):
                    return
                self.search(client, probe)

    def search(self, client: httpx.Client, probe: Probe) -> None:
        """Ask one question by meaning alone."""
        query = {"q": probe.question, "namespace": NAMESPACE, "mode": "vector", "limit": 10}
        at, started = time.time(), time.perf_counter()
        if answer := self._ask(client, "/v1/search", query):
            hits = [(hit["id"], hit["distance"]) for hit in answer["data"]]
            found = any(hit["text"] == probe.answer for hit in answer["data"])
            seconds = time.perf_counter() - started
            space = answer["meta"]["space"]
            self.answers.append(Answer(at, probe, seconds, space, hits, found))
            if answer["meta"]["degraded"]:
                self.failures.append(f"degraded: {answer['meta']['degraded']}")

    def _ask(self, client: httpx.Client, path: str, body: Any) -> Any:
        try:
            response = client.post(path, json=body)
        except httpx.HTTPError as error:
            self.failures.append(f"{path}: {error!r}")
            return None
        if response.status_code not in (200, 201):
            self.failures.append(f"{path}: {response.status_code} {response.text}")
            return None
        return response.json()


def recall(answers: Sequence[Answer]) -> float:
    """The share of questions whose event was found; each counts once, however often asked."""
    outcomes: dict[Probe, list[bool]] = {}
    for answer in answers:
        outcomes.setdefault(answer.probe, []).append(answer.found)
    return fmean(fmean(found) for found in outcomes.values())


def strangers(dsn: str, answers: Sequence[Answer], vectors: dict[int, dict[str, Any]]) -> int:
    """How many hits have a distance that is not that of the space their answer names.

    ``vectors`` holds, for each space, the vector of each question.
    """
    wrong = 0
    with psycopg.connect(dsn, row_factory=dict_row) as connection:
        for answer in answers:
            query = (
                "SELECT event_id::text AS id, min(embedding <=> %s::vector) AS distance "
                f"FROM embeddings_{answer.space} WHERE event_id = ANY(%s::uuid[]) GROUP BY 1"
            )
            vector = vectors[answer.space][answer.probe.question]
            ids = [id for id, _ in answer.hits]
            rows = connection.execute(query.encode(), [str(vector.tolist()), ids]).fetchall()
            true = {row["id"]: row["distance"] for row in rows}
            wrong += sum(abs(true.get(id, 9.0) - distance) > 1e-3 for id, distance in answer.hits)
    return wrong


def missing(dsn: str, space: int) -> int:
    """Events without a vector in a space."""
    query = (
        f"SELECT count(*) FROM events e WHERE NOT EXISTS (SELECT FROM embeddings_{space} v "
        "WHERE v.event_id = e.id)"
    )
    with psycopg.connect(dsn) as connection:
        row = connection.execute(query.encode()).fetchone()
    return int(row[0]) if row else 0
