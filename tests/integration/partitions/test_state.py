"""What is said of partitions: status, what is watched, what is advised."""

import re
from datetime import UTC, datetime, timedelta

import httpx
import psycopg
import pytest

from mnemolite import metrics
from mnemolite.database import Database
from mnemolite.doctor import examine
from mnemolite.memory import Memory
from mnemolite.models import NewEvent, SearchQuery
from mnemolite.partitions import following, start_of
from mnemolite.partitions.store import PartitionStore
from mnemolite.settings import Settings
from mnemolite.settings.partitions import PartitionSettings
from mnemolite.worker import Worker
from tests.partitioned import partition

NOW = datetime.now(UTC)
MONTH = start_of(NOW, "month")
AHEAD = following(MONTH, "month", steps=5)


async def add(memory: Memory, *moments: datetime) -> None:
    await memory.add_many([NewEvent(timestamp=at, content={"text": "a needle"}) for at in moments])


async def of_threshold(memory: Memory, events: int, *, min_rows: int = 20_000) -> PartitionStore:
    """The store with another threshold, of tables whose statistics are fresh."""
    await memory.events.analyze()
    settings = PartitionSettings(advice_events=events)
    return PartitionStore(memory.database, settings, hnsw_min_rows=min_rows)


async def test_an_unpartitioned_memory(memory: Memory) -> None:
    await add(memory, NOW, NOW - timedelta(days=400))
    await Worker(memory).drain()
    report = await memory.partitions.report()
    assert (report.mode, report.events, report.interval) == ("unpartitioned", 2, None)
    events, vectors = report.partitions
    assert (events.name, events.rows, events.index) == ("events", 2, None)
    assert (events.since, events.until, events.is_default) == (None, None, False)
    assert (vectors.name, vectors.index) == ("embeddings_1", "none")
    assert events.bytes > 0


async def test_below_the_threshold_it_is_fine(memory: Memory) -> None:
    await add(memory, NOW)
    store = await of_threshold(memory, 10)
    watched = await store.watch()
    assert re.fullmatch(
        r"unpartitioned, fine: about \d events, below the threshold of 10", watched.detail
    )
    assert watched.concerns == []
    assert (await store.advise()).verdict == "stay"


async def test_past_the_threshold_it_is_advised(memory: Memory) -> None:
    await add(memory, NOW - timedelta(hours=1), NOW - timedelta(days=400))
    store = await of_threshold(memory, 2)
    (concern,) = (await store.watch()).concerns
    assert (concern.about, concern.urgent) == ("size", False)
    assert "mnemolite partitions advise" in concern.remedy
    advice = await store.advise()
    assert advice.verdict == "enable"
    assert (advice.figures.events, advice.figures.events_per_month) == (2, 1)
    assert (advice.command or "").startswith("mnemolite partitions enable")


async def test_the_share_of_bounded_searches_comes_from_the_record(memory: Memory) -> None:
    await memory.search(SearchQuery(q="one", explain=True))
    await memory.search(SearchQuery(q="two", explain=True, since=NOW))
    await memory.search(SearchQuery(q="three", explain=True, until=NOW))
    await memory.search(SearchQuery(q="not recorded", until=NOW))
    figures = (await memory.partitions.advise()).figures
    assert (figures.searches, figures.bounded_searches) == (3, 2)


async def test_searches_are_counted_by_their_bounds(memory: Memory) -> None:
    def counted(time: str) -> float:
        return metrics.REGISTRY.get_sample_value("mnemolite_searches_total", {"time": time}) or 0

    before = counted("bounded"), counted("unbounded")
    await memory.search(SearchQuery(q="one"))
    await memory.search(SearchQuery(q="two", until=NOW))
    assert (counted("bounded") - before[0], counted("unbounded") - before[1]) == (1, 1)


async def test_a_partitioned_memory(memory: Memory, dsn: str) -> None:
    await add(memory, MONTH, following(MONTH, "month"), datetime(2001, 2, 3, tzinfo=UTC))
    await Worker(memory).drain()
    partition(dsn, since=MONTH, until=AHEAD)
    report = await memory.partitions.report()
    assert (report.mode, report.events, report.manager) == ("partitioned", 3, "native")
    assert (report.interval, report.embeddings_interval, report.premake) == ("month", "year", 4)
    events = [each for each in report.partitions if each.table == "events"]
    assert [each.rows for each in events] == [1, 1, 0, 0, 0, 1]
    assert (events[0].name, events[0].since) == (f"events_p{MONTH:%Y%m%d}", MONTH)
    assert events[-1].is_default
    assert events[-1].since is None
    assert report.watch.default_rows == 2  # the event, and its vector
    assert report.watch.missing == 4 - (AHEAD.year - MONTH.year)  # years of embeddings
    assert {concern.about for concern in report.watch.concerns} == {"default", "ahead"}


async def test_the_state_of_each_index(memory: Memory, dsn: str) -> None:
    await add(memory, *(MONTH + timedelta(minutes=minute) for minute in range(3)))
    await Worker(memory).drain()
    partition(dsn, since=MONTH, until=AHEAD, embeddings="year")

    async def states(min_rows: int) -> set[str | None]:
        store = await of_threshold(memory, 1, min_rows=min_rows)
        found = (await store.report()).partitions
        return {each.index for each in found if each.rows and each.table == "embeddings_1"}

    assert await states(4) == {"none"}
    assert await states(3) == {"needed"}
    leaf = f"embeddings_1_p{start_of(MONTH, 'year'):%Y%m%d}"
    index = f"{leaf}_hnsw_idx"
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(
            f"CREATE INDEX {index} ON {leaf} USING hnsw (embedding vector_ip_ops)".encode()
        )
        assert await states(3) == {"valid"}
        connection.execute(
            "UPDATE pg_index SET indisvalid = false WHERE indexrelid = %s::regclass", [index]
        )
    assert await states(3) == {"invalid"}


async def test_the_total_is_exact_whatever_the_statistics_say(memory: Memory, dsn: str) -> None:
    partition(dsn, since=MONTH, until=AHEAD)
    await add(memory, *(MONTH + timedelta(minutes=minute) for minute in range(7)))
    assert (await memory.partitions.report()).events == 7


async def test_partitions_over_rest(client: httpx.AsyncClient, memory: Memory, dsn: str) -> None:
    partition(dsn, since=MONTH, until=AHEAD)
    await add(memory, MONTH)
    answer = (await client.get("/v1/partitions")).raise_for_status().json()
    assert answer["meta"]["mode"] == "partitioned"
    assert (answer["meta"]["events"], answer["meta"]["count"]) == (1, len(answer["data"]))
    assert answer["data"][0]["since"] == f"{MONTH:%Y-%m-%dT%H:%M:%SZ}"
    stats = (await client.get("/v1/stats")).raise_for_status().json()
    assert stats["partitions"] == answer["meta"]["watch"]


@pytest.mark.parametrize("partitioned", [False, True])
async def test_the_metrics_follow(
    client: httpx.AsyncClient, memory: Memory, dsn: str, *, partitioned: bool
) -> None:
    if partitioned:
        partition(dsn, since=MONTH, until=following(MONTH, "month"), embeddings=None)
        await add(memory, following(MONTH, "month"))
    text = (await client.get("/metrics")).raise_for_status().text
    for line in (
        f"mnemolite_partitioned {partitioned:d}.0",
        "mnemolite_partitions_advised 0.0",
        f"mnemolite_partitions_missing {4 * partitioned}.0",
        f"mnemolite_partitions_default_rows {partitioned:d}.0",
        "mnemolite_partitions_unfinished 0.0",
    ):
        assert f"\n{line}\n" in text


async def test_the_doctor_tells(settings: Settings, memory: Memory, dsn: str) -> None:
    async def told() -> tuple[str, str, str]:
        findings = {finding.check: finding for finding in await examine(settings)}
        found = findings["partitions"]
        return found.status, found.detail, found.remedy

    status, detail, remedy = await told()
    assert (status, remedy) == ("ok", "")
    assert detail.startswith("unpartitioned, fine")
    partition(dsn, since=MONTH, until=following(MONTH, "month"))
    status, detail, remedy = await told()
    assert status == "wrong"
    assert "missing" in detail
    assert "mnemolite partitions maintain" in remedy
    await memory.partitions.maintain()
    status, detail, _ = await told()
    assert (status, detail) == (
        "ok",
        "partitioned by month, managed by native, nothing is missing",
    )


async def test_a_watch_does_not_need_the_right_to_write(memory: Memory, dsn: str) -> None:
    """Standbys and read-only roles are looked at as well."""
    partition(dsn, since=MONTH, until=AHEAD)
    read_only = f"{dsn} options='-c default_transaction_read_only=on'"
    async with Database(read_only, memory.settings.database) as database:
        store = PartitionStore(database, PartitionSettings(), hnsw_min_rows=1)
        assert (await store.watch()).mode == "partitioned"
        assert (await store.report()).mode == "partitioned"
