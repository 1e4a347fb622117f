"""The import into a real database: order, bad lines, strange files."""

import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from mnemolite.errors import InvalidFileError, InvalidInputError
from mnemolite.import_export import ImportReport, LineMapping, import_events, lines, open_lines
from mnemolite.import_export.imports import BATCH_SIZE
from mnemolite.import_export.lines import MAX_LINE_BYTES
from mnemolite.memory import Memory
from mnemolite.models import MAX_TEXT_BYTES, Event, EventQuery

NOON = "2024-05-08T12:00:00Z"


def jsonl(*rows: Any) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


async def load(memory: Memory, data: bytes, *pairs: str, **options: Any) -> ImportReport:
    mapping = LineMapping.parse(pairs)
    return await import_events(memory, io.BytesIO(data), mapping=mapping, **options)


async def stored(memory: Memory, namespace: str = "default") -> list[Event]:
    """Every event of a namespace, in the order of its sessions."""
    found: list[Event] = []
    cursor = None
    while True:
        page = await memory.list_events(
            EventQuery(namespace=namespace, order="oldest", limit=1000, cursor=cursor)
        )
        found += page.data
        cursor = page.meta.next_cursor
        if cursor is None:
            return found


async def texts(memory: Memory, namespace: str = "default") -> list[str]:
    return [event.text for event in await stored(memory, namespace)]


# --- Order --------------------------------------------------------------------------------------


async def test_the_order_of_the_file_is_kept_within_one_timestamp(memory: Memory) -> None:
    rows = [{"text": f"turn {n}", "session": "s", "timestamp": NOON, "seq": n}
            for n in range(2 * BATCH_SIZE + 300)]  # fmt: skip
    # A file that has grown: what was there keeps its place, what is new comes behind it.
    begun = BATCH_SIZE + 200
    assert (await load(memory, jsonl(*rows[:begun]))).stored == begun
    assert (await load(memory, jsonl(*rows))).stored == len(rows) - begun
    found = await stored(memory)
    assert [event.metadata["seq"] for event in found] == list(range(len(rows)))
    assert [event.id for event in found] == sorted(event.id for event in found)


async def test_the_order_survives_bad_lines_that_split_a_batch(memory: Memory) -> None:
    rows = [{"text": f"turn {n}", "timestamp": NOON} for n in range(50)]
    too_long = {"text": "é" * (MAX_TEXT_BYTES // 2 + 1), "timestamp": NOON}
    report = await load(memory, jsonl(*rows[:25], too_long, *rows[25:]))
    assert await texts(memory) == [row["text"] for row in rows]
    assert [bad.number for bad in report.bad_lines] == [26]
    assert "searchable" in report.bad_lines[0].reason


# --- Bad lines ----------------------------------------------------------------------------------


BAD_LINES = [
    (b"not json\n", "Expecting value"),
    (b'{"text": "cut\n', "control character"),
    (b"[1, 2]\n", "not a JSON object"),
    (b'"text"\n', "not a JSON object"),
    (b"null\n", "not a JSON object"),
    (b'{"text": "\xff\xfe"}\n', "utf-8"),
    (b'{"text": "\\u0000"}\n', "NUL"),
    (b'{"text": "\\ud800"}\n', "surrogate"),
    (b'{"text": "a", "timestamp": "yesterday"}\n', "timestamp"),
    (b'{"text": "a", "namespace": ""}\n', "namespace"),
    (b'{"text": "a", "id": "5"}\n', "id"),
    (b'{"text": "a", "metadata": [1]}\n', "metadata"),
    (b'{"text": "a", "n": NaN}\n', "NaN"),
    (b'{"text": "a", "n": 1e999}\n', "finite"),
    (b'{"no": "content"}\n', "content"),
    (b'{"text": "a", "n": ' + b"[" * 200_000 + b"\n", ""),
    (b'{"text": "' + b"x" * MAX_LINE_BYTES + b'"}\n', "longer than"),
    (b'{"text": "' + b"x" * (MAX_TEXT_BYTES + 1) + b'"}\n', "searchable"),
    (b'{"text": "a", "n": ' + b"9" * 5000 + b"}\n", "limit"),
]


async def test_bad_lines_are_reported_by_number_and_kept_out(memory: Memory) -> None:
    many = len(BAD_LINES)
    data = b"".join(jsonl({"text": f"good {n}"}) + BAD_LINES[n][0] for n in range(many))
    report = await load(memory, data + b'{"text": "the last, without an end"}')
    reported = {bad.number: bad.reason for bad in report.bad_lines}
    assert sorted(reported) == [2 * n + 2 for n in range(many)]
    for n, (_, said) in enumerate(BAD_LINES):
        assert said in reported[2 * n + 2]
        assert len(reported[2 * n + 2]) < 1000
    assert (report.stored, report.bad) == (many + 1, many)
    expected = [f"good {n}" for n in range(many)] + ["the last, without an end"]
    assert await texts(memory) == expected


@pytest.mark.parametrize("number", [0, 2, 5, 8, 11, 15, 16, 17])
async def test_strict_stops_at_the_first_bad_line(memory: Memory, number: int) -> None:
    line, said = BAD_LINES[number]
    data = jsonl({"text": "one"}, {"text": "two"}) + line + jsonl({"text": "three"})
    with pytest.raises(InvalidInputError) as raised:
        await load(memory, data, strict=True)
    assert raised.value.field == "line 3"
    assert said in str(raised.value)
    assert await texts(memory) == ["one", "two"]


async def test_blank_lines_are_no_lines(memory: Memory) -> None:
    report = await load(memory, b'\n  \n\r\n{"text": "a"}\r\n\n{"text": "b"}')
    assert (report.stored, report.bad) == (2, 0)
    assert await texts(memory) == ["a", "b"]


async def test_numbers_of_lines_count_the_blank_and_the_long_ones(
    memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "MAX_LINE_BYTES", 100)
    fits = b'{"text": "' + b"x" * 87 + b'"}\n'
    assert len(fits) == 100
    data = b"\n" + fits + b"x" * 350 + b"\n" + b"bad\n" + b"y" * 101
    report = await load(memory, data)
    assert [bad.number for bad in report.bad_lines] == [3, 4, 5]
    assert report.stored == 1


async def test_the_same_lines_again_are_stored_once(memory: Memory) -> None:
    rows = [{"id": str(uuid4()), "text": f"turn {n}", "timestamp": NOON} for n in range(10)]
    assert (await load(memory, jsonl(*rows))).stored == 10
    again = await load(memory, jsonl(*rows, {"text": "new", "timestamp": NOON}))
    assert (again.stored, again.already_there, again.bad) == (1, 10, 0)
    clash = await load(memory, jsonl(rows[0] | {"text": "other"}, {"text": "newer"}))
    assert (clash.stored, clash.bad) == (1, 1)
    assert "other content" in clash.bad_lines[0].reason
    assert len(await texts(memory)) == 12


async def test_progress_tells_every_byte(memory: Memory) -> None:
    data = jsonl(*({"text": f"turn {n}"} for n in range(BATCH_SIZE + 10))) + b"bad\n"
    steps: list[int] = []
    await load(memory, data, on_progress=lambda read, _: steps.append(read))
    assert len(steps) > 1
    assert sum(steps) == len(data)


async def test_a_chat_keeps_who_spoke(memory: Memory) -> None:
    await load(memory, jsonl({"role": "user", "content": "Hi"}, {"role": "tool", "text": "Ho"}))
    assert [event.content for event in await stored(memory)] == [
        {"role": "user", "text": "Hi"},
        {"role": "tool", "text": "Ho"},
    ]


# --- Files --------------------------------------------------------------------------------------

FILES: list[tuple[str, Callable[[bytes], bytes]]] = [
    ("plain.jsonl", lambda data: data),
    ("packed.jsonl.gz", gzip.compress),
    ("packed, but not by name.jsonl", gzip.compress),
    ("plain, but not by name.gz", lambda data: data),
    ("with a byte order mark.jsonl", lambda data: b"\xef\xbb\xbf" + data),
    ("two gzip members.gz", lambda data: gzip.compress(data[:9]) + gzip.compress(data[9:])),
    ("of Windows.jsonl", lambda data: data.replace(b"\n", b"\r\n")),
]


@pytest.mark.parametrize(("name", "write"), FILES)
async def test_files(
    memory: Memory, tmp_path: Path, name: str, write: Callable[[bytes], bytes]
) -> None:
    path = tmp_path / name
    path.write_bytes(write(jsonl({"text": "é one"}, {"text": "two"})))
    with open_lines(str(path)) as lines:
        report = await import_events(memory, lines, mapping=LineMapping())
    assert (report.stored, report.bad) == (2, 0)
    assert await texts(memory) == ["é one", "two"]


@pytest.mark.parametrize("packed", [True, False])
async def test_an_empty_file_is_no_fault(memory: Memory, tmp_path: Path, packed: bool) -> None:
    path = tmp_path / "empty"
    path.write_bytes(gzip.compress(b"") if packed else b"")
    with open_lines(str(path)) as lines:
        report = await import_events(memory, lines, mapping=LineMapping())
    assert (report.stored, report.bad) == (0, 0)


@pytest.mark.parametrize("damage", ["truncated", "garbled", "trailed"])
async def test_a_damaged_gzip_is_named(memory: Memory, tmp_path: Path, damage: str) -> None:
    whole = gzip.compress(jsonl(*({"text": uuid4().hex} for _ in range(2500))))
    broken = {
        "truncated": whole[: len(whole) // 2],
        "garbled": whole[:5000] + bytes(5000) + whole[10_000:],
        "trailed": whole + b"rubbish",
    }
    path = tmp_path / "broken.gz"
    path.write_bytes(broken[damage])
    with pytest.raises(InvalidFileError) as raised, open_lines(str(path)) as lines:
        await import_events(memory, lines, mapping=LineMapping())
    assert str(path) in raised.value.detail
    found = await texts(memory)
    assert len(found) == len(set(found))
    assert len(found) % BATCH_SIZE == 0, "whole batches were stored, nothing half"


@pytest.mark.parametrize("name", ["nowhere.jsonl", "", ".", "no/such/folder.gz"])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with pytest.raises(InvalidFileError) as raised, open_lines(str(path)):
        pytest.fail("it opened")
    assert str(path) in raised.value.detail
