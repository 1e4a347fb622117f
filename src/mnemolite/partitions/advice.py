"""The rule of thumb: whether partitions are worth their price, by which intervals; no I/O."""

from typing import Literal

from mnemolite.models import PartitionAdvice, PartitionFigures, Verdict
from mnemolite.partitions.ranges import Interval

# Of fewer searches on record nobody can tell a share.
ENOUGH_SEARCHES = 20
_FEW_BOUNDED = 0.2
# Events a month up to which a partition of so long stays handy: some 2,000,000 at most.
_INTERVALS: tuple[tuple[int, Interval], ...] = (
    (20_000, "year"),
    (100_000, "quarter"),
    (2_000_000, "month"),
    (8_000_000, "week"),
)
_EMBEDDINGS: tuple[tuple[int, Interval], ...] = ((200_000, "year"), (1_000_000, "quarter"))
_SOON_MONTHS = 6


def interval_for(events_per_month: int) -> Interval:
    """How long a partition of events should be."""
    return next((name for most, name in _INTERVALS if events_per_month <= most), "day")


def embeddings_interval_for(
    events_per_month: int, bounded_share: float | None
) -> Interval | Literal["none"]:
    """How long a partition of embeddings should be: coarser, for an index each is what costs."""
    if bounded_share is not None and bounded_share < _FEW_BOUNDED:
        return "none"
    return next((name for most, name in _EMBEDDINGS if events_per_month <= most), "month")


def advise(figures: PartitionFigures) -> PartitionAdvice:
    """What to do, why, and with which command."""
    share = _bounded_share(figures)
    reasons = [_size(figures), _growth(figures), _searches(figures, share)]
    if figures.mode == "unpartitioned":
        verdict = _before(figures, share, reasons=reasons)
    else:
        verdict = _after(figures, reasons)
    return PartitionAdvice(
        verdict=verdict,
        reasons=reasons,
        command=_command(verdict, figures, share=share),
        figures=figures,
    )


def _before(figures: PartitionFigures, share: float | None, *, reasons: list[str]) -> Verdict:
    if figures.events < figures.threshold:
        reasons.append("Below the threshold partitions only cost: a search must look into each.")
        return "stay"
    if share is not None and share < _FEW_BOUNDED:
        reasons.append(
            "Searches without bounds of time look into every partition, so they gain nothing; "
            "partition to drop old months whole, or leave it."
        )
        return "optional"
    reasons.append("Past the threshold, bounded searches and the dropping of months pay.")
    return "enable"


def _after(figures: PartitionFigures, reasons: list[str]) -> Verdict:
    if figures.events < figures.threshold // 2 and figures.retention is None:
        reasons.append("At this size, and without a retention, partitions only cost.")
        return "disable"
    fitting = interval_for(figures.events_per_month)
    if fitting != figures.interval:
        reasons.append(
            f"At this growth a partition for each {fitting} would fit better than one for each "
            f"{figures.interval}."
        )
    return "keep"


def _command(verdict: Verdict, figures: PartitionFigures, *, share: float | None) -> str | None:
    if verdict == "disable":
        return "mnemolite partitions disable"
    if verdict not in ("enable", "optional"):
        return None
    interval = interval_for(figures.events_per_month)
    embeddings = embeddings_interval_for(figures.events_per_month, share)
    return f"mnemolite partitions enable --interval {interval} --embeddings-interval {embeddings}"


def _bounded_share(figures: PartitionFigures) -> float | None:
    if figures.searches < ENOUGH_SEARCHES:
        return None
    return figures.bounded_searches / figures.searches


def _size(figures: PartitionFigures) -> str:
    where = "below" if figures.events < figures.threshold else "not below"
    return f"About {figures.events:,} events, {where} the threshold of {figures.threshold:,}."


def _growth(figures: PartitionFigures) -> str:
    said = f"About {figures.events_per_month:,} events of the last 30 days"
    left = figures.threshold - figures.events
    if left <= 0 or not figures.events_per_month:
        return f"{said}."
    months = left / figures.events_per_month
    if months > _SOON_MONTHS:
        return f"{said}: the threshold is more than {_SOON_MONTHS} months away."
    return f"{said}: the threshold is reached in about {max(1, round(months))} months."


def _searches(figures: PartitionFigures, share: float | None) -> str:
    if share is None:
        return (
            f"{figures.searches} explained searches are on record, of which a share with bounds "
            f"of time cannot be told ({ENOUGH_SEARCHES} are needed)."
        )
    return f"{share:.0%} of {figures.searches:,} explained searches have bounds of time."
