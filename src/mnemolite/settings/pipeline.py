"""Settings of the way from an event to its vectors: when it is not well, and when it is full."""

from mnemolite.settings.groups import Group, env


class PipelineSettings(Group):
    """What readiness tolerates, and how much may wait to be embedded."""

    ready_max_pending_seconds: float = env(
        "MNEMO_READY_MAX_PENDING_SECONDS",
        86_400.0,
        "Longest time an event may be due to be embedded before readiness turns red.",
        gt=0,
        le=31_536_000,
    )
    ready_max_idle_seconds: float = env(
        "MNEMO_READY_MAX_IDLE_SECONDS",
        120.0,
        "Longest time without a success of any worker, while events wait, before it turns red.",
        ge=1,
        le=86_400,
    )
    max_pending: int = env(
        "MNEMO_MAX_PENDING",
        0,
        "Events that may wait to be embedded before writes are answered 503. 0: no limit.",
        ge=0,
        le=1_000_000_000,
    )
