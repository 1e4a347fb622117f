"""Settings of what surrounds the database: the memory of idempotency keys, a read replica."""

from mnemolite.settings.groups import Group, OptionalText, env


class IdempotencySettings(Group):
    """How long a request can be sent again under its key."""

    hours: int = env(
        "MNEMO_IDEMPOTENCY_HOURS",
        24,
        "Hours that an Idempotency-Key is remembered with the answer to its request.",
        ge=1,
        le=8760,
    )


class ReplicaSettings(Group):
    """A standby that searches are sent to, if there is one."""

    url: OptionalText = env(
        "MNEMO_READ_DATABASE_URL",
        None,
        "A streaming replica of the database for searches. Unset: the primary searches too.",
    )
    max_lag_seconds: float = env(
        "MNEMO_READ_MAX_LAG_SECONDS",
        30.0,
        "A replica that lags further behind is not searched until it has caught up.",
        gt=0,
        le=86_400,
    )
