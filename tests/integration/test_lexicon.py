"""The lexicon keeps up with what comes and goes, and reads a question by it."""

import psycopg
import pytest

from mnemolite.memory import Memory
from mnemolite.models import NewEvent, SearchQuery
from mnemolite.settings import Settings

Rows = list[tuple[object, ...]]


async def store(memory: Memory, *texts: str, namespace: str = "n") -> list[str]:
    new = [NewEvent(content={"text": text}, namespace=namespace) for text in texts]
    events, _ = await memory.add_many(new)
    return [str(event.id) for event in events]


async def count(memory: Memory) -> None:
    while await memory.lexicon.count():
        pass


def documents(dsn: str, *lexemes: str, namespace: str = "n") -> list[int]:
    query = "SELECT documents FROM lexicon WHERE namespace = %s AND lexeme = %s"
    with psycopg.connect(dsn) as connection:
        rows = [connection.execute(query, [namespace, one]).fetchone() for one in lexemes]
    return [row[0] if row else 0 for row in rows]


def recounted(dsn: str) -> tuple[Rows, Rows]:
    """The lexicon as it is, and as it would be if it were made anew."""
    with psycopg.connect(dsn) as connection:
        kept = connection.execute(
            "SELECT namespace, lexeme, documents FROM lexicon WHERE documents <> 0 ORDER BY 1, 2"
        ).fetchall()
        made = connection.execute(
            "SELECT namespace, lexeme, count(*) FROM events, "
            "unnest(tsvector_to_array(lexemes)) AS lexeme GROUP BY 1, 2 ORDER BY 1, 2"
        ).fetchall()
    return kept, made


async def test_what_comes_is_counted_once(memory: Memory, dsn: str) -> None:
    await store(memory, "tea and tea", "tea and cake")
    assert documents(dsn, "tea") == [0]
    await count(memory)
    await count(memory)
    assert documents(dsn, "tea", "cake", "beer") == [2, 1, 0]


async def test_what_goes_is_discounted(memory: Memory, dsn: str) -> None:
    ids = await store(memory, "tea", "tea", "tea")
    await count(memory)
    uncounted = await store(memory, "tea")
    with psycopg.connect(dsn, autocommit=True) as connection:
        gone = [ids[0], uncounted[0]]
        connection.execute("DELETE FROM events WHERE id = ANY (%s::uuid[])", [gone])
    await count(memory)
    assert documents(dsn, "tea") == [2]


async def test_the_lexicon_equals_a_recount(memory: Memory, dsn: str) -> None:
    ids: list[str] = []
    for number in range(60):
        ids += await store(memory, f"turn {number % 7} of {number % 5}", namespace=f"n{number % 3}")
        if number % 4 == 0:
            await memory.lexicon.count()
        if number % 3 == 0:
            with psycopg.connect(dsn, autocommit=True) as connection:
                connection.execute("DELETE FROM events WHERE id = %s", [ids.pop(0)])
    await count(memory)
    kept, made = recounted(dsn)
    assert kept == made


async def test_namespaces_are_counted_apart(memory: Memory, dsn: str) -> None:
    await store(memory, "tea", namespace="one")
    await store(memory, "tea", "tea", namespace="two")
    await count(memory)
    assert documents(dsn, "tea", namespace="one") == [1]
    assert documents(dsn, "tea", namespace="two") == [2]


async def test_a_question_is_read_with_its_rarity(memory: Memory) -> None:
    await store(memory, "green tea", "black tea", "black coffee tea")
    await count(memory)
    question = await memory.lexicon.question("n", "Is the tea black or green?", space=None)
    assert [(term.lexeme, term.documents) for term in question.terms] == [
        ("green", 1), ("black", 2), ("tea", 3),
    ]  # fmt: skip
    assert question.documents == 3
    assert question.average_words > 1


async def test_a_namespace_that_nobody_knows(memory: Memory) -> None:
    question = await memory.lexicon.question("nowhere", "tea", space=None)
    assert question.terms == ()


async def test_french_question_words_ask_and_never_answer(memory: Memory) -> None:
    await memory.events.add_namespaces(["fr"], language="french")
    await store(memory, "Combien coûte le thé au café ?", namespace="fr")
    await count(memory)
    question = await memory.lexicon.question("fr", "Combien coute le the ?", space=None)
    assert {term.lexeme for term in question.terms} >= {"cout"}
    assert "combien" not in {term.lexeme for term in question.terms}


@pytest.mark.parametrize("frequency", [0, 1, 2, 3, 7, 31])
def test_the_rank_of_a_word_tells_its_frequency(dsn: str, frequency: int) -> None:
    text = "other " + "word " * frequency
    with psycopg.connect(dsn) as connection:
        query = "SELECT term_frequency(to_tsvector('simple', %s), '''word'''::tsquery)"
        row = connection.execute(query, [text]).fetchone()
    assert row == (frequency,)


@pytest.mark.parametrize(("b", "favours_short"), [(0.0, False), (1.0, True)])
async def test_the_constants_of_bm25_are_settings(
    settings: Settings, b: float, favours_short: bool
) -> None:
    search = settings.search.model_copy(update={"bm25_k1": 2.0, "bm25_b": b})
    async with Memory.open(settings.model_copy(update={"search": search})) as memory:
        await store(memory, "tea", "tea among a good many other fine words", "coffee", "beer")
        await count(memory)
        found = await memory.search(SearchQuery(q="tea", namespace="n", mode="text"))
    scores = {hit.text: hit.text_score or 0.0 for hit in found.data if hit.text_score}
    short = scores.pop("tea")
    [long] = scores.values()
    assert (short > long) == favours_short
