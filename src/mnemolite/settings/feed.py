"""Settings of the change feed."""

from mnemolite.settings.groups import Group, env


class FeedSettings(Group):
    """How long changes are kept, and how they are streamed."""

    hours: float = env(
        "MNEMO_FEED_HOURS",
        72.0,
        "Hours that changes are kept for readers that come back.",
        gt=0,
        le=8784,
    )
    poll_seconds: float = env(
        "MNEMO_FEED_POLL_SECONDS",
        1.0,
        "Longest time between two looks for changes; a notification wakes the reader sooner.",
        gt=0,
        le=60,
    )
    keep_alive_seconds: float = env(
        "MNEMO_FEED_KEEP_ALIVE_SECONDS",
        15.0,
        "Longest silence of a stream; then a comment is sent.",
        gt=0,
        le=600,
    )
    stall_seconds: float = env(
        "MNEMO_FEED_STALL_SECONDS",
        30.0,
        "How long a client may take nothing before its stream is ended.",
        gt=0,
        le=600,
    )
    buffer: int = env(
        "MNEMO_FEED_BUFFER",
        1000,
        "Changes held in memory for one stream; what comes beyond is read from the database.",
        ge=1,
        le=100_000,
    )
    streams: int = env(
        "MNEMO_FEED_STREAMS", 1000, "Streams that one process serves; more get 503.", ge=1
    )
