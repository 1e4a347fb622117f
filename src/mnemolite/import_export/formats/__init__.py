"""The formats that an import reads: one contract, one file each."""

from collections.abc import Mapping

from mnemolite.errors import InvalidInputError
from mnemolite.import_export.formats.chatgpt import CHATGPT
from mnemolite.import_export.formats.claude import CLAUDE
from mnemolite.import_export.formats.contract import Draft, Format, Reading
from mnemolite.import_export.formats.export import EXPORT
from mnemolite.import_export.formats.jsonl import JSONL
from mnemolite.import_export.formats.mem0 import MEM0
from mnemolite.import_export.formats.memory_jsonl import MEMORY_JSONL
from mnemolite.import_export.lines import Counted

__all__ = ["AUTO", "FORMATS", "Draft", "Format", "Reading", "choose_format"]

AUTO = "auto"
_HEAD_BYTES = 64 * 1024

# In the order in which they are asked whether they recognise a source.
FORMATS: Mapping[str, Format] = {
    one.name: one for one in (EXPORT, CHATGPT, CLAUDE, MEM0, MEMORY_JSONL, JSONL)
}


def choose_format(name: str, source: Counted) -> Format:
    """The format of that name; with ``auto`` the first that recognises the source."""
    if name in FORMATS:
        return FORMATS[name]
    if name != AUTO:
        raise InvalidInputError(
            f"{name!r} is not a format.",
            field="format",
            remedy=f"Use one of: {', '.join((AUTO, *FORMATS))}.",
        )
    head = source.peek(_HEAD_BYTES)
    for one in FORMATS.values():
        if one.recognises(head):
            return one
    raise InvalidInputError(
        "The source begins like none of the known formats.",
        field="format",
        remedy=f"Name it with --format: one of {', '.join(FORMATS)}.",
    )
