"""The lexicon: how rare each word of a namespace is, and what a question asks for in its words."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import combinations

from mnemolite.database import Database
from mnemolite.ranking import Bm25
from mnemolite.sql import load

_queries = load("lexicon")

PENDING_LIMIT = 10_000
COUNT_LOCK = 0x6D6E656D6C
_COUNT_BATCH = 5000
# Occurrences that the index may hand over for scoring; and of the rarer of two common words, which
# are looked up among those of the other to find both together: 3 ms for 30,000 among 140,000.
_BUDGET = 2500
_PAIR_BUDGET = 30_000
_PAIRED_TERMS = 3
_PHRASE = re.compile(r'(-?)"([^"]+)"')
_EXCLUDED = re.compile(r"(?<!\S)-(?=[^\W\d_])(\S+)")

# Words that ask and never answer, which PostgreSQL's stop words of the language leave in; as its
# stemmers and the folding of accents make them. (Its English stop words have them all.)
_QUESTION_WORDS: Mapping[str, frozenset[str]] = {
    "mnemo_french": frozenset(
        {"a-t-il", "combien", "comment", "est-ce", "laquel", "lequel", "lesquel"}
        | {"ou", "pourquoi", "quand", "quel", "qui", "quoi"}
    )
}


@dataclass(frozen=True, slots=True)
class Term:
    """A lexeme of a question, and in how many events of the namespace it occurs."""

    lexeme: str
    documents: int
    idf: float

    @property
    def tsquery(self) -> str:
        """The lexeme as PostgreSQL's tsquery, whatever characters it has."""
        return quote_lexeme(self.lexeme)


@dataclass(frozen=True, slots=True)
class Question:
    """What a query asks for in words, with the statistics of its namespace.

    ``asked`` holds all lexemes of the query; ``terms`` only those worth looking for, rarest first.
    ``phrases`` and ``excluded`` are texts that must, and must not, occur. ``language`` is the
    text-search configuration of the namespace, empty if there is no such namespace.
    """

    terms: tuple[Term, ...] = ()
    asked: tuple[str, ...] = ()
    phrases: tuple[str, ...] = ()
    excluded: tuple[str, ...] = ()
    pending: int = 0
    documents: int = 0
    average_words: float = 1.0
    language: str = ""
    bm25: Bm25 = field(default_factory=Bm25)


class Lexicon:
    """Document frequencies and lengths, per namespace; ``bm25`` says how questions weigh them."""

    def __init__(self, database: Database, *, k1: float, b: float) -> None:
        self._database = database
        self.bm25 = Bm25(k1, b)

    async def question(self, namespace: str, q: str, *, space: int | None) -> Question:
        """Read a query: its words, their rarity, quoted phrases and words after a minus.

        ``pending`` comes along: events of the namespace without an embedding in the space, counted
        up to PENDING_LIMIT.
        """
        plain, phrases, excluded = parse_syntax(q)
        async with self._database.connection() as connection:
            cursor = await connection.execute(
                _queries["question"],
                {
                    "namespace": namespace,
                    "q": plain,
                    "space": space,
                    "pending_limit": PENDING_LIMIT,
                },
            )
            row = await cursor.fetchone()
        if row is None:
            return Question(phrases=phrases, excluded=excluded, bm25=self.bm25)
        skipped = _QUESTION_WORDS.get(row["language"], frozenset())
        documents = max(row["documents"], 1)
        terms = [
            Term(lexeme, count, inverse_document_frequency(count, documents))
            for lexeme, count in row["lexemes"].items()
            if lexeme not in skipped
        ]
        return Question(
            terms=tuple(sorted(terms, key=lambda term: (term.documents, term.lexeme))),
            asked=tuple(row["lexemes"]),
            phrases=phrases,
            excluded=excluded,
            pending=row["pending"],
            documents=documents,
            average_words=max(row["words"] / documents, 1.0),
            language=row["language"],
            bm25=self.bm25,
        )

    async def count(self) -> int:
        """Count a batch of events that came or went; how many. Only one process does at a time."""
        async with self._database.transaction() as connection:
            cursor = await connection.execute(_queries["lock"], {"key": COUNT_LOCK})
            if not (await cursor.fetchone() or {}).get("mine"):
                return 0
            cursor = await connection.execute(_queries["count"], {"limit": _COUNT_BATCH})
            return int((await cursor.fetchone() or {}).get("events", 0))


def candidate_words(question: Question) -> list[str]:
    """The tsqueries whose matches are worth scoring, each for what those before it left wanting.

    The rarest words, as long as their occurrences together stay within a budget. What is more
    common counts only where two such words meet: alone they would fetch half of the memory, and
    none of it would rank high. Where even the rarest word that was counted breaks the budget, it is
    asked for alone only after it was asked for together with the others.
    """
    rare: list[Term] = []
    spent = 0
    for term in question.terms:
        if spent + term.documents > _BUDGET:
            break
        rare.append(term)
        spent += term.documents
    common = question.terms[len(rare) :][:_PAIRED_TERMS]
    alone = [] if spent else [term.tsquery for term in common[:1]]
    pairs = [
        f"({one.tsquery} & {other.tsquery})"
        for one, other in combinations(common, 2)
        if one.documents <= _PAIR_BUDGET
    ]
    together = " | ".join([*(term.tsquery for term in rare), *pairs])
    return [words for words in (together, *alone) if words]


def inverse_document_frequency(documents_with: int, documents: int) -> float:
    """Robertson and Spärck Jones' weight in the form of Lucene, which is never negative."""
    found = min(max(documents_with, 0), documents)
    return math.log(1 + (documents - found + 0.5) / (found + 0.5))


def quote_lexeme(lexeme: str) -> str:
    """A lexeme as it is written in a tsquery."""
    return "'" + lexeme.replace("\\", "\\\\").replace("'", "''") + "'"


def parse_syntax(q: str) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    """Split a query into its plain words, its ``"quoted phrases"`` and its ``-excluded`` words.

    Phrases are demanded only by a query that is nothing else: inside a question they are words
    like the others, for people quote titles that the answer need not repeat.
    """
    excluded = [phrase for minus, phrase in _PHRASE.findall(q) if minus]
    phrases = [phrase for minus, phrase in _PHRASE.findall(q) if not minus]
    rest = _PHRASE.sub(" ", q)
    excluded += _EXCLUDED.findall(rest)
    rest = _EXCLUDED.sub(" ", rest)
    plain = " ".join([rest, *phrases])
    return plain, tuple(phrases) if not rest.strip() else (), tuple(excluded)
