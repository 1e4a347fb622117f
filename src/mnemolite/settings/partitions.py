"""Settings of partitions by time: when they are advised, and how often they are looked after."""

from mnemolite.settings.groups import Group, env


class PartitionSettings(Group):
    """When partitions are worth their price, and how they are kept."""

    advice_events: int = env(
        "MNEMO_PARTITION_ADVICE_EVENTS",
        500_000,
        "Events from which `doctor`, `/v1/stats` and a metric advise partitions.",
        ge=1,
        le=1_000_000_000_000,
    )
    maintenance_seconds: float = env(
        "MNEMO_PARTITION_MAINTENANCE_SECONDS",
        3600.0,
        "How often a worker creates the partitions ahead; it does so at its start as well.",
        ge=1,
        le=604_800,
    )
