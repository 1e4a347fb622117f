"""The conversations.json of a ChatGPT export: every branch of every conversation."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from mnemolite.import_export.formats.contract import Draft, Format, Reading, draft_of, text_or_none
from mnemolite.import_export.formats.documents import elements
from mnemolite.import_export.lines import Counted
from mnemolite.import_export.report import BadLine
from mnemolite.models import JsonObject

_MICROSECOND = timedelta(microseconds=1)
# Where the kinds of content keep their words, beside "parts".
_TEXT_KEYS = ("text", "result", "content", "user_profile", "user_instructions")


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a message stands: its node, and what holds for the conversation."""

    node: str
    parent: str | None
    current: bool  # on the branch that was shown last
    conversation: JsonObject
    time: datetime | None  # what it told last, before this message


def _read(source: Counted, reading: Reading) -> Iterator[Draft | BadLine]:
    for number, conversation in elements(source):
        if isinstance(conversation, BadLine):
            yield conversation
        elif not isinstance(conversation, dict) or not isinstance(
            conversation.get("mapping"), dict
        ):
            yield BadLine(number, "this is not a conversation: it has no mapping")
        else:
            yield from _read_conversation(conversation, number, reading=reading)


def _read_conversation(
    conversation: JsonObject, number: int, *, reading: Reading
) -> Iterator[Draft | BadLine]:
    nodes = {key: node for key, node in conversation["mapping"].items() if isinstance(node, dict)}
    current = _current_path(nodes, conversation.get("current_node"))
    start = _moment(conversation.get("create_time"))
    waiting = [(key, start) for key in nodes if nodes[key].get("parent") not in nodes][::-1]
    seen = set()
    while waiting:
        key, time = waiting.pop()
        seen.add(key)
        node = nodes[key]
        message = node.get("message")
        if isinstance(message, dict):
            place = _Place(key, node.get("parent"), key in current, conversation, time)
            draft = _draft(message, place, number=number, reading=reading)
            time = _time_of(message, place) or time
            if draft is not None:
                yield draft
        children = node.get("children")
        for child in reversed(children if isinstance(children, list) else []):
            if isinstance(child, str) and child in nodes and child not in seen:
                waiting.append((child, time))
    if lost := len(conversation["mapping"]) - len(seen):
        yield BadLine(number, f"{lost} messages hang on nothing: their parents do not lead to them")


def _current_path(nodes: JsonObject, last: object) -> set[str]:
    path: set[str] = set()
    while isinstance(last, str) and last in nodes and last not in path:
        path.add(last)
        last = nodes[last].get("parent")
    return path


def _draft(
    message: JsonObject, place: _Place, *, number: int, reading: Reading
) -> Draft | BadLine | None:
    """The event of a message; None for one that says nothing."""
    given = message.get("content")
    content = _content(given if isinstance(given, dict) else {}, reading)
    if content is None:
        reading.report.skipped["empty message"] += 1
        return None
    given_author = message.get("author")
    author = given_author if isinstance(given_author, dict) else {}
    told = {"role": text_or_none(author.get("role")), "name": text_or_none(author.get("name"))}
    session = place.conversation.get("conversation_id") or place.conversation.get("id")
    fields = {
        "content": {key: value for key, value in told.items() if value} | content,
        "session": session,
        "timestamp": _time_of(message, place),
        "metadata": _metadata(message, place),
    }
    if reading.namespace:
        fields["namespace"] = reading.namespace
    return draft_of(fields, number, key=f"chatgpt:{session}:{place.node}")


def _content(content: JsonObject, reading: Reading) -> JsonObject | None:
    kind = content.get("content_type")
    parts = content.get("parts")
    parts = parts if isinstance(parts, list) else []
    texts = [text for text in (_part_text(part) for part in parts) if text]
    texts += [text for key in _TEXT_KEYS if (text := text_or_none(content.get(key)))]
    thoughts = content.get("thoughts")
    for thought in thoughts if isinstance(thoughts, list) else []:
        if isinstance(thought, dict) and (text := text_or_none(thought.get("content"))):
            texts.append(text)
    others = [_kind_of(part) for part in parts if not isinstance(part, str)]
    if not others and (not content or kind == "text"):
        return {"text": "\n".join(texts)} if texts else None
    # Of what is more than text the whole is kept, and named where it holds no words.
    reading.report.kept_as_data.update(others or [str(kind)])
    names = [f"[{name}]" for name in others] or [f"[{kind}]"]
    return {"text": "\n".join(texts or names), "original": content}


def _part_text(part: object) -> str | None:
    return text_or_none(part.get("text") if isinstance(part, dict) else part)


def _kind_of(part: object) -> str:
    kind = part.get("content_type") if isinstance(part, dict) else None
    return kind if isinstance(kind, str) else type(part).__name__


def _metadata(message: JsonObject, place: _Place) -> JsonObject:
    extra = message.get("metadata")
    extra = extra if isinstance(extra, dict) else {}
    told = {
        "title": place.conversation.get("title"),
        "message_id": message.get("id") or place.node,
        "parent_id": place.parent,
        "model": extra.get("model_slug"),
        "attachments": extra.get("attachments"),
        "recipient": message.get("recipient") if message.get("recipient") != "all" else None,
    }
    kept = {key: value for key, value in told.items() if value not in (None, "", [])}
    return {"source": "chatgpt", "current_branch": place.current, **kept}


def _time_of(message: JsonObject, place: _Place) -> datetime | None:
    """When it was said; a message without a time comes right after the one it answers."""
    told = _moment(message.get("create_time"))
    return told or (place.time + _MICROSECOND if place.time else None)


def _moment(seconds: object) -> datetime | None:
    """A UNIX time; None where there is none, and for one that is none."""
    if isinstance(seconds, bool) or not isinstance(seconds, int | float | Decimal) or not seconds:
        return None
    try:
        return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=float(seconds))
    except (OverflowError, ValueError):
        return None


_BEGINNING = re.compile(rb'^\s*\[.*?"mapping"\s*:\s*\{', re.DOTALL)


def _recognises(head: bytes) -> bool:
    return bool(_BEGINNING.match(head.removeprefix(b"\xef\xbb\xbf")))


CHATGPT = Format("chatgpt", unit="conversation", recognises=_recognises, read=_read)
