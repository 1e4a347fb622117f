"""Settings of retention: how often workers apply it, and where they keep what goes."""

from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator

from mnemolite.settings.groups import Group, blank_is_unset, env


class RetentionSettings(Group):
    """How workers let go of what is too old."""

    check_seconds: float = env(
        "MNEMO_RETENTION_CHECK_SECONDS",
        3600.0,
        "How often workers apply the rules of retention. 0: never; a command does.",
        ge=0,
        le=86_400,
    )
    archive: Annotated[Path | None, BeforeValidator(blank_is_unset)] = env(
        "MNEMO_RETENTION_ARCHIVE",
        None,
        "Folder that workers write partitions to before they drop them.",
    )
