"""JSON documents of any size: the elements of an array, one by one, in bounded memory."""

import codecs
from collections.abc import Iterator
from typing import Any

from mnemolite import exact_json
from mnemolite.import_export.lines import Counted
from mnemolite.import_export.report import BadLine

# Of one element, such as a conversation.
MAX_ELEMENT_CHARACTERS = 64 * 1024 * 1024
_CHUNK_BYTES = 64 * 1024
_BLANKS = " \t\r\n"


def elements(source: Counted) -> Iterator[tuple[int, Any]]:
    """The elements of an array with their numbers from 1; an object alone is an array of one.

    What cannot be read ends it with a BadLine in place of the element.
    """
    text = _Text(source)
    number = 1
    try:
        in_array = text.next_character() == "["
        if in_array:
            text.position += 1
            if text.next_character() == "]":
                return
        while True:
            yield number, text.value()
            if not in_array or text.next_character() == "]":
                return
            text.expect(",")
            number += 1
    except (ValueError, RecursionError) as error:
        yield number, BadLine(number, f"it cannot be read, nor what follows: {error}")


class _Text:
    """A window on the source's text, which grows until a value fits."""

    def __init__(self, source: Counted) -> None:
        self._source = source
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")()
        self._text = ""
        self._ended = False
        self.position = 0

    def next_character(self) -> str:
        """The next character that is not blank, which stays where it is; "" at the end."""
        while True:
            rest = self._text[self.position : self.position + _CHUNK_BYTES]
            if stripped := rest.lstrip(_BLANKS):
                self.position += len(rest) - len(stripped)
                return stripped[0]
            self.position += len(rest)
            if not rest and not self._grow():
                return ""

    def expect(self, character: str) -> None:
        """Step over a character. Raises ValueError when it is another."""
        found = self.next_character()
        if found != character:
            raise ValueError(f"{character!r} is missing" if found else "the file ends too early")
        self.position += 1

    def value(self) -> Any:
        """The value that stands next. Raises ValueError."""
        if not self.next_character():
            raise ValueError("the file ends too early")
        while True:
            try:
                value, self.position = exact_json.read_from(self._text, self.position)
                return value
            except ValueError as error:
                # Perhaps it only goes on behind what has been read.
                if not self._grow():
                    raise ValueError(f"{error}; perhaps the file is cut") from None

    def _grow(self) -> bool:
        """Read on, as much again as there is; False at the end."""
        self._text, self.position = self._text[self.position :], 0
        if self._ended:
            return False
        if len(self._text) > MAX_ELEMENT_CHARACTERS:
            raise ValueError(f"it is longer than {MAX_ELEMENT_CHARACTERS:,} characters, or no JSON")
        chunk = self._source.read(max(_CHUNK_BYTES, len(self._text)))
        self._ended = not chunk
        self._text += self._decoder.decode(chunk, final=self._ended)
        return True
