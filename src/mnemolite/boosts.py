"""Boosts: the factors of a score that come from the caller's wishes and the question's dates."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
from numpy.typing import NDArray

from mnemolite.models import SearchQuery
from mnemolite.moments import Moment

Floats = NDArray[np.float64]

# How much of its score an event can lose by its age: all of it would hide what is old (recall@10
# of LoCoMo .79, and .20 with a half-life of 30 days), a fifth settles what is nearly equal.
RECENCY_SHARE = 0.2
# What happened in the time that the question names gains this much, and what is told in the days
# after it, fading: people tell of their weekend on Monday.
DATES_BOOST = 0.2
AFTERGLOW = timedelta(days=7)


@dataclass(frozen=True, slots=True)
class Facts:
    """What the boosts look at, a number for each row: seconds since 1970, and importance.

    An event without an importance has NaN.
    """

    times: Floats
    importance: Floats


def boosts(
    query: SearchQuery, facts: Facts, *, now: datetime, moments: Sequence[Moment]
) -> Mapping[str, Floats]:
    """The factors that the query asks for, by name; those that it does not are left out."""
    factors: dict[str, Floats] = {}
    if query.dates == "boost" and moments:
        factors["dates"] = dates_boost(facts.times, moments)
    if query.recency_half_life is not None:
        ages = now.timestamp() - facts.times
        factors["recency"] = recency_boost(ages, query.recency_half_life)
    if query.importance:
        factors["importance"] = importance_boost(facts.importance, query.importance)
    return factors


def recency_boost(ages: Floats, half_life: timedelta) -> Floats:
    """1 for what is new or still to come, towards 1 - RECENCY_SHARE with age (in seconds)."""
    lives = np.maximum(ages, 0.0) / half_life.total_seconds()
    return np.asarray(1 - RECENCY_SHARE * (1 - 0.5**lives))


def importance_boost(importance: Floats, weight: float) -> Floats:
    """1 + weight * importance, which counts from 0 to 1, and 0 where there is none."""
    return np.asarray(1 + weight * np.clip(np.nan_to_num(importance), 0.0, 1.0))


def dates_boost(times: Floats, moments: Sequence[Moment]) -> Floats:
    """1 + DATES_BOOST inside a moment, fading to 1 in the days after it; the best of several.

    A moment with an open end would favour half of the memory, and favours nothing.
    """
    gains = np.zeros(len(times))
    for moment in moments:
        if moment.since is not None and moment.until is not None:
            late = (times - moment.until.timestamp()) / AFTERGLOW.total_seconds()
            gain = np.where(late < 0, 1.0, np.clip(1 - late, 0.0, 1.0))
            gains = np.maximum(gains, np.where(times < moment.since.timestamp(), 0.0, gain))
    return np.asarray(1 + DATES_BOOST * gains)


def narrowed(query: SearchQuery, moments: Sequence[Moment]) -> SearchQuery:
    """The query bounded to the moments too, from the first of them to the end of the last."""
    if query.dates != "filter" or not moments:
        return query
    since = [query.since or _EARLIEST, min(one.since or _EARLIEST for one in moments)]
    until = [query.until or _LATEST, max(one.until or _LATEST for one in moments)]
    bounds = {
        "since": None if max(since) == _EARLIEST else max(since),
        "until": None if min(until) == _LATEST else min(until),
    }
    return query.model_copy(update=bounds)


_EARLIEST = datetime.min.replace(tzinfo=UTC)
_LATEST = datetime.max.replace(tzinfo=UTC)
