"""Contexts: what a prompt should know, within a number of tokens."""

from typing import Literal
from uuid import UUID

from pydantic import Field

from mnemolite.models.search import SearchMeta, SearchQuery
from mnemolite.models.values import MAX_CONTEXT_TOKENS, MAX_NEIGHBOURS, MAX_SEARCH_LIMIT, Frozen

Tokenizer = Literal["all-MiniLM-L6-v2", "characters/4"]


class ContextQuery(SearchQuery):
    """A search whose hits are packed into a text."""

    limit: int = Field(50, ge=1, le=MAX_SEARCH_LIMIT, description="Hits to choose from.")
    neighbours: int = Field(
        1, ge=0, le=MAX_NEIGHBOURS, description="Places around each hit to choose from."
    )
    max_tokens: int = Field(
        1000, ge=32, le=MAX_CONTEXT_TOKENS, description="The text never has more tokens."
    )
    tokenizer: Tokenizer = Field("all-MiniLM-L6-v2", description="What counts the tokens.")

    def search(self) -> SearchQuery:
        """The search alone."""
        return SearchQuery(**self.model_dump(include=set(SearchQuery.model_fields)))


class ContextPart(Frozen):
    """A piece of the text: an event, or a part of one."""

    id: UUID
    part: Literal["whole", "passage"] = Field(description="Of the event's text.")
    start: int = Field(description="First character in the event's text, from 0.")
    end: int = Field(description="Behind the last character.")
    hit: int | None = Field(description="Its rank among the hits; null for a neighbour of one.")


class Context(Frozen):
    """Memories as a text that is ready for a prompt."""

    text: str
    parts: list[ContextPart] = Field(description="What the text holds, in its order.")
    tokens: int = Field(description="Tokens of the text.")
    max_tokens: int
    tokenizer: Tokenizer
    meta: SearchMeta = Field(description="Of the search behind it.")
