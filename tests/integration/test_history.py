"""The search history: explained searches are recorded, run again, compared and forgotten."""

import json
from uuid import UUID, uuid4

import anyio
import psycopg
import pytest

from mnemolite.errors import SearchNotFoundError
from mnemolite.memory import Memory
from mnemolite.models import NewEvent, SearchQuery, SearchResult
from mnemolite.settings import SearchSettings, Settings
from mnemolite.worker import Worker, running_worker


async def fill(memory: Memory, *texts: str, namespace: str = "default") -> None:
    await memory.add_many([NewEvent(content=text, namespace=namespace) for text in texts])
    await Worker(memory).drain()


async def explained(memory: Memory, q: str = "tea", **options: object) -> tuple[UUID, SearchResult]:
    result = await memory.search(SearchQuery.model_validate({"q": q, "explain": True, **options}))
    assert result.meta.request_id is not None, result.meta.not_recorded
    return result.meta.request_id, result


def records(dsn: str) -> list[tuple[object, ...]]:
    with psycopg.connect(dsn) as connection:
        return connection.execute("SELECT * FROM search_history ORDER BY id").fetchall()


async def test_a_search_that_finds_the_same_again(memory: Memory) -> None:
    await fill(memory, "I like tea.", "I like coffee.")
    vector = (await memory.embedder.embed_query("x")).tolist()
    for options in ({}, {"vector": vector}, {"where": {"user": {"$exists": False}}}):
        request_id, result = await explained(memory, **options)
        replay = await memory.replay(request_id)
        assert (replay.same, replay.hits, replay.meta) == (True, [], {})
        assert replay.request_id == request_id
        assert [hit.id for hit in replay.result.data] == [hit.id for hit in result.data]


async def test_only_explained_searches_are_recorded(memory: Memory, dsn: str) -> None:
    await fill(memory, "I like tea.")
    result = await memory.search(SearchQuery(q="tea"))
    assert (result.meta.request_id, result.meta.not_recorded) == (None, None)
    assert result.meta.explanation is None
    assert records(dsn) == []


async def test_hits_that_came_went_and_moved(memory: Memory) -> None:
    await fill(memory, "tea and cake", "tea tea tea", "the tea of a very long afternoon")
    request_id, before = await explained(memory, mode="text")
    gone = before.data[0]
    await memory.delete(gone.id)
    await fill(memory, "tea tea")
    replay = await memory.replay(request_id)
    now = replay.result.data
    assert not replay.same
    by_kind = {change.change: change for change in replay.hits}
    assert by_kind["went"].id == gone.id
    assert (by_kind["went"].rank_before, by_kind["went"].rank) == (1, None)
    came = by_kind["came"]
    assert [hit.text for hit in now if hit.id == came.id] == ["tea tea"]
    assert (came.rank_before, came.score_before) == (None, None)
    order = [change.rank for change in replay.hits if change.rank]
    assert order == sorted(order)
    assert replay.hits[-1].change == "went"


async def test_a_difference_in_the_arms_is_named(memory: Memory, settings: Settings) -> None:
    await fill(memory, "I like tea.")
    request_id, _ = await explained(memory)
    async with Memory.open(settings, with_model=False) as without:
        replay = await without.replay(request_id)
    assert replay.meta["arms"].before == ["vector", "text"]
    assert replay.meta["arms"].now == ["text"]
    assert set(replay.meta) == {"arms", "degraded", "plan", "space"}


async def test_a_record_holds_no_text_of_events(memory: Memory, dsn: str) -> None:
    await fill(memory, "I like oolong tea.")
    await explained(memory)
    (record,) = records(dsn)
    assert "tea" in json.dumps(record, default=str)
    assert "oolong" not in json.dumps(record, default=str)


async def test_with_a_namespace_go_its_records(memory: Memory, dsn: str) -> None:
    await fill(memory, "I like tea.", namespace="gone")
    await explained(memory, namespace="gone")
    await explained(memory, namespace="kept")
    with psycopg.connect(dsn) as connection:
        connection.execute("DELETE FROM namespaces WHERE name = 'gone'")
    assert [record[2] for record in records(dsn)] == ["kept"]


async def test_unknown_ids(memory: Memory) -> None:
    with pytest.raises(SearchNotFoundError) as raised:
        await memory.replay(uuid4())
    assert raised.value.field == "request_id"
    assert raised.value.remedy


async def test_a_record_of_another_version(memory: Memory, dsn: str) -> None:
    await fill(memory, "I like tea.")
    request_id, _ = await explained(memory)
    with psycopg.connect(dsn) as connection:
        connection.execute(
            'UPDATE search_history SET outcome = outcome || \'{"plan": {"by": "magic"}}\''
        )
    assert (await memory.replay(request_id)).meta["plan"].before == {"by": "magic"}
    with psycopg.connect(dsn) as connection:
        connection.execute("UPDATE search_history SET query = query || '{\"gone\": 1}'")
    with pytest.raises(SearchNotFoundError, match="searched otherwise"):
        await memory.replay(request_id)


async def test_a_read_only_database_still_answers(
    memory: Memory, settings: Settings, dsn: str
) -> None:
    await fill(memory, "I like tea.")
    with psycopg.connect(dsn, autocommit=True) as connection:
        name = connection.info.dbname
        connection.execute(
            f'ALTER DATABASE "{name}" SET default_transaction_read_only = on'.encode()
        )
    async with Memory.open(settings) as reading:
        result = await reading.search(SearchQuery(q="tea", explain=True))
    assert len(result.data) == 1
    assert result.meta.request_id is None
    assert (result.meta.not_recorded or "").startswith("database_read_only: ")


async def test_recording_can_be_turned_off(settings: Settings, dsn: str) -> None:
    off = settings.model_copy(update={"search": SearchSettings(history_searches=0)})
    async with Memory.open(off) as memory:
        result = await memory.search(SearchQuery(q="tea", explain=True))
    assert result.meta.explanation is not None
    assert "MNEMO_HISTORY_SEARCHES" in (result.meta.not_recorded or "")
    assert records(dsn) == []


async def test_the_worker_forgets_the_old_and_the_many(settings: Settings, dsn: str) -> None:
    few = settings.model_copy(update={"search": SearchSettings(history_searches=3, history_days=2)})
    async with Memory.open(few) as memory:
        ids = [(await explained(memory))[0] for _ in range(6)]
        with psycopg.connect(dsn) as connection:
            connection.execute(
                "UPDATE search_history SET created_at = now() - interval '3 days' WHERE id = %s",
                [ids[0]],
            )
        assert await memory.history.purge() == 3
        assert [record[0] for record in records(dsn)] == ids[3:]
        assert await memory.history.purge() == 0
        with psycopg.connect(dsn) as connection:
            connection.execute("UPDATE search_history SET created_at = '2020-01-01Z'")
        async with running_worker(memory):
            for _ in range(200):
                if not records(dsn):
                    break
                await anyio.sleep(0.05)
        assert records(dsn) == []
