"""Texts as a model's tokeniser sees them: prefixed, counted, cut into passages that fit."""

from collections.abc import Sequence
from dataclasses import dataclass

from tokenizers import Tokenizer

from mnemolite.embeddings import Kind, Span, check_texts
from mnemolite.embeddings.passages import BLOCK, cut, halve, token_starts
from mnemolite.embeddings.templates import WRAPPER_TOKENS
from mnemolite.errors import EmbeddingError, SettingsError

Ids = list[int]

# A query beyond this many characters for each token of the window is not even tokenised.
_QUERY_CHARACTERS_PER_TOKEN = 64
# Of large windows more is left for the wrapper: their tokenisers may need more tokens for a name.
_WRAPPER_SHARE = 8
_LEAST_ROOM = 8


@dataclass(frozen=True, kw_only=True)
class Window:
    """How many tokens the model takes, and what is put before a text."""

    max_tokens: int
    query_prefix: str = ""
    document_prefix: str = ""


class Tokens:
    """A tokeniser and a window. Safe to use from several threads."""

    def __init__(self, tokenizer: Tokenizer, window: Window) -> None:
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self._tokenizer = tokenizer
        self.window = window
        self.pad_id = _pad_id(tokenizer)
        mask = tokenizer.encode("a").special_tokens_mask
        self._tail = mask[::-1].index(0)  # special tokens at the end of a text
        self._room = self._find_room(special=sum(mask))

    def prefix(self, kind: Kind) -> str:
        """What the model wants to read before such a text."""
        return self.window.query_prefix if kind == "query" else self.window.document_prefix

    def trimmed(self, texts: Sequence[str], kind: Kind) -> list[str]:
        """The texts without prefix; queries stripped, and cut far beyond what a window takes."""
        if kind == "document":
            return list(texts)
        longest = self.window.max_tokens * _QUERY_CHARACTERS_PER_TOKEN
        return [text.strip()[:longest] for text in texts]

    def encode(self, texts: Sequence[str], kind: Kind) -> list[Ids]:
        """The tokens of each prefixed text. Queries are cut to the window.

        Raises EmbeddingError for a document that exceeds it.
        """
        prefixed = [self.prefix(kind) + text for text in self.trimmed(texts, kind)]
        encoded = [one.ids for one in self._tokenizer.encode_batch_fast(prefixed)]
        return [self._fit(ids, kind, number=number) for number, ids in enumerate(encoded)]

    def passages(self, text: str) -> list[Span]:
        """Cut a text into spans that fit once wrapped; see ``Embedder.passages``."""
        check_texts([text])
        room, starts = self._room, token_starts(text, self._offsets)
        if len(starts) <= room and len(text) <= BLOCK:
            return [(0, len(text))]
        # A cut inside a word, or a block's border there, can make other tokens of it: count again.
        spans = cut(text, starts, room=room)
        pieces = [text[start:end] for start, end in spans]
        encoded = self._tokenizer.encode_batch_fast(pieces, add_special_tokens=False)
        return [
            part
            for span, piece in zip(spans, encoded, strict=True)
            for part in ([span] if len(piece.ids) <= room else self._halve(text, span, room=room))
        ]

    def _find_room(self, *, special: int) -> int:
        """The tokens left for a passage beside special tokens, prefix and wrapper."""
        prefix = self._tokenizer.encode(self.window.document_prefix, add_special_tokens=False)
        limit = self.window.max_tokens
        wrapper = max(WRAPPER_TOKENS, limit // _WRAPPER_SHARE)
        room = limit - special - len(prefix.ids) - wrapper
        if room < _LEAST_ROOM:
            raise SettingsError(
                f"A window of {limit} tokens leaves {max(room, 0)} for the text of a passage.",
                field="MNEMO_EMBEDDING_MAX_TOKENS",
                remedy="Raise it, or shorten MNEMO_EMBEDDING_DOCUMENT_PREFIX.",
            )
        return room

    def _halve(self, text: str, span: Span, *, room: int) -> list[Span]:
        return halve(text, span, fits=lambda piece: len(self._offsets(piece)) <= room)

    def _offsets(self, text: str) -> list[Span]:
        return self._tokenizer.encode(text, add_special_tokens=False).offsets

    def _fit(self, ids: Ids, kind: Kind, *, number: int) -> Ids:
        limit = self.window.max_tokens
        if len(ids) <= limit:
            return ids
        if kind == "document":
            raise EmbeddingError(
                f"The text has {len(ids)} tokens, the model takes {limit}.",
                field=f"texts[{number}]",
                remedy="Cut it into passages first.",
            )
        end = len(ids) - self._tail
        return ids[: limit - self._tail] + ids[end:]


def _pad_id(tokenizer: Tokenizer) -> int:
    """The mask hides padding, but some models count positions by its id."""
    ids = (tokenizer.token_to_id(token) for token in ("[PAD]", "<pad>"))
    return next((number for number in ids if number is not None), 0)
