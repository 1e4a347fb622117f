"""POST /v1/context: memories as a text, within a number of tokens."""

from typing import Any

import pytest
from httpx import AsyncClient

from mnemolite.memory import Memory
from mnemolite.models import ContextQuery
from mnemolite.tokens import counter
from mnemolite.worker import Worker

TURNS = [
    ("2024-05-01T10:00:00Z", "1", "Ada", "Which tea do you like?"),
    ("2024-05-01T10:01:00Z", "1", "Bob", "Oolong, from the mountains."),
    ("2024-05-02T10:00:00Z", "2", "Ada", "My tea is cold."),
]


@pytest.fixture
async def told(client: AsyncClient, memory: Memory) -> AsyncClient:
    events = [
        {"timestamp": at, "session": session, "content": {"speaker": speaker, "text": text}}
        for at, session, speaker, text in TURNS
    ]
    await client.post("/v1/events/batch", json=events)
    await Worker(memory).drain()
    return client


async def ask(client: AsyncClient, **query: Any) -> dict[str, Any]:
    response = await client.post("/v1/context", json=query)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


async def test_a_text_for_a_prompt(told: AsyncClient) -> None:
    context = await ask(told, q="Which tea?", mode="text", limit=1)
    assert context["text"] == (
        "Wednesday, 1 May 2024 (session 1)\n"
        "10:00 Ada: Which tea do you like?\n"
        "10:01 Bob: Oolong, from the mountains."
    )
    assert context["tokens"] == counter("all-MiniLM-L6-v2")(context["text"])
    assert [(part["part"], part["hit"]) for part in context["parts"]] == [
        ("whole", 1),
        ("whole", None),
    ]
    assert context["tokenizer"] == "all-MiniLM-L6-v2"
    assert context["meta"]["arms"] == ["text"]


async def test_the_budget_holds(told: AsyncClient) -> None:
    for tokenizer in ("all-MiniLM-L6-v2", "characters/4"):
        for budget in (32, 40, 80):
            context = await ask(told, q="tea", max_tokens=budget, tokenizer=tokenizer)
            assert context["tokens"] <= budget
            assert context["text"]


async def test_without_neighbours(told: AsyncClient) -> None:
    context = await ask(told, q="tea", mode="text", neighbours=0, where={"content.speaker": "Ada"})
    assert "Oolong" not in context["text"]
    assert len(context["parts"]) == 2


async def test_python_takes_a_plain_question(told: AsyncClient, memory: Memory) -> None:
    context = await memory.context("tea")
    assert context == await memory.context(ContextQuery(q="tea"))
    assert len(context.parts) == 3


async def test_an_explained_context_can_be_replayed(told: AsyncClient) -> None:
    context = await ask(told, q="tea", explain=True)
    replay = await told.post(f"/v1/search/{context['meta']['request_id']}/replay")
    assert replay.json()["same"] is True


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"q": "x", "max_tokens": 31}, "max_tokens"),
        ({"q": "x", "max_tokens": "many"}, "max_tokens"),
        ({"q": "x", "tokenizer": "gpt"}, "tokenizer"),
        ({"q": "x", "neighbours": 21}, "neighbours"),
        ({"q": "x", "unknown": 1}, "unknown"),
        ({"q": " "}, "q"),
        ({"q": "x", "where": {"a": {"$near": 1}}}, "where.a.$near"),
    ],
)
async def test_bad_input_is_named(client: AsyncClient, query: Any, field: str | None) -> None:
    response = await client.post("/v1/context", json=query)
    assert response.status_code == 422
    assert response.json().get("field") == field
