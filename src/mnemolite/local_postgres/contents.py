"""What a data folder holds: ours, a stranger's, or that of another major version."""

import re
from pathlib import Path

from mnemolite.errors import LocalPostgresError
from mnemolite.local_postgres.configuration import OVERRIDES
from mnemolite.local_postgres.machine import FIELD

BROKEN = "Restore a backup, or move the data folder aside to start with an empty memory."

_OURS = {"locks", "logs", "run", OVERRIDES, "lost+found", ".DS_Store"}


def check_contents(data_dir: Path, major: int) -> None:
    """Refuse a folder that is not ours, or that another major version wrote."""
    names = {entry.name for entry in data_dir.iterdir()}
    found = {name for name in names if re.fullmatch(r"postgres-\d+", name)}
    ours = f"postgres-{major}"
    if ours in found:
        _check_version(data_dir / ours, major)
    elif found:
        raise _wrong_version(data_dir, found=max(int(name[9:]) for name in found), wanted=major)
    strange = {name for name in names - found - _OURS if not name.startswith("initdb-")}
    if strange and not found:
        raise LocalPostgresError(
            f"The folder {data_dir} is not empty and not MnemoLite's: it holds {min(strange)}.",
            field=FIELD,
            remedy="Choose an empty or a new folder.",
        )


def _check_version(pgdata: Path, major: int) -> None:
    try:
        version = (pgdata / "PG_VERSION").read_text().strip()
    except FileNotFoundError as error:
        raise LocalPostgresError(
            f"{pgdata} is damaged: it has no PG_VERSION.", field=FIELD, remedy=BROKEN
        ) from error
    if version != str(major):
        raise _wrong_version(pgdata, found=version, wanted=major)


def _wrong_version(folder: Path, *, found: object, wanted: int) -> LocalPostgresError:
    return LocalPostgresError(
        f"{folder} was written by PostgreSQL {found}; this MnemoLite brings PostgreSQL {wanted}.",
        field=FIELD,
        remedy=(
            f"Dump it with pg_dump of PostgreSQL {found} (a MnemoLite that brings that version"
            f" can open it) and restore the dump into a new data folder, or choose another folder."
        ),
    )
