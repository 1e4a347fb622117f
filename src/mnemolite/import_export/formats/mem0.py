"""Memories of mem0: the list that get_all() or an export gives."""

import re
from collections.abc import Iterator
from typing import Any

from mnemolite.import_export.formats.contract import Draft, Format, Reading, draft_of, text_or_none
from mnemolite.import_export.formats.documents import elements
from mnemolite.import_export.lines import Counted
from mnemolite.import_export.report import BadLine
from mnemolite.models import JsonObject

# Whose memory it is, the first that is told.
_OWNERS = ("user_id", "agent_id", "app_id")
_KEPT = (*_OWNERS, "run_id", "actor_id", "categories", "hash", "updated_at", "expiration_date")
_LISTS = ("results", "memories")


def _read(source: Counted, reading: Reading) -> Iterator[Draft | BadLine]:
    number = 0
    for element, value in elements(source):
        if isinstance(value, BadLine):
            yield BadLine(max(number + 1, element), value.reason)
            continue
        for memory in _memories(value, reading):
            number += 1
            yield _draft(memory, number, reading=reading)


def _memories(value: Any, reading: Reading) -> list[Any]:
    """The memories of an answer of get_all(), or the memory itself."""
    if not isinstance(value, dict) or "memory" in value:
        return [value]
    lists = [value[name] for name in _LISTS if isinstance(value.get(name), list)]
    relations = value.get("relations")
    if isinstance(relations, list) and relations:
        reading.report.skipped["relation of mem0's graph"] += len(relations)
    return lists[0] if lists else [value]


def _draft(memory: Any, number: int, *, reading: Reading) -> Draft | BadLine:
    if not isinstance(memory, dict) or text_or_none(memory.get("memory")) is None:
        return BadLine(number, "this is not a memory of mem0: it has no text in memory")
    owner = next((memory[name] for name in _OWNERS if text_or_none(memory.get(name))), None)
    fields: dict[str, Any] = {
        "content": {"text": memory["memory"]},
        "session": memory.get("run_id"),
        "metadata": _metadata(memory),
    }
    if role := text_or_none(memory.get("role")):
        fields["content"]["role"] = role
    if namespace := reading.namespace or owner:
        fields["namespace"] = namespace
    if stamp := memory.get("created_at"):
        fields["timestamp"] = reading.mapping.with_zone(stamp, reading.report)
    return draft_of(fields, number, key=f"mem0:{memory.get('id') or number}")


def _metadata(memory: JsonObject) -> JsonObject:
    given = memory.get("metadata")
    kept = {name: memory[name] for name in _KEPT if memory.get(name) not in (None, "", [])}
    own = {"source": "mem0"} | ({"mem0_id": memory["id"]} if memory.get("id") else {})
    return (given if isinstance(given, dict) else {}) | kept | own


_BEGINNING = re.compile(
    rb'^\s*(\[\s*|\{\s*"(results|memories)"\s*:\s*\[\s*)\{[^{}]*?"memory"\s*:\s*"', re.DOTALL
)


def _recognises(head: bytes) -> bool:
    return bool(_BEGINNING.match(head.removeprefix(b"\xef\xbb\xbf")))


MEM0 = Format("mem0", unit="memory", recognises=_recognises, read=_read)
