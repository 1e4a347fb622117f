"""A second run of the same file doubles nothing, whatever its lines bring, also after a kill."""

import asyncio
import io
import json
import subprocess
import time
from pathlib import Path
from typing import Any

import psycopg
import pytest

from mnemolite.import_export import ImportReport, LineMapping, import_events
from mnemolite.import_export.identity import Occurrences
from mnemolite.memory import Memory
from mnemolite.models import EventQuery
from tests.acceptance.server import command, environment

NOON = "2024-05-08T12:00:00Z"
SHAPES: dict[str, dict[str, Any]] = {
    "dated": {"timestamp": NOON, "session": "s"},
    "undated": {"session": "s"},
    "zoneless": {"timestamp": "2024-05-08T12:00:00"},
    "bare": {},
}


def jsonl(*rows: Any) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


async def load(memory: Memory, data: bytes, **options: Any) -> ImportReport:
    return await import_events(memory, io.BytesIO(data), **options)


async def texts(memory: Memory) -> list[str]:
    page = await memory.list_events(EventQuery(order="oldest", limit=1000))
    return [event.text for event in page.data]


@pytest.mark.parametrize("shape", SHAPES)
async def test_the_same_file_again_stores_nothing(memory: Memory, shape: str) -> None:
    said = ["yes", "no", "yes", "yes", "maybe", "no"]
    data = jsonl(*({"text": text} | SHAPES[shape] for text in said))
    first = await load(memory, data)
    assert (first.stored, first.already_there) == (6, 0)
    again = await load(memory, data)
    assert (again.stored, again.already_there) == (0, 6)
    assert await texts(memory) == said, "equal lines are several events, in their order"
    grown = await load(memory, data + jsonl({"text": "yes"} | SHAPES[shape]))
    assert (grown.stored, grown.already_there) == (1, 6)
    assert await texts(memory) == [*said, "yes"]


async def test_lines_that_differ_are_different_events(memory: Memory) -> None:
    row = {"text": "a", "session": "s", "timestamp": NOON}
    rows = [row, row | {"text": "b"}, row | {"session": "t"},
            row | {"namespace": "n"}, row | {"timestamp": "2024-05-08T12:00:00.000001Z"}, 
            row | {"speaker": "Ada"}]  # fmt: skip
    assert (await load(memory, jsonl(*rows))).stored == len(rows)
    assert (await load(memory, jsonl(*reversed(rows)))).already_there >= len(rows) - 2


async def test_the_writing_of_a_line_does_not_matter(memory: Memory) -> None:
    one = b'{"text": "caf\\u00e9", "speaker": "Ada", "timestamp": "2024-05-08T14:00:00+02:00"}\n'
    other = b'{"timestamp":"2024-05-08T12:00:00Z","speaker":"Ada","text":"caf\xc3\xa9"}\n'
    assert (await load(memory, one)).stored == 1
    assert (await load(memory, other)).already_there == 1


async def test_metadata_that_was_changed_stays_changed(memory: Memory) -> None:
    data = jsonl({"text": "a", "timestamp": NOON, "metadata": {"k": 1}})
    await load(memory, data)
    page = await memory.list_events(EventQuery())
    await memory.merge_metadata(page.data[0].id, {"k": 2})
    assert (await load(memory, data)).already_there == 1
    assert (await memory.get(page.data[0].id)).metadata == {"k": 2}


async def test_two_imports_of_one_file_at_once_double_nothing(memory: Memory) -> None:
    rows = [{"text": f"turn {n}"} | SHAPES[shape] for n in range(700) for shape in SHAPES]
    data = jsonl(*rows)
    reports = await asyncio.gather(load(memory, data), load(memory, data))
    # The zoneless and the dated lines of one number differ in their session.
    assert sum(report.stored for report in reports) == len(rows)
    assert sum(report.already_there for report in reports) == len(rows)


def test_a_killed_import_goes_on_where_it_was(dsn: str, tmp_path: Path) -> None:
    count = 20_000
    path = tmp_path / "chat.jsonl"
    path.write_bytes(jsonl(*({"text": f"turn {n % 1000}", "session": "s"} for n in range(count))))
    variables = environment(DATABASE_URL=dsn, EMBEDDING_MODE="mock")
    importing = command("import", str(path), "--no-embed")
    process = subprocess.Popen(importing, env=variables, stderr=subprocess.DEVNULL)
    with psycopg.connect(dsn, autocommit=True) as connection:
        counted = "SELECT count(*), count(DISTINCT id) FROM events"
        deadline = time.monotonic() + 60
        while (connection.execute(counted).fetchone() or (0,))[0] < 2000:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.kill()
        process.wait()
        stored = (connection.execute(counted).fetchone() or (0,))[0]
        assert 0 < stored < count
        subprocess.run(importing, env=variables, check=True, capture_output=True)
        assert connection.execute(counted).fetchone() == (count, count)
        order = "SELECT array_agg(text ORDER BY timestamp, id) FROM events"
        found = (connection.execute(order).fetchone() or ([],))[0]
    assert found == [f"turn {n % 1000}" for n in range(count)]


def test_occurrences_are_counted_exactly() -> None:
    occurrences = Occurrences()
    digests = [bytes([n % 7]) * 32 for n in range(100)]
    assert [occurrences.count(digest) for digest in digests] == [n // 7 for n in range(100)]
    occurrences.close()


async def test_maps_are_for_json_lines_only(memory: Memory) -> None:
    from mnemolite.errors import InvalidInputError

    mapping = LineMapping.parse(["a=metadata.a"])
    with pytest.raises(InvalidInputError, match="settles"):
        await load(memory, b'[{"memory": "a", "id": "1"}]', mapping=mapping)
