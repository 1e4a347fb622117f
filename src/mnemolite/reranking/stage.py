"""The last stage of a search: the best hits in the order of the reranker, or else as they were."""

import asyncio
import re
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import structlog

from mnemolite import metrics
from mnemolite.embeddings.templates import recall_text
from mnemolite.errors import InvalidInputError, RerankingError, RerankingTimeoutError
from mnemolite.models import Check, Hit, RerankMeta, SearchQuery
from mnemolite.reranking import Reranker

if TYPE_CHECKING:
    from mnemolite.settings import RerankerSettings

log = structlog.get_logger(__name__)

Speakers = Mapping[str, str | None]

# After so many failures in a row nobody asks the reranker for a while, so that a server which is
# down does not cost every search its deadline.
_FAILURES_IN_A_ROW = 3
_PAUSE_SECONDS = 10.0

_WORD = re.compile(r"\w{2,}")
# About the 256 tokens of a passage that is embedded.
_WINDOW, _HALF = 1500, 750
_LOOKED_AT_CHARACTERS = 100_000


class RerankStage:
    """Asks one reranker, or none, and never makes a search fail."""

    def __init__(self, reranker: Reranker | None, settings: "RerankerSettings") -> None:
        self._reranker = reranker
        self._pairs = settings.pairs
        self._seconds = settings.deadline_seconds
        self._failures = 0
        self._paused_until = 0.0
        self._last_reason = ""

    def widen(self, query: SearchQuery) -> SearchQuery:
        """The query with a limit that leaves the reranker something to choose from.

        Raises InvalidInputError if the query demands a reranking that cannot be.
        """
        if query.rerank and self._reranker is None:
            raise InvalidInputError(
                "There is no reranker here.",
                field="rerank",
                remedy="Set MNEMO_RERANKER where the memory runs, or leave rerank out.",
            )
        if query.rerank and not query.q.strip():
            raise InvalidInputError("A reranker needs a q to judge by.", field="rerank")
        if not self._is_wanted(query):
            return query
        return query.model_copy(update={"limit": max(query.limit, self._pairs)})

    async def run(
        self, query: SearchQuery, hits: Sequence[Hit], *, speakers: Speakers
    ) -> tuple[list[Hit], RerankMeta | None]:
        """The first ``query.limit`` of the hits, the best of them reordered, and what was done.

        ``speakers`` has the speakers of the hits by id as text. When the reranker fails or is too
        late, the hits keep their order and the second value says why; it is None if nobody was to
        rerank.
        """
        if self._reranker is None or not self._is_wanted(query):
            return list(hits[: query.limit]), None
        best = hits[: self._pairs]
        started = time.perf_counter()
        scores, reason = await self._scores(
            query.q, best, speakers=speakers, reranker=self._reranker
        )
        seconds = time.perf_counter() - started
        outcome = "applied" if reason is None else "not_applied"
        metrics.RERANK_SECONDS.labels(outcome).observe(seconds)
        meta = RerankMeta(
            provider=self._reranker.info.provider,
            model=self._reranker.info.model,
            pairs=len(best),
            applied=reason is None,
            reason=reason,
            ms=round(seconds * 1000, 1),
        )
        ordered = _reordered(best, scores) if reason is None else list(best)
        return [*ordered, *hits[len(best) :]][: query.limit], meta

    def check(self) -> Check | None:
        """Names the reranker; None without one. It is never at fault: searches go on without."""
        if self._reranker is None:
            return None
        name = f"{self._reranker.info.provider}, {self._reranker.info.model}"
        if not self._failures:
            return Check(ok=True, detail=name)
        return Check(ok=True, detail=f"{name}; searches are not reranked: {self._last_reason}")

    async def try_out(self) -> Check:
        """Let the reranker judge one pair, as a search would."""
        if self._reranker is None:
            return Check(ok=True, detail="none: hits keep the order of the ranking")
        name = f"{self._reranker.info.provider}, {self._reranker.info.model}"
        try:
            async with asyncio.timeout(self._seconds):
                await self._reranker.rerank("Does it work?", ["It works."])
        except TimeoutError:
            return Check(ok=False, detail=f"{name}: no answer within {self._seconds:g} s")
        except RerankingError as error:
            return Check(ok=False, detail=f"{name}: {error.code}: {error}")
        return Check(ok=True, detail=f"{name} answers")

    def _is_wanted(self, query: SearchQuery) -> bool:
        return self._reranker is not None and query.rerank is not False and bool(query.q.strip())

    async def _scores(
        self, q: str, hits: Sequence[Hit], *, speakers: Speakers, reranker: Reranker
    ) -> tuple[list[float], str | None]:
        """The scores, or why there are none."""
        if time.monotonic() < self._paused_until:
            return [], f"paused after {self._failures} failures: {self._last_reason}"
        try:
            async with asyncio.timeout(self._seconds):
                texts = await asyncio.to_thread(_texts, q, hits, speakers=speakers)
                scores = await reranker.rerank(q, texts)
        except TimeoutError:
            return [], self._failed(
                RerankingTimeoutError(f"The reranker took longer than {self._seconds:g} s.")
            )
        except RerankingError as error:
            return [], self._failed(error)
        self._failures = 0
        return scores, None

    def _failed(self, error: RerankingError) -> str:
        self._failures += 1
        if self._failures >= _FAILURES_IN_A_ROW:
            self._paused_until = time.monotonic() + _PAUSE_SECONDS
        self._last_reason = f"{error.code}: {error}"
        log.warning("not_reranked", reason=self._last_reason, failures=self._failures)
        return self._last_reason


def _reordered(hits: Sequence[Hit], scores: Sequence[float]) -> list[Hit]:
    """Best score first; equal scores in the order in which they came."""
    scored = [
        hit.model_copy(update={"rerank_score": score})
        for hit, score in zip(hits, scores, strict=True)
    ]
    return sorted(scored, key=lambda hit: -(hit.rerank_score or 0.0))


# --- What is judged -----------------------------------------------------------------------------


def _texts(q: str, hits: Sequence[Hit], *, speakers: Speakers) -> list[str]:
    """What is judged of each hit: its best passage, in the words in which it is embedded."""
    return [
        recall_text(
            hit.passage.text if hit.passage else best_passage(hit.text or "", q),
            speaker=speakers.get(str(hit.id)),
            timestamp=hit.timestamp,
        )
        for hit in hits
    ]


def best_passage(text: str, q: str) -> str:
    """The 1,500 characters of a text with most of the query's words, the first ones among equals.

    It is for hits that no vector has led to. Of a very long text the first 100,000 characters are
    looked at.
    """
    if len(text) <= _WINDOW:
        return text
    asked = frozenset(_WORD.findall(q.casefold()))
    # Windows overlap by half: a word lies in the one of its half and in the one before.
    found: defaultdict[int, set[str]] = defaultdict(set)
    for match in _WORD.finditer(text, 0, _LOOKED_AT_CHARACTERS):
        if (word := match.group().casefold()) in asked:
            half = match.start() // _HALF
            found[half].add(word)
            found[max(half - 1, 0)].add(word)
    best = min(found, key=lambda half: (-len(found[half]), half), default=0)
    return text[best * _HALF : best * _HALF + _WINDOW]
