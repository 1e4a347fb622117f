"""Settings of what surrounds the database: the memory of idempotency keys."""

from mnemolite.settings.groups import Group, env


class IdempotencySettings(Group):
    """How long a request can be sent again under its key."""

    hours: int = env(
        "MNEMO_IDEMPOTENCY_HOURS",
        24,
        "Hours that an Idempotency-Key is remembered with the answer to its request.",
        ge=1,
        le=8760,
    )
