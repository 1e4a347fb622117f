"""The conversations.json of a Claude export: messages, and the texts of their attachments."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from mnemolite.import_export.formats.contract import Draft, Format, Reading, draft_of, text_or_none
from mnemolite.import_export.formats.documents import elements
from mnemolite.import_export.lines import Counted
from mnemolite.import_export.report import BadLine
from mnemolite.models import JsonObject

_MICROSECOND = timedelta(microseconds=1)


def _read(source: Counted, reading: Reading) -> Iterator[Draft | BadLine]:
    for number, conversation in elements(source):
        if isinstance(conversation, BadLine):
            yield conversation
            continue
        messages = conversation.get("chat_messages") if isinstance(conversation, dict) else None
        if not isinstance(messages, list):
            yield BadLine(number, "this is not a conversation: it has no chat_messages")
            continue
        told = _Conversation(conversation, number, reading)
        for index, message in enumerate(messages):
            if isinstance(message, dict):
                yield from told.drafts(message, index)
            else:
                yield BadLine(number, f"message {index + 1} is not a JSON object")


@dataclass(slots=True)
class _Conversation:
    """The conversation that is being read, and the time of its latest event."""

    told: JsonObject
    number: int
    reading: Reading
    told_time: datetime | None = None
    time: datetime | None = None

    def drafts(self, message: JsonObject, index: int) -> Iterator[Draft | BadLine]:
        """The message, and each attachment with text as an event after it."""
        stamp = self._time_of(message)
        key = message.get("uuid") or index
        content = _content(message, self.reading)
        attachments = _objects(message.get("attachments"))
        if content is not None:
            yield self._draft(content, stamp, key=str(key), message=message)
        elif not any(text_or_none(one.get("extracted_content")) for one in attachments):
            self.reading.report.skipped["empty message"] += 1
        for place, attachment in enumerate(attachments):
            if text := text_or_none(attachment.get("extracted_content")):
                stamp = self._after(stamp)
                told = {"role": message.get("sender"), "text": text}
                extra = {"attachment": attachment.get("file_name")}
                yield self._draft(
                    told, stamp, key=f"{key}:attachment {place}", message=message | extra
                )

    def _draft(
        self, content: JsonObject, stamp: object, *, key: str, message: JsonObject
    ) -> Draft | BadLine:
        session = self.told.get("uuid")
        fields = {
            "content": {name: value for name, value in content.items() if value is not None},
            "session": session,
            "timestamp": stamp,
            "metadata": self._metadata(message),
        }
        if self.reading.namespace:
            fields["namespace"] = self.reading.namespace
        return draft_of(fields, self.number, key=f"claude:{session}:{key}")

    def _metadata(self, message: JsonObject) -> JsonObject:
        files = [*_objects(message.get("attachments")), *_objects(message.get("files"))]
        told = {
            "title": self.told.get("name"),
            "message_id": message.get("uuid"),
            "parent_id": message.get("parent_message_uuid"),
            "attachment": message.get("attachment"),
            "files": [one["file_name"] for one in files if text_or_none(one.get("file_name"))],
        }
        return {"source": "claude"} | {
            name: value for name, value in told.items() if value not in (None, "", [])
        }

    def _time_of(self, message: JsonObject) -> object:
        """When it was said. One that has no time, or that of the one before, comes right after."""
        told = message.get("created_at") or (self.told.get("created_at") if not self.time else None)
        try:
            stamp = datetime.fromisoformat(told) if isinstance(told, str) else None
        except ValueError:
            return told  # the model says what is wrong with it
        if stamp is not None and stamp.utcoffset() is None:
            stamp = stamp.replace(tzinfo=UTC)
        if self.time is not None and stamp in (None, self.told_time):
            return self._after(self.time)
        self.told_time = self.time = stamp
        return stamp

    def _after(self, stamp: object) -> object:
        if not isinstance(stamp, datetime):
            return stamp
        self.time = stamp + _MICROSECOND
        return self.time


def _content(message: JsonObject, reading: Reading) -> JsonObject | None:
    """What is said; blocks that are no text are kept whole. None: nothing is."""
    blocks = message.get("content")
    blocks = blocks if isinstance(blocks, list) else []
    texts = [text for block in blocks if (text := _text_of(block))]
    others = [block for block in blocks if not _is_text(block)]
    text = "\n".join(texts) or text_or_none(message.get("text"))
    kinds = [_kind_of(block) for block in others]
    reading.report.kept_as_data.update(kinds)
    if not text and not others:
        return None
    content: JsonObject = {"role": message.get("sender")}
    content["text"] = text or "\n".join(f"[{kind}]" for kind in kinds)
    return content | ({"blocks": others} if others else {})


def _is_text(block: object) -> bool:
    return isinstance(block, dict) and block.get("type") == "text"


def _text_of(block: Any) -> str | None:
    return text_or_none(block.get("text")) if _is_text(block) else None


def _kind_of(block: object) -> str:
    kind = block.get("type") if isinstance(block, dict) else None
    return kind if isinstance(kind, str) else type(block).__name__


def _objects(value: object) -> list[JsonObject]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


_BEGINNING = re.compile(rb'^\s*\[.*?"chat_messages"\s*:\s*\[', re.DOTALL)


def _recognises(head: bytes) -> bool:
    return bool(_BEGINNING.match(head.removeprefix(b"\xef\xbb\xbf")))


CLAUDE = Format("claude", unit="conversation", recognises=_recognises, read=_read)
