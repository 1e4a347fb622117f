"""Needles that searches elsewhere lose, with the packaged model, in hybrid search."""

from collections.abc import AsyncIterator

import pytest

from mnemolite.memory import Memory
from mnemolite.models import NewEvent, SearchQuery
from mnemolite.settings import EmbeddingSettings, Settings
from mnemolite.worker import Worker

_FILLER = "We talked about the weather, the garden and what to cook on Sunday. "
TURNS = (
    "The build failed with ERR-4512 again.",
    "The build failed with ERR-4513 again.",
    "My favourite language is C++, it is fast.",
    "My favourite language is C, it is small.",
    "On se retrouve au café de la gare.",
    "On se retrouve au cinéma de la gare.",
    "We run node 18.2.1 in production.",
    "We run node 18.2.3 in production.",
    "Write to ada.lovelace@example.org about the engine.",
    "Write to ada@example.com about the engine.",
    "The config lives in /etc/mnemo/server.conf on that host.",
    "The config lives in /etc/nginx/nginx.conf on that host.",
    "我喜欢在图书馆看书。",
    "昨日は東京で友達に会いました。",
    "That was the best party ever 🎉🎂",
    "The deployment was postponed because of the kubernetes upgrade.",
    _FILLER * 60 + "The spare key is under the blue flowerpot.",
    _FILLER * 60 + "The alarm goes off at half past six.",
)

NEEDLES = (
    ("ERR-4512", 0),
    ("what happened with ERR-4513?", 1),
    ("who likes C++?", 2),
    ("cafe", 4),
    ("node 18.2.1", 6),
    ("ada.lovelace@example.org", 8),
    ("/etc/mnemo/server.conf", 10),
    ("图书馆", 12),
    ("東京", 13),
    ("🎉", 14),
    ("kuberntes upgrade", 15),
    ("where is the spare key?", 16),
    ("when does the alarm go off?", 17),
)


@pytest.fixture(scope="module")
def settings_of_model() -> EmbeddingSettings:
    return EmbeddingSettings(mode="real")


@pytest.fixture
async def remembered(
    settings: Settings, settings_of_model: EmbeddingSettings
) -> AsyncIterator[Memory]:
    real = settings.model_copy(update={"embedding": settings_of_model})
    async with Memory.open(real) as memory:
        await memory.add_many([NewEvent(content={"text": text}) for text in TURNS])
        await Worker(memory).drain()
        yield memory


async def test_needles_are_found_first(remembered: Memory) -> None:
    lost = []
    for q, number in NEEDLES:
        result = await remembered.search(SearchQuery(q=q, limit=3))
        if result.data[0].text != TURNS[number]:
            lost.append((q, [hit.text[-50:] for hit in result.data]))
    assert lost == []


async def test_the_passage_that_holds_the_answer_is_named(remembered: Memory) -> None:
    result = await remembered.search("where is the spare key?")
    hit = result.data[0]
    assert hit.passage is not None
    assert "blue flowerpot" in hit.passage.text
    assert hit.text[hit.passage.start : hit.passage.end] == hit.passage.text
    assert len(hit.passage.text) < len(hit.text)


async def test_phrases_and_exclusions(remembered: Memory) -> None:
    only = await remembered.search('"failed with ERR-4512"')
    assert [hit.text for hit in only.data] == [TURNS[0]]
    without = await remembered.search("build failed -ERR-4512")
    assert TURNS[1] in [hit.text for hit in without.data]
    assert TURNS[0] not in [hit.text for hit in without.data]


async def test_an_explanation_adds_up(remembered: Memory) -> None:
    result = await remembered.search(SearchQuery(q="build ERR-4512", explain=True))
    for hit in result.data:
        why = hit.explanation
        assert why is not None
        total = (why.vector.score + why.text.score) * why.boost
        assert hit.score == pytest.approx(total)
    best = result.data[0].explanation
    assert best is not None
    assert {"err", "-4512", "build"} <= set(best.terms)
