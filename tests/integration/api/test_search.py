"""Routes of the search, over a real database with mock vectors."""

import json
from typing import Any
from uuid import UUID

import pytest
from httpx import AsyncClient

from mnemolite.memory import Memory
from mnemolite.worker import Worker

TURNS = [
    ("2024-01-01T10:00:00Z", "a", {"user": "ada", "n": 1}, "The parser fails with ERR-4512."),
    ("2024-01-02T10:00:00Z", "a", {"user": "bob", "n": 2}, "Un café noir, merci."),
    ("2024-01-03T10:00:00Z", "b", {"user": "ada", "n": 3}, "We moved to node 18.2.1 yesterday."),
    ("2024-01-04T10:00:00Z", "b", {"user": "eve", "n": 4}, "Write to ada@example.org about tea."),
]


@pytest.fixture
async def searched(client: AsyncClient, memory: Memory) -> AsyncClient:
    events = [
        {"timestamp": at, "session": session, "metadata": metadata, "content": text}
        for at, session, metadata, text in TURNS
    ]
    await client.post("/v1/events/batch", json=events)
    await Worker(memory).drain()
    return client


async def find(client: AsyncClient, **query: Any) -> dict[str, Any]:
    response = await client.post("/v1/search", json=query)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def numbers(answer: dict[str, Any]) -> list[int]:
    return [hit["metadata"]["n"] for hit in answer["data"]]


@pytest.mark.parametrize(
    ("q", "n"),
    [("ERR-4512", 1), ("cafe", 2), ("Café", 2), ("node 18.2.1", 3), ("ada@example.org", 4)],
)
async def test_words_are_found(searched: AsyncClient, q: str, n: int) -> None:
    assert numbers(await find(searched, q=q, mode="text"))[0] == n
    by_text = {
        hit["metadata"]["n"]: hit["ranks"]["text"] for hit in (await find(searched, q=q))["data"]
    }
    assert by_text[n] == 1


async def test_a_whole_question_needs_only_some_of_its_words(searched: AsyncClient) -> None:
    answer = await find(
        searched, q="Which error code did the parser show last summer?", mode="text"
    )
    assert numbers(answer)[0] == 1


async def test_get_and_post_are_the_same_search(searched: AsyncClient) -> None:
    where = {"user": {"$in": ["ada", "eve"]}}
    by_post = await find(searched, q="tea", where=where, limit=2)
    params = {"q": "tea", "where": json.dumps(where), "limit": "2"}
    by_get = (await searched.get("/v1/search", params=params)).json()
    assert by_get == by_post
    assert len(by_get["data"]) == 2


async def test_a_hit_carries_its_scores(searched: AsyncClient) -> None:
    answer = await find(searched, q="café")
    assert answer["meta"]["arms"] == ["vector", "text"]
    first = next(hit for hit in answer["data"] if hit["ranks"]["text"] == 1)
    assert first["text"] == "Un café noir, merci."
    assert first["text_score"] > 0
    for hit in answer["data"]:
        assert 0 <= hit["distance"] <= 2
        assert hit["similarity"] == pytest.approx(max(0.0, 1 - hit["distance"]))
    scores = [hit["score"] for hit in answer["data"]]
    assert scores == sorted(scores, reverse=True)


async def test_an_event_is_nearest_to_its_own_vector(searched: AsyncClient, memory: Memory) -> None:
    vector = (await memory.embedder.embed_query("anything")).tolist()
    answer = await find(searched, vector=vector, mode="vector")
    by_rank = sorted(answer["data"], key=lambda hit: hit["ranks"]["vector"])
    distances = [hit["distance"] for hit in by_rank]
    assert len(distances) == 4
    assert distances == sorted(distances)
    assert answer["meta"]["plan"]["vector"] == "exact"


@pytest.mark.parametrize("mode", ["hybrid", "vector", "text"])
async def test_filters_hold_in_every_mode(searched: AsyncClient, mode: str) -> None:
    q = "parser café node tea"

    async def found(**options: Any) -> list[int]:
        return sorted(numbers(await find(searched, q=q, mode=mode, **options)))

    assert await found() == [1, 2, 3, 4]
    assert await found(where={"user": "ada"}) == [1, 3]
    assert await found(where={"n": {"$gte": 2}, "$or": [{"user": "bob"}, {"user": "eve"}]}) == [
        2,
        4,
    ]
    assert await found(since="2024-01-02T10:00:00Z", until="2024-01-04T10:00:00Z") == [2, 3]
    assert await found(session="b") == [3, 4]
    assert await found(session="b", where={"user": "eve"}) == [4]
    assert await found(namespace="elsewhere") == []


async def test_a_search_says_what_is_pending(searched: AsyncClient) -> None:
    await searched.post("/v1/events", json={"content": "a pending turn about tea"})
    answer = await find(searched, q="pending turn")
    assert answer["meta"]["pending"] == 1
    waiting = next(hit for hit in answer["data"] if hit["pending"])
    assert waiting["text"] == "a pending turn about tea"
    assert (waiting["similarity"], waiting["ranks"]["text"]) == (None, 1)
    assert (await find(searched, q="x", namespace="elsewhere"))["meta"]["pending"] == 0


async def test_min_similarity_leaves_out_the_rest(searched: AsyncClient) -> None:
    everything = await find(searched, q="parser")
    floor = sorted(hit["similarity"] for hit in everything["data"])[2]
    answer = await find(searched, q="parser", min_similarity=floor)
    assert {hit["similarity"] >= floor for hit in answer["data"]} == {True}
    assert len(answer["data"]) == 2


async def test_words_that_mean_nothing_to_the_words_arm(searched: AsyncClient) -> None:
    for q in ("the of and", "?!", "qwertzuiop"):
        assert (await find(searched, q=q, mode="text"))["data"] == []
        assert len((await find(searched, q=q))["data"]) == 4


async def test_neighbours_over_both_methods(searched: AsyncClient) -> None:
    by_post = await find(searched, q="ERR-4512", mode="text", limit=1, neighbours=1)
    params = {"q": "ERR-4512", "mode": "text", "limit": "1", "neighbours": "1"}
    by_get = (await searched.get("/v1/search", params=params)).json()
    assert by_get == by_post
    (hit,) = by_post["data"]
    (neighbour,) = hit["neighbours"]
    assert (neighbour["place"], neighbour["passage"]) == (1, None)
    assert neighbour["event"]["metadata"]["n"] == 2
    for wrong in ("21", "-1", "x"):
        response = await searched.get("/v1/search", params={"q": "x", "neighbours": wrong})
        assert (response.status_code, response.json()["field"]) == (422, "neighbours")


async def test_an_explained_search(searched: AsyncClient) -> None:
    where = {"user": {"$in": ["ada", "bob"]}}
    answer = await find(
        searched, q='ERR-4512 parser -tea "x y"', where=where, since="2023-01-01T00:00:00Z",
        explain=True,
    )  # fmt: skip
    query = answer["meta"]["explanation"]
    assert query["where"] == where
    assert query["since"] == "2023-01-01T00:00:00Z"
    assert query["excluded"] == ["tea"]
    assert query["terms"]["parser"]["idf"] > 0
    assert query["found"].keys() == {"vector", "text"}
    assert {"embedding", "vector", "text", "pool", "ranking", "total"} <= query["timings"].keys()
    for hit in answer["data"]:
        why = hit["explanation"]
        assert sum(why["parts"].values()) == pytest.approx(hit["score"])
        assert why["text"]["rank"] == hit["ranks"]["text"]
        assert why["vector"]["raw"] == pytest.approx(1 - hit["distance"])


async def test_a_replay(searched: AsyncClient) -> None:
    answer = await find(searched, q="ERR-4512", mode="text", explain=True)
    address = f"/v1/search/{answer['meta']['request_id']}/replay"
    replay = (await searched.post(address)).json()
    assert (replay["same"], replay["hits"], replay["meta"]) == (True, [], {})
    await searched.delete(f"/v1/events/{answer['data'][0]['id']}")
    replay = (await searched.post(address)).json()
    assert replay["same"] is False
    changes = {change["id"]: change["change"] for change in replay["hits"]}
    assert changes[answer["data"][0]["id"]] == "went"


@pytest.mark.parametrize(
    ("name", "status", "code"),
    [(UUID(int=1), 404, "search_not_found"), ("nothing", 422, "invalid_input")],
)
async def test_replays_of_nothing(
    client: AsyncClient, name: object, status: int, code: str
) -> None:
    response = await client.post(f"/v1/search/{name}/replay")
    assert (response.status_code, response.json()["code"]) == (status, code)


async def test_wishes_by_query_string_and_by_body(searched: AsyncClient) -> None:
    wishes = {
        "q": "node yesterday",
        "now": "2024-01-04T12:00:00Z",
        "dates": "filter",
        "recency_half_life": "12h",
        "importance": 1,
        "diversity": 0.5,
        "explain": True,
    }
    by_post = await find(searched, **wishes)
    params = {name: str(value) for name, value in wishes.items()}
    by_get = (await searched.get("/v1/search", params=params)).json()
    assert by_get["data"] == by_post["data"]
    assert by_get["meta"]["dates"] == by_post["meta"]["dates"]
    assert numbers(by_post) == [3]
    assert by_post["meta"]["dates"] == [
        {
            "phrase": "yesterday",
            "since": "2024-01-03T00:00:00Z",
            "until": "2024-01-04T00:00:00Z",
        }
    ]
    assert 0 <= by_post["meta"]["confidence"] <= 1
    boosts = by_post["data"][0]["explanation"]["boosts"]
    assert set(boosts) == {"speaker", "recency", "importance", "diversity"}
