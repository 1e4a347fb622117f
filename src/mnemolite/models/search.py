"""Searches: what is asked, what is found, and why."""

from typing import Literal, Self

from pydantic import Field, FiniteFloat, field_validator, model_validator
from pydantic_core import PydanticCustomError

from mnemolite.models.events import Event, Scope
from mnemolite.models.values import (
    MAX_QUERY_CHARACTERS,
    MAX_SEARCH_LIMIT,
    Frozen,
    Where,
    check_text,
)

Mode = Literal["hybrid", "vector", "text"]
Arm = Literal["vector", "text"]


class SearchOptions(Scope):
    """What to look for, and how."""

    q: str = Field("", max_length=MAX_QUERY_CHARACTERS, description="The question or the words.")
    mode: Mode = Field("hybrid", description="Which arms look for candidates.")
    limit: int = Field(10, ge=1, le=MAX_SEARCH_LIMIT, description="Hits to return.")
    min_similarity: float | None = Field(
        None, ge=0, le=1, description="Leave out hits that are less similar than this."
    )
    explain: bool = Field(False, description="Whether each hit says why it stands there.")
    rerank: bool | None = Field(
        None,
        description="Whether a reranker orders the best hits anew. Left out: if there is one.",
    )

    @field_validator("q")
    @classmethod
    def _q_is_text(cls, value: str) -> str:
        return check_text(value)


class SearchQuery(SearchOptions):
    """A search with a filter, or by a vector of the client's own."""

    where: Where = Field(None, description="Filter on metadata and content.")
    vector: list[FiniteFloat] | None = Field(
        None, min_length=1, max_length=16_000, description="Used in place of q's own embedding."
    )

    space: int | None = Field(
        None, ge=1, description="The space that `vector` was made in; without it, the searched one."
    )

    @model_validator(mode="after")
    def _names_a_space_for_a_vector_only(self) -> Self:
        if self.space is not None and self.vector is None:
            raise PydanticCustomError("invalid_query", "space is named for a vector, but none came")
        return self

    @model_validator(mode="after")
    def _has_something_to_look_for(self) -> Self:
        if not self.q.strip() and (self.vector is None or self.mode == "text"):
            raise PydanticCustomError("invalid_query", "q is empty: nothing to look for")
        return self


class Passage(Frozen):
    """The part of an event's text that is nearest to the query."""

    text: str
    start: int = Field(description="First character, from 0.")
    end: int = Field(description="Behind the last character.")


class TermExplanation(Frozen):
    """A word of the query that the event has."""

    idf: float = Field(description="How much the word weighs, being rare.")
    documents: int = Field(description="Events of the namespace that have it.")
    frequency: int = Field(description="How often this event has it, up to 32.")


class ArmExplanation(Frozen):
    """What one arm gave to a hit."""

    own: float = Field(description="Of the event itself: cosine or BM25, less for its length.")
    score: float = Field(description="With its neighbours, as it was added to the fused score.")


class Explanation(Frozen):
    """Why a hit stands where it stands: score = (vector.score + text.score) * boost."""

    vector: ArmExplanation
    text: ArmExplanation
    boost: float = Field(description="Above 1 when the question names the speaker.")
    words: int = Field(description="Words of the event, without stop words.")
    terms: dict[str, TermExplanation] = Field(description="The query's lexemes that it has.")


class Hit(Event):
    """An event found by a search, with its scores."""

    score: float = Field(description="Fused score; only its order within one answer has meaning.")
    distance: float | None = Field(description="Cosine distance to the query; null if unknown.")
    similarity: float | None = Field(description="max(0, cosine), in [0, 1]; null if unknown.")
    text_score: float | None = Field(description="BM25 of its words; null if none matched.")
    ranks: dict[Arm, int | None] = Field(
        description="1-based rank in each arm that ran; null if only its neighbours led to it."
    )
    rerank_score: float | None = Field(
        None, description="What the reranker gave, in its own scale; null if not reranked."
    )
    passage: Passage | None = Field(description="The nearest part of its text; null if unknown.")
    explanation: Explanation | None = Field(description="With `explain` only.")


class DegradedArm(Frozen):
    """An arm that should have run and could not."""

    arm: Arm
    reason: str


class Plan(Frozen):
    """How the vector arm found its candidates."""

    vector: Literal["exact", "hnsw"]
    estimated_rows: int | None = Field(
        description="Events that pass the filters: of a whole namespace as counted, else estimated "
        "from a sample; null where it cannot matter."
    )


class RerankMeta(Frozen):
    """What became of the reranking."""

    provider: str
    model: str
    pairs: int = Field(description="Hits that were given to the reranker.")
    applied: bool = Field(description="Whether its order is the one of this answer.")
    reason: str | None = Field(description="Why its order is not used; null if it is.")
    ms: float = Field(description="How long it took, in milliseconds.")


class SearchMeta(Frozen):
    """What a search did, so that nobody has to guess."""

    mode: Mode
    arms: list[Arm] = Field(description="The arms that ran.")
    degraded: list[DegradedArm] = Field(description="The arms that should have run, and why not.")
    plan: Plan | None = Field(description="How vectors were searched; null without that arm.")
    space: int | None = Field(description="The embedding space searched; null without vectors.")
    vector_source: Literal["model", "client"] | None = Field(
        description="Who made the query's vector; null without vectors."
    )
    pending: int = Field(description="Events of the namespace that have no embedding yet.")
    pending_is_lower_bound: bool = Field(description="Whether that count stopped at its limit.")
    count: int = Field(description="Hits in this answer.")
    rerank: RerankMeta | None = Field(
        None, description="The reranking; null if nobody was to rerank."
    )


class SearchResult(Frozen):
    """The hits of one search, best first, and what it did."""

    data: list[Hit]
    meta: SearchMeta
