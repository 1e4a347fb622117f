"""Settings of webhooks."""

from mnemolite.settings.groups import Group, env


class WebhookSettings(Group):
    """Which targets may be called, how patiently, and how long the log is kept."""

    allow_private: bool = env(
        "MNEMO_WEBHOOK_ALLOW_PRIVATE",
        False,
        "Whether targets may lie on this machine or in a private network.",
    )
    timeout_seconds: float = env(
        "MNEMO_WEBHOOK_TIMEOUT_SECONDS",
        10.0,
        "Longest time of one request, from the look for the host to the answer.",
        gt=0,
        le=120,
    )
    parallel: int = env(
        "MNEMO_WEBHOOK_PARALLEL", 8, "Requests to one target at the same time.", ge=1, le=64
    )
    poll_seconds: float = env(
        "MNEMO_WEBHOOK_POLL_SECONDS",
        1.0,
        "Longest time between two looks for what to deliver; a notification wakes it sooner.",
        gt=0,
        le=60,
    )
    max_attempts: int = env(
        "MNEMO_WEBHOOK_MAX_ATTEMPTS", 15, "Tries before a delivery is given up.", ge=1, le=100
    )
    retry_seconds: float = env(
        "MNEMO_WEBHOOK_RETRY_SECONDS",
        5.0,
        "Wait before the second try of a delivery; doubled for each later one.",
        gt=0,
        le=3600,
    )
    retry_max_seconds: float = env(
        "MNEMO_WEBHOOK_RETRY_MAX_SECONDS",
        3600.0,
        "Longest wait between two tries, unless the target asks for more.",
        gt=0,
        le=86_400,
    )
    log_days: int = env(
        "MNEMO_WEBHOOK_LOG_DAYS", 7, "Days that ended deliveries are kept.", ge=1, le=3650
    )
    dead_days: int = env(
        "MNEMO_WEBHOOK_DEAD_DAYS", 30, "Days that given up deliveries are kept.", ge=1, le=3650
    )
