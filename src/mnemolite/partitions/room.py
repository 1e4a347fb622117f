"""Room on the disk: a table that is laid out anew stands there twice for a while."""

import shutil
from pathlib import Path

from mnemolite.database import Connection
from mnemolite.errors import DatabaseFullError
from mnemolite.sql import load

_queries = load("relayout")

# Indexes that are built at once are no larger than those that have grown; the log of PostgreSQL
# comes on top.
_MARGIN = 1.2
_MIB = 2**20


async def refuse_lack_of_room(connection: Connection, table: str) -> None:
    """Raise DatabaseFullError when the server's disk cannot hold the table a second time.

    Only the disk of a server on this machine can be looked at.
    """
    size = await (await connection.execute(_queries["size"], {"table": table})).fetchone()
    needed = round((size or {}).get("bytes", 0) * _MARGIN)
    free = await _free_bytes(connection)
    if free is not None and needed > free:
        raise DatabaseFullError(
            f"{table} is copied into its new layout, which needs about {needed // _MIB:,} MiB; "
            f"{free // _MIB:,} MiB are free.",
            remedy="Free some space where PostgreSQL keeps its data, or give it a larger disk. "
            "Nothing has been changed.",
        )


async def _free_bytes(connection: Connection) -> int | None:
    if not connection.info.host.startswith("/"):
        return None
    row = await (await connection.execute(_queries["data_directory"])).fetchone()
    if not row or not row["path"]:
        return None
    # The private server may know its folder by a descriptor that it holds.
    own = f"/proc/{connection.info.backend_pid}/"
    path = Path(row["path"].replace("/proc/self/", own, 1))
    try:
        return shutil.disk_usage(path).free
    except OSError:  # not on this machine after all, or not for us to see
        return None
