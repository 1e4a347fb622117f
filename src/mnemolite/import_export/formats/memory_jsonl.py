"""The memory.jsonl of the reference MCP memory server: a graph of entities and relations."""

from collections.abc import Iterator
from typing import Any

from mnemolite.import_export.formats.contract import (
    Draft,
    Format,
    Reading,
    draft_of,
    parse_line,
    text_or_none,
)
from mnemolite.import_export.lines import Counted, numbered
from mnemolite.import_export.report import BadLine
from mnemolite.models import JsonObject

_MAX_SESSION = 200


def _read(source: Counted, reading: Reading) -> Iterator[Draft | BadLine]:
    for number, line in numbered(source):
        if not line.strip():
            continue
        try:
            row = parse_line(line)
        except (ValueError, RecursionError) as error:
            yield BadLine(number, str(error))
            continue
        for content in _contents(row):
            if isinstance(content, str):
                yield BadLine(number, content)
            else:
                yield _draft(content, number, reading=reading)


def _contents(row: JsonObject) -> Iterator[JsonObject | str]:
    """What an entity or a relation says, one by one; or why it says nothing."""
    if row.get("type") == "entity" and text_or_none(row.get("name")):
        yield from _observations(row)
    elif row.get("type") == "relation":
        ends = [text_or_none(row.get(key)) for key in ("from", "relationType", "to")]
        if None in ends:
            yield "the relation lacks its from, its to or its relationType"
            return
        told = {key: row[key] for key in ("from", "relationType", "to")}
        yield {"text": " ".join(end for end in ends if end), **told}
    else:
        yield "this is neither an entity with a name nor a relation"


def _observations(row: JsonObject) -> Iterator[JsonObject | str]:
    """Each with the name of what it is about, or nobody would find it."""
    name, kind = row["name"], row.get("entityType")
    about = f"{name} ({kind})" if text_or_none(kind) else name
    told = {"entity": name} | ({"entityType": kind} if kind is not None else {})
    observations = row.get("observations")
    if not isinstance(observations, list) or not observations:
        yield {"text": about, **told}
        return
    for observation in observations:
        if text_or_none(observation):
            yield {"text": f"{about}: {observation}", **told, "observation": observation}
        else:
            yield f"an observation of {name!r} is not a text"


def _draft(content: JsonObject, number: int, *, reading: Reading) -> Draft | BadLine:
    subject = content.get("entity") or content["from"]
    fields: dict[str, Any] = {
        "content": content,
        "session": subject if len(subject) <= _MAX_SESSION else None,
        "metadata": {"source": "memory-jsonl"}
        | {key: content[key] for key in ("entity", "entityType", "relationType") if key in content},
    }
    if reading.namespace:
        fields["namespace"] = reading.namespace
    return draft_of(fields, number)


def _recognises(head: bytes) -> bool:
    try:
        first = parse_line(head.lstrip().split(b"\n", 1)[0])
    except (ValueError, RecursionError):
        return False
    kind = first.get("type")
    return (kind == "entity" and "entityType" in first) or (
        kind == "relation" and "relationType" in first
    )


MEMORY_JSONL = Format("memory-jsonl", unit="line", recognises=_recognises, read=_read)
