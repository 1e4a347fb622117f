"""One suite that every format of an import passes, on files of its shape written by hand."""

import gzip
import io
import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mnemolite.import_export import FORMATS, LineMapping, imports
from mnemolite.import_export.formats import Draft, Reading, choose_format, documents
from mnemolite.import_export.lines import Counted
from mnemolite.import_export.report import BadLine, ImportReport
from mnemolite.memory import Memory

CHATGPT = [
    {
        "title": "Ferry", "create_time": 1715169600.5, "conversation_id": "c1",
        "current_node": "n3",
        "mapping": {
            "root": {"id": "root", "message": None, "parent": None, "children": ["n1"]},
            "n1": {"id": "n1", "parent": "root", "children": ["n2", "n3"], "message": {
                "id": "n1", "author": {"role": "user", "name": "ada"}, "create_time": 1715169601.25,
                "recipient": "all", "metadata": {"attachments": [{"name": "plan.pdf"}]},
                "content": {"content_type": "text", "parts": ["When does it leave?", ""]}}},
            "n2": {"id": "n2", "parent": "n1", "children": [], "message": {
                "id": "n2", "author": {"role": "assistant"}, "create_time": None,
                "metadata": {"model_slug": "m-1"},
                "content": {"content_type": "text", "parts": ["At six."]}}},
            "n3": {"id": "n3", "parent": "n1", "children": ["n4"], "message": {
                "id": "n3", "author": {"role": "assistant"}, "create_time": 1715169610,
                "content": {"content_type": "multimodal_text", "parts": [
                    {"content_type": "image_asset_pointer", "asset_pointer": "file://1"}]}}},
            "n4": {"id": "n4", "parent": "n3", "children": [], "message": {
                "id": "n4", "author": {"role": "system"}, "create_time": None,
                "content": {"content_type": "text", "parts": [""]}}},
        },
    }
]  # fmt: skip
CLAUDE = [
    {
        "uuid": "u1", "name": "Ferry", "created_at": "2024-05-08T12:00:00Z",
        "chat_messages": [
            {"uuid": "m1", "sender": "human", "created_at": "2024-05-08T12:00:01Z",
             "text": "old", "content": [{"type": "text", "text": "When does it leave?"}],
             "attachments": [{"file_name": "plan.txt", "extracted_content": "At seven."}],
             "files": [{"file_name": "map.png"}]},
            {"uuid": "m2", "sender": "assistant", "created_at": "2024-05-08T12:00:01Z",
             "text": "", "content": [{"type": "tool_use", "name": "look", "input": {"q": 1}}]},
            {"uuid": "m3", "sender": "assistant", "created_at": "2024-05-08T12:00:09Z",
             "text": "At seven.", "content": []},
            {"uuid": "m4", "sender": "human", "text": "", "content": []},
        ],
    }
]  # fmt: skip
MEM0 = {
    "results": [
        {"id": "1", "memory": "Likes tea", "user_id": "ada", "run_id": "r", "hash": "h",
         "metadata": {"category": "food"}, "created_at": "2024-07-01T10:00:00.5-07:00",
         "updated_at": None},
        {"id": "2", "memory": "Plans trips", "agent_id": "planner", "role": "user",
         "created_at": "2024-07-01T10:00:00", "updated_at": "2024-07-02T10:00:00"},
        {"id": "3", "memory": "Undated"},
    ],
    "relations": [{"source": "ada", "relationship": "likes", "target": "tea"}],
}  # fmt: skip
MEMORY_JSONL = [
    {"type": "entity", "name": "Ada", "entityType": "person", "observations": ["tea", "trains"]},
    {"type": "entity", "name": "Naxos", "entityType": "island", "observations": []},
    {"type": "relation", "from": "Ada", "to": "Naxos", "relationType": "visited"},
]
JSONL = [{"text": "one", "timestamp": "2024-05-08T12:00:00Z"}, {"text": "two"}]
EXPORT = [
    {"mnemolite": "export", "version": 1, "schema_revision": "0004", "space": None,
     "exported_at": "2026-01-02T03:04:05Z"},
    {"mnemolite": "namespace", "name": "n", "language": "french"},
    {"id": "0187fb9b-6600-7d2a-9c31-3f0a5b6c7d8e", "namespace": "n", "session": None,
     "timestamp": "2023-05-08T13:56:00Z", "created_at": "2026-01-02T03:04:05.678901Z",
     "content": {"text": "salut"}, "metadata": {}},
    {"mnemolite": "end", "events": 1},
]  # fmt: skip


def lines(rows: list[Any]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


SOURCES: dict[str, bytes] = {
    "chatgpt": json.dumps(CHATGPT, indent=1).encode(),
    "claude": json.dumps(CLAUDE).encode(),
    "mem0": json.dumps(MEM0).encode(),
    "memory-jsonl": lines(MEMORY_JSONL),
    "jsonl": lines(JSONL),
    "mnemolite": lines(EXPORT),
}
EVENTS = {"chatgpt": 3, "claude": 4, "mem0": 3, "memory-jsonl": 4, "jsonl": 2, "mnemolite": 1}
each_format = pytest.mark.parametrize("name", FORMATS)


def read(name: str, data: bytes, *, namespace: str | None = None) -> list[Draft | BadLine]:
    return list(drafts(name, data, ImportReport(), namespace=namespace))


def drafts(
    name: str, data: bytes, report: ImportReport, *, namespace: str | None = None
) -> Iterator[Draft | BadLine]:
    source = Counted(io.BytesIO(data))
    reading = Reading(LineMapping.parse([], namespace=namespace), report)
    return choose_format(name, source).read(source, reading)


def good(found: list[Draft | BadLine]) -> list[Draft]:
    return [one for one in found if isinstance(one, Draft)]


# --- What holds for every format ----------------------------------------------------------------


@each_format
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
async def test_it_is_recognised_and_stored_once(memory: Memory, name: str, mark: bytes) -> None:
    data = mark + SOURCES[name]
    report = await imports.import_events(memory, io.BytesIO(data))
    assert (report.format, report.bad_lines) == (name, [])
    assert report.stored == EVENTS[name]
    again = await imports.import_events(memory, io.BytesIO(data))
    assert (again.stored, again.already_there) == (0, EVENTS[name])


@each_format
def test_a_namespace_can_be_given(name: str) -> None:
    expected = "n" if name == "mnemolite" else "given"
    found = good(read(name, SOURCES[name], namespace="given"))
    assert {draft.event.namespace for draft in found} == {expected}


@each_format
def test_nothing_is_lost_silently_when_it_is_cut(name: str) -> None:
    data = SOURCES[name]
    whole = len(good(read(name, data)))
    for end in range(1, len(data.rstrip()) - 1, 7):
        found = read(name, data[:end])
        last = data[:end].rpartition(b"\n")[2].strip()
        at_a_line = name in {"jsonl", "memory-jsonl"} and (not last or last.endswith(b"}"))
        if len(good(found)) < whole and not at_a_line:
            assert any(isinstance(one, BadLine) for one in found), data[:end]


@each_format
@given(data=st.data())
@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
def test_no_garbage_raises(name: str, data: st.DataObject) -> None:
    source = SOURCES[name]
    start = data.draw(st.integers(0, len(source)))
    end = data.draw(st.integers(start, min(len(source), start + 40)))
    junk = data.draw(st.binary(max_size=20) | st.sampled_from([b"{", b"]", b"null", b'"', b"\x00"]))
    read(name, source[:start] + junk + source[end:])


OTHERS: list[Any] = [None, 1, "text", [], {}, [[]], [{"mapping": 5}], [{"chat_messages": "x"}],
    {"results": [5, None, {"memory": 5}]}, [{"mapping": {"a": 5, "b": {"message": 7}}}],
    {"mapping": {"a": {"parent": "b"}, "b": {"parent": "a"}}},
    [{"chat_messages": [5, {"attachments": [5]}]}],
    {"type": "entity"}, {"type": "relation"}, {"mnemolite": 5}]  # fmt: skip


@each_format
@pytest.mark.parametrize("other", OTHERS, ids=repr)
def test_json_of_another_shape_is_told_or_empty(name: str, other: Any) -> None:
    found = read(name, json.dumps(other).encode())
    assert good(found) == []


@each_format
async def test_deep_and_packed_sources(memory: Memory, name: str) -> None:
    deep = read(name, b"[" * 200_000)
    assert all(isinstance(one, BadLine) for one in deep)
    assert deep
    from mnemolite.import_export.lines import unpacked

    packed = unpacked(io.BytesIO(gzip.compress(SOURCES[name])))
    report = await imports.import_events(memory, packed)
    assert (report.format, report.stored) == (name, EVENTS[name])


# --- What becomes of the parts ------------------------------------------------------------------


def test_chatgpt() -> None:
    report = ImportReport()
    asked, six, image = good(list(drafts("chatgpt", SOURCES["chatgpt"], report)))
    assert asked.event.content == {"role": "user", "name": "ada", "text": "When does it leave?"}
    assert (asked.event.session, str(asked.event.timestamp)) == (
        "c1", "2024-05-08 12:00:01.250000+00:00")  # fmt: skip
    assert asked.event.metadata == {
        "source": "chatgpt", "title": "Ferry", "message_id": "n1", "parent_id": "root",
        "current_branch": True, "attachments": [{"name": "plan.pdf"}],
    }  # fmt: skip
    assert str(six.event.timestamp) == "2024-05-08 12:00:01.250001+00:00", "after its question"
    assert (six.event.metadata["current_branch"], six.event.metadata["model"]) == (False, "m-1")
    assert image.event.content["text"] == "[image_asset_pointer]"
    assert image.event.content["original"]["parts"][0]["asset_pointer"] == "file://1"
    assert (report.skipped, report.kept_as_data) == (
        {"empty message": 1}, {"image_asset_pointer": 1})  # fmt: skip


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ({"content_type": "code", "language": "python", "text": "print(1)"}, "print(1)"),
        ({"content_type": "execution_output", "text": "1"}, "1"),
        ({"content_type": "thoughts", "thoughts": [{"summary": "s", "content": "hm"}]}, "hm"),
        ({"content_type": "tether_browsing_display", "result": "found"}, "found"),
        ({"content_type": "something_new", "data": [1]}, "[something_new]"),
    ],
)
def test_chatgpt_keeps_whatever_is_more_than_text(content: Any, text: str) -> None:
    node = {"message": {"author": {"role": "tool"}, "content": content}, "children": []}
    conversation = [{"id": "c", "mapping": {"n": node}}]
    (draft,) = good(read("chatgpt", json.dumps(conversation).encode()))
    assert draft.event.content == {"role": "tool", "text": text, "original": content}


def test_claude() -> None:
    report = ImportReport()
    asked, plan, tool, seven = good(list(drafts("claude", SOURCES["claude"], report)))
    assert asked.event.content == {"role": "human", "text": "When does it leave?"}
    assert asked.event.metadata == {
        "source": "claude", "title": "Ferry", "message_id": "m1", "files": ["plan.txt", "map.png"],
    }  # fmt: skip
    assert (plan.event.content["text"], plan.event.metadata["attachment"]) == (
        "At seven.", "plan.txt")  # fmt: skip
    assert tool.event.content["text"] == "[tool_use]"
    assert tool.event.content["blocks"][0]["input"] == {"q": 1}
    assert seven.event.content == {"role": "assistant", "text": "At seven."}
    times = [str(draft.event.timestamp) for draft in (asked, plan, tool, seven)]
    assert times == sorted(set(times)), "a message comes after the one it answers"
    assert (report.skipped, report.kept_as_data) == ({"empty message": 1}, {"tool_use": 1})


@pytest.mark.parametrize("wrap", [lambda value: value, lambda value: value["results"]])
def test_mem0(wrap: Any) -> None:
    report = ImportReport()
    tea, trips, undated = good(list(drafts("mem0", json.dumps(wrap(MEM0)).encode(), report)))
    assert (tea.event.namespace, tea.event.session) == ("ada", "r")
    assert str(tea.event.timestamp) == "2024-07-01 17:00:00.500000+00:00"
    assert tea.event.metadata == {
        "source": "mem0", "mem0_id": "1", "category": "food", "user_id": "ada", "run_id": "r",
        "hash": "h",
    }  # fmt: skip
    assert (trips.event.namespace, trips.event.content["role"]) == ("planner", "user")
    assert (undated.event.namespace, undated.event.timestamp) == ("default", None)
    assert report.zoneless == 1
    assert report.skipped.total() == (1 if wrap(MEM0) is MEM0 else 0)


def test_memory_jsonl() -> None:
    tea, trains, naxos, visited = good(read("memory-jsonl", SOURCES["memory-jsonl"]))
    assert tea.event.content == {"text": "Ada (person): tea", "entity": "Ada",
                                 "entityType": "person", "observation": "tea"}  # fmt: skip
    assert (tea.event.session, trains.event.session) == ("Ada", "Ada")
    assert naxos.event.content["text"] == "Naxos (island)"
    assert visited.event.content == {
        "text": "Ada visited Naxos", "from": "Ada", "to": "Naxos", "relationType": "visited",
    }  # fmt: skip


async def test_a_chat_that_has_grown_stores_what_is_new(memory: Memory) -> None:
    one = json.dumps(CHATGPT).encode()
    await imports.import_events(memory, io.BytesIO(one))
    grown = json.loads(one)
    nodes = grown[0]["mapping"]
    nodes["n3"]["children"].append("n5")
    said = {"content_type": "text", "parts": ["Thanks!"]}
    message = {"author": {"role": "user"}, "content": said}
    nodes["n5"] = {"id": "n5", "parent": "n3", "children": [], "message": message}
    other = grown[0] | {"conversation_id": "c0"}
    report = await imports.import_events(memory, io.BytesIO(json.dumps([other, *grown]).encode()))
    assert (report.stored, report.already_there) == (1 + 4, 3)


def test_an_array_of_any_size_is_read_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "_CHUNK_BYTES", 10)
    memories = [{"id": str(n), "memory": "é" * n} for n in range(60)]
    assert len(good(read("mem0", json.dumps(memories, ensure_ascii=False).encode()))) == 59
    monkeypatch.setattr(documents, "MAX_ELEMENT_CHARACTERS", 200)
    memories.append({"id": "long", "memory": "x" * 5000})
    found = read("mem0", json.dumps(memories).encode())
    assert isinstance(found[-1], BadLine)
    assert "longer than 200" in found[-1].reason
