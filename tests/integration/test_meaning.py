"""Search by meaning with real models, through the database and over HTTP; prefixes, end to end."""

from collections.abc import AsyncIterator

import httpx
import numpy as np
import pytest

from mnemolite.app import create_app
from mnemolite.embeddings import create_embedder
from mnemolite.embeddings.templates import recall_text
from mnemolite.memory import Memory
from mnemolite.models import NewEvent, SearchQuery
from mnemolite.settings import EmbeddingSettings, Settings
from mnemolite.worker import Worker
from tests.extras import minilm_folder, needs_sentence_transformers

TEXTS = ["My car is blue", "I love my pet cat", "Dogs are loyal", "Kittens are adorable"]
MODELS = [
    pytest.param("onnx"),
    pytest.param("sentence-transformers", marks=needs_sentence_transformers),
]


@pytest.fixture(params=MODELS)
async def meaning(request: pytest.FixtureRequest, settings: Settings) -> AsyncIterator[Memory]:
    """A memory with a real model that holds ``TEXTS``."""
    embedding = EmbeddingSettings(threads=2)
    if request.param == "sentence-transformers":
        embedding = EmbeddingSettings(provider=request.param, model=minilm_folder(), threads=2)
    async with Memory.open(settings.model_copy(update={"embedding": embedding})) as memory:
        await memory.add_many([NewEvent(content={"text": text}) for text in TEXTS])
        await Worker(memory).drain()
        yield memory


async def test_what_is_meant_is_found_first(meaning: Memory) -> None:
    result = await meaning.search(SearchQuery(q="feline pets"))
    assert {hit.text for hit in result.data[:2]} == {"I love my pet cat", "Kittens are adorable"}

    transport = httpx.ASGITransport(create_app(meaning))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        answer = await client.get("/v1/search", params={"q": "feline pets", "mode": "vector"})
    found = [hit["text"] for hit in answer.json()["data"]]
    assert set(found[:2]) == {"I love my pet cat", "Kittens are adorable"}


async def test_prefixes_of_queries_and_documents_are_never_confused(settings: Settings) -> None:
    """What is stored and what is asked are the vectors of the text with the prefix of its kind."""
    prefixed = EmbeddingSettings(
        query_prefix="search_query: ", document_prefix="search_document: ", threads=2
    )
    bare = create_embedder(EmbeddingSettings(threads=2))
    async with Memory.open(settings.model_copy(update={"embedding": prefixed})) as memory:
        [event], _ = await memory.add_many([NewEvent(content={"text": TEXTS[0]})])
        await Worker(memory).drain()
        written = recall_text(TEXTS[0], timestamp=event.timestamp)
        asked = "Which colour is my car?"
        result = await memory.search(SearchQuery(q=asked, mode="vector"))
        async with memory.database.connection() as connection:
            stored = await (
                await connection.execute(f"SELECT embedding FROM {memory.space.table}")
            ).fetchone()
    documents = [f"search_document: {written}", f"search_query: {written}", written]
    expected, swapped, unprefixed = bare.embed(documents, "document")
    assert stored is not None
    vector = np.asarray(stored["embedding"].to_list(), np.float32)
    assert np.array_equal(vector, expected)
    assert not np.array_equal(vector, swapped)
    assert not np.array_equal(vector, unprefixed)
    queries = [f"search_query: {asked}", f"search_document: {asked}", asked]
    right, *wrong = bare.embed(queries, "document") @ expected
    assert result.data[0].similarity == pytest.approx(float(right), abs=1e-6)
    assert all(abs(float(right) - float(other)) > 1e-3 for other in wrong)
