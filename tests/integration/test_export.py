"""Export and import again: the same events, byte for byte, and the same vectors."""

import gzip
import importlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from mnemolite.errors import InvalidFileError, InvalidInputError
from mnemolite.import_export import import_events, write_export, write_parquet
from mnemolite.memory import Memory
from mnemolite.models import ExportQuery, NewEvent
from mnemolite.settings import EmbeddingSettings, Settings
from mnemolite.worker import Worker
from tests.conftest import _fresh_database

_EVENTS = (
    "SELECT id, namespace, session, timestamp, created_at, content::text, metadata::text, text, "
    "language::text, lexemes::text, words FROM events ORDER BY id"
)
_VECTORS = (
    "SELECT event_id, passage, char_start, char_end, embedding::text FROM embeddings_1 "
    "ORDER BY event_id, passage"
)
# What JSON can hold and a careless reader loses: digits, large and small numbers, order, writing.
_AWKWARD = [
    '{"text": "1.10 and 1.0", "price": 1.10, "one": 1.0, "whole": 1}',
    '{"text": "digits", "n": 3.14159265358979323846264338327950288, "big": 123456789012345678901}',
    '{"text": "far", "large": 1e400, "small": 1e-300, "negative": -0.0, "tiny": 0.00001}',
    '{"zz": 1, "a": {"b": [1, null, true, "é"]}, "text": "keys", "": "empty"}',
    '{"text": "日本語 \\"quoted\\" \\\\ \\n \\t emoji 🎉 \\u2028 \\u0085 é"}',
    '{"content": [{"type": "text", "text": "parts"}, {"type": "image"}]}',
    '{"text": ""}',
]


@pytest.fixture
def other_dsn(server_dsn: str, template: str) -> Iterator[str]:
    yield from _fresh_database(server_dsn, template)


@pytest.fixture
def other(settings: Settings, other_dsn: str) -> Settings:
    """The same memory over a database of its own, which is empty."""
    database = settings.database.model_copy(update={"url": other_dsn})
    return settings.model_copy(update={"database": database})


def rows(dsn: str, query: str) -> list[dict[str, Any]]:
    with psycopg.connect(dsn, row_factory=dict_row) as connection:
        return connection.execute(query).fetchall()


async def fill(memory: Memory) -> None:
    await memory.events.add_namespaces(["français"], "french")
    long = " ".join(f"sentence number {n} of a long text." for n in range(300))
    events = [NewEvent(content={"text": f"turn {n}", "speaker": "Ada"}, session=f"s{n % 3}",
                       metadata={"n": n}) for n in range(20)]  # fmt: skip
    events += [
        NewEvent(content={"text": "bonjour à tous"}, namespace="français"),
        NewEvent(content={"text": long}, namespace="long"),
    ]
    await memory.add_many(events)
    insert = (
        "INSERT INTO events (namespace, content, metadata, timestamp, created_at) "
        "VALUES ('awkward', %(json)s, %(json)s, '0001-01-01 00:00:00.000001+00', "
        "'2020-02-02 02:02:02.123456+00')"
    )
    async with memory.database.own_connection() as connection:
        for text in _AWKWARD:
            await connection.execute(insert, {"json": text})


async def exported(memory: Memory, path: Path, **options: Any) -> int:
    query = options.pop("query", ExportQuery())
    return await write_export(memory, query, path=str(path), **options)


async def test_the_same_events_come_back_with_the_same_vectors(
    memory: Memory, other: Settings, tmp_path: Path
) -> None:
    await fill(memory)
    await Worker(memory).drain()
    path = tmp_path / "all.jsonl.gz"
    count = await exported(memory, path, with_vectors=True)
    dsn, other_dsn = str(memory.settings.database.url), str(other.database.url)
    assert count == len(rows(dsn, _EVENTS))
    async with Memory.open(other) as copy:
        report = await import_events(copy, io.BytesIO(gzip.decompress(path.read_bytes())))
        assert (report.format, report.bad_lines, report.stored) == ("mnemolite", [], count)
        assert report.vectors == count - 1, "all but the blank one"
        assert (await copy.queue_state()).pending == 0
        again = tmp_path / "again.jsonl"
        assert await exported(copy, again, with_vectors=True) == count
    assert rows(other_dsn, _EVENTS) == rows(dsn, _EVENTS)
    vectors = rows(dsn, _VECTORS)
    assert len(vectors) > count, "one event has several passages"
    assert rows(other_dsn, _VECTORS) == vectors
    languages = "SELECT name, language::text FROM namespaces ORDER BY name"
    assert rows(other_dsn, languages) == rows(dsn, languages)
    lines = gzip.decompress(path.read_bytes()).splitlines()
    assert again.read_bytes().splitlines()[1:] == lines[1:]
    header = json.loads(lines[0])
    assert (header["mnemolite"], header["version"]) == ("export", 1)
    assert header["space"]["digest"] == memory.space.digest


async def test_vectors_of_another_model_are_computed_anew(
    memory: Memory, other: Settings, tmp_path: Path
) -> None:
    await memory.add_many([NewEvent(content={"text": f"turn {n}"}) for n in range(3)])
    await Worker(memory).drain()
    await exported(memory, tmp_path / "all", with_vectors=True)
    model = EmbeddingSettings(mode="mock", dimension=24)
    async with Memory.open(other.model_copy(update={"embedding": model})) as copy:
        report = await import_events(copy, io.BytesIO((tmp_path / "all").read_bytes()))
        assert (report.stored, report.vectors, report.bad) == (3, 0, 0)
        assert "another model" in report.notes[0]
        assert (await copy.queue_state()).pending == 3


async def test_what_is_exported_can_be_chosen(memory: Memory, tmp_path: Path) -> None:
    await fill(memory)
    path = tmp_path / "some"

    async def chosen(**query: Any) -> list[Any]:
        await exported(memory, path, query=ExportQuery(**query))
        lines = [json.loads(line) for line in path.read_bytes().splitlines()]
        assert lines[-1] == {"mnemolite": "end", "events": len(lines) - 2 - _namespaces(lines)}
        return [line for line in lines if "mnemolite" not in line]

    assert {event["namespace"] for event in await chosen(namespace="français")} == {"français"}
    assert [event["metadata"]["n"] for event in await chosen(session="s1")] == list(range(1, 20, 3))
    assert [e["metadata"]["n"] for e in await chosen(where={"n": {"$gte": 18}})] == [18, 19]
    assert len(await chosen(until="0002-01-01T00:00:00Z")) == len(_AWKWARD)
    assert await chosen(since="9999-01-01T00:00:00Z") == []
    assert await chosen(namespace="nowhere") == []


def _namespaces(lines: list[Any]) -> int:
    return sum(line.get("mnemolite") == "namespace" for line in lines)


@pytest.mark.parametrize("damage", ["cut", "gap", "later version", "not floats", "bad span"])
async def test_a_damaged_export_is_told(memory: Memory, tmp_path: Path, damage: str) -> None:
    await memory.add_many([NewEvent(content={"text": f"turn {n}"}) for n in range(3)])
    await Worker(memory).drain()
    path = tmp_path / "all"
    await exported(memory, path, with_vectors=True)
    lines = path.read_bytes().splitlines(keepends=True)
    event = json.loads(lines[3])
    start, end, packed = event["vectors"][0]
    vectors = {"not floats": [start, end, packed[:5]], "bad span": [end, start, packed]}
    broken = {
        "cut": lines[:-1],
        "gap": lines[:3] + lines[4:],
        "later version": [lines[0].replace(b'"version": 1', b'"version": 2'), *lines[1:]],
    }
    if damage in vectors:
        event["vectors"] = [vectors[damage]]
        broken[damage] = [*lines[:3], json.dumps(event).encode() + b"\n", *lines[4:]]
    report = await import_events(memory, io.BytesIO(b"".join(broken[damage])))
    told = [bad.reason for bad in report.bad_lines] + report.notes
    expected = {"cut": "not whole", "gap": "not whole", "later version": "version 2"}
    assert expected.get(damage, "vectors") in told[0]


async def test_files_are_there_whole_or_not_at_all(memory: Memory, tmp_path: Path) -> None:
    await fill(memory)
    (tmp_path / "kept").write_text("before")
    query = ExportQuery(where={"n": {"$nothing": 1}})
    with pytest.raises(InvalidInputError):
        await exported(memory, tmp_path / "kept", query=query)
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    assert (tmp_path / "kept").read_text() == "before"
    for path in (tmp_path / "no" / "folder", tmp_path):
        with pytest.raises(InvalidFileError):
            await exported(memory, path)
    await exported(memory, Path("/dev/null"))
    assert Path("/dev/null").is_char_device()


async def test_parquet_holds_the_same(memory: Memory, tmp_path: Path) -> None:
    parquet = importlib.import_module("pyarrow.parquet")  # it has no types
    await fill(memory)
    await Worker(memory).drain()
    path = tmp_path / "all.parquet"
    count = await write_parquet(memory, ExportQuery(), path=str(path), with_vectors=True)
    table = parquet.read_table(path)
    dsn = str(memory.settings.database.url)
    stored = {str(row["id"]): row for row in rows(dsn, _EVENTS)}
    assert table.num_rows == count == len(stored)
    for row in table.to_pylist():
        event = stored[row["id"]]
        for name in ("namespace", "session", "timestamp", "created_at", "content", "metadata"):
            assert row[name] == event[name]
        assert f"mnemo_{row['language']}" == event["language"]
    passages = [passage for row in table.to_pylist() for passage in row["vectors"]]
    assert len(passages) == len(rows(dsn, _VECTORS))
    assert {len(passage["vector"]) for passage in passages} == {16}
    assert json.loads(table.schema.metadata[b"mnemolite"])["version"] == 1
