"""Searches: what is asked, what is found, and why."""

from typing import Literal, Self
from uuid import UUID

from pydantic import Field, FiniteFloat, field_validator, model_validator
from pydantic_core import PydanticCustomError

from mnemolite.models.events import Event, Scope
from mnemolite.models.values import (
    MAX_NEIGHBOURS,
    MAX_QUERY_CHARACTERS,
    MAX_SEARCH_LIMIT,
    Duration,
    Frozen,
    JsonObject,
    Timestamp,
    Where,
    check_text,
)

Mode = Literal["hybrid", "vector", "text"]
Arm = Literal["vector", "text"]
Dates = Literal["boost", "filter", "ignore"]


class SearchOptions(Scope):
    """What to look for, and how."""

    q: str = Field("", max_length=MAX_QUERY_CHARACTERS, description="The question or the words.")
    mode: Mode = Field("hybrid", description="Which arms look for candidates.")
    limit: int = Field(10, ge=1, le=MAX_SEARCH_LIMIT, description="Hits to return.")
    min_similarity: float | None = Field(
        None, ge=0, le=1, description="Leave out hits that are less similar than this."
    )
    dates: Dates = Field(
        "boost", description="What the dates that the question names do to the search."
    )
    now: Timestamp | None = Field(
        None, description="What 'last week' and ages refer to; the current time if left out."
    )
    recency_half_life: Duration | None = Field(
        None, description="Favours newer events: the age at which half of the favour is gone."
    )
    importance: float = Field(
        0, ge=0, le=10, description="Weight of metadata.importance: score * (1 + weight * it)."
    )
    diversity: float = Field(
        0, ge=0, le=1, description="How much hits that are like better ones are held back."
    )
    neighbours: int = Field(
        0, ge=0, le=MAX_NEIGHBOURS, description="Places around each hit to return, on either side."
    )
    explain: bool = Field(
        False, description="Say why each hit stands there, and record the search for a replay."
    )
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
            raise PydanticCustomError(
                "invalid_query", "space is named for a vector, but none came", {"field": "space"}
            )
        return self

    @model_validator(mode="after")
    def _has_something_to_look_for(self) -> Self:
        if not self.q.strip() and (self.vector is None or self.mode == "text"):
            raise PydanticCustomError(
                "invalid_query", "q is empty: nothing to look for", {"field": "q"}
            )
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


class NeighbourShare(Frozen):
    """What an event near the hit in its session added to the hit's score."""

    id: UUID
    score: float


class ArmExplanation(Frozen):
    """What one arm gave to a hit: score = own_score + assumed + the sum of the neighbours'."""

    rank: int | None = Field(description="1-based rank in this arm; null if it found it not.")
    raw: float | None = Field(description="Cosine, or BM25; null where there is none.")
    own: float = Field(description="The raw score, less for the event's length.")
    own_score: float = Field(description="What the event itself has of the score.")
    neighbours: list[NeighbourShare] = Field(description="What others added, the most first.")
    assumed: float = Field(description="What counts in place of missing vectors and neighbours.")
    score: float = Field(description="Of all these, as it was added to the fused score.")


class Explanation(Frozen):
    """Why a hit stands where it stands: score = (vector.score + text.score) * boost."""

    vector: ArmExplanation
    text: ArmExplanation
    boost: float = Field(description="All boosts, multiplied.")
    boosts: dict[str, float] = Field(
        default_factory=dict,
        description="speaker and dates that the question names, recency, importance, diversity.",
    )
    parts: dict[str, float] = Field(description="What the score is the sum of.")
    words: int = Field(description="Words of the event, without stop words.")
    terms: dict[str, TermExplanation] = Field(description="The query's lexemes that it has.")


class Neighbour(Frozen):
    """What stands near a hit: a passage of its own text, or an event of its session."""

    place: int = Field(description="-1 is just before the hit, 1 just after it, and so on.")
    id: UUID = Field(description="Of the event; the hit's own for a passage of the hit.")
    passage: Passage | None = Field(None, description="Of the hit's own text; null for an event.")
    event: Event | None = Field(
        None, description="Null for a passage, for a hit, and for what a better hit has given."
    )


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
    neighbours: list[Neighbour] = Field(
        default_factory=list, description="What stands around it, in order of time."
    )


class DegradedArm(Frozen):
    """An arm that should have run and could not."""

    arm: Arm
    reason: str


class Plan(Frozen):
    """How the vector arm found its candidates."""

    vector: Literal["exact", "hnsw", "mixed"] = Field(
        description="mixed: by the index where a partition has one, exactly in the others."
    )
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


class ReplicaMeta(Frozen):
    """Whether the read replica answered, and how old its view may be."""

    used: bool = Field(description="Whether it was searched; if not, the primary was.")
    lag_seconds: float | None = Field(
        description="How far it lagged behind the primary at most; null: not used, or not known."
    )
    reason: str | None = Field(description="Why the primary was searched; null if it was not.")


class QueryTerm(Frozen):
    """A word that was looked for."""

    idf: float
    documents: int = Field(description="Events of the namespace that have it.")


class SearchExplanation(Frozen):
    """How a query was understood, and where the time went."""

    namespace: str
    session: str | None
    since: Timestamp | None
    until: Timestamp | None
    where: JsonObject | None
    phrases: list[str] = Field(description="What a hit must hold, word by word.")
    excluded: list[str] = Field(description="What a hit must not hold.")
    terms: dict[str, QueryTerm] = Field(description="The lexemes looked for, the rarest first.")
    ignored: list[str] = Field(description="Lexemes that nothing holds, or that only ask.")
    found: dict[Arm, int] = Field(description="Candidates of each arm.")
    timings: dict[str, float] = Field(description="Milliseconds of each part; arms run abreast.")


class NamedDate(Frozen):
    """A phrase of the question, and the half-open span that it was read as."""

    phrase: str
    since: Timestamp | None = Field(description="Null where it is open: before 2023.")
    until: Timestamp | None = Field(description="Excluded; null where it is open: since 2023.")


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
    replica: ReplicaMeta | None = Field(
        None, description="The part of the read replica; null if there is none."
    )
    dates: list[NamedDate] = Field(
        default_factory=list, description="The dates in the question, as they were read."
    )
    confidence: float | None = Field(
        None,
        description="From 0 to 1, whether the memory knows of the subject; null: not to be told.",
    )
    request_id: UUID | None = Field(
        None, description="Of the record that can be replayed; null without `explain`."
    )
    not_recorded: str | None = Field(None, description="Why an explained search has no record.")
    explanation: SearchExplanation | None = Field(None, description="With `explain` only.")


class SearchResult(Frozen):
    """The hits of one search, best first, and what it did."""

    data: list[Hit]
    meta: SearchMeta


class Recorded(Frozen):
    """What is kept of an explained search: the query, and of its hits ids and scores alone."""

    id: UUID
    created_at: Timestamp
    query: SearchQuery
    # As they were said: later versions may say them otherwise.
    arms: list[str]
    degraded: list[JsonObject]
    plan: JsonObject | None
    space: int | None
    rerank: JsonObject | None = None
    hits: list[tuple[UUID, float]] = Field(description="Best first: id and score.")


class Change(Frozen):
    """A property of an answer, as it was recorded and as it is now."""

    before: JsonObject | list[JsonObject] | list[str] | int | None
    now: JsonObject | list[JsonObject] | list[str] | int | None


class HitChange(Frozen):
    """A hit that differs; what it has not, then or now, is null."""

    change: Literal["came", "went", "moved", "rescored"]
    id: UUID
    rank_before: int | None
    rank: int | None
    score_before: float | None
    score: float | None


class Replay(Frozen):
    """A recorded search, run again."""

    request_id: UUID
    recorded_at: Timestamp
    query: SearchQuery
    same: bool = Field(description="Whether nothing differs.")
    hits: list[HitChange] = Field(description="What differs, in the order of now; then what went.")
    meta: dict[str, Change] = Field(
        description="What else differs: arms, degraded, plan, space or rerank."
    )
    result: SearchResult = Field(description="The answer of now.")
