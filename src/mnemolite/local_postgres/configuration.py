"""The files that configure the server: managed ones, and where the user's own settings go."""

import re
import shutil
import sys
from collections.abc import Mapping

from mnemolite.errors import LocalPostgresError
from mnemolite.local_postgres.machine import current_user, memory, processors

ROLE = "mnemolite"
OVERRIDES = "postgresql.local.conf"
MANAGED = "mnemolite.conf"
MIB = 2**20

POSTGRESQL_CONF = f"""\
# Made once by MnemoLite and never touched again. Later lines win over earlier ones.
include '{MANAGED}'
include_if_exists '../{OVERRIDES}'
# Your own settings can stand here, or in the file above, which a later major version keeps.
"""

OVERRIDES_CONF = """\
# Your own PostgreSQL settings, one "name = value" a line. They win over MnemoLite's and are read at
# the next start. The Unix socket and the absence of a network port cannot be changed.
"""

# The socket lies in a folder of mode 0700, and PostgreSQL asks the kernel who is calling: only the
# owner of the data, and root, may come in, as any role. "trust" would be as simple, but would open
# the memory to everybody the day somebody widens that folder; a password would have to be kept in
# a file beside the data, where it protects nothing. A map is needed because the name of the system
# user (root, when a service account runs the server) is not the name of the role.
PG_HBA = """\
# Written by MnemoLite at every start.
local all         all peer map=mnemolite
local replication all peer map=mnemolite
"""


def pg_ident(owner: str) -> str:
    """Which users of the system may connect: the data's owner, we ourselves, and root."""
    names = sorted({owner, current_user(), "root"})
    lines = [f'mnemolite "{name}" all\n' for name in names]
    return "".join(["# Written by MnemoLite at every start.\n", *lines])


def managed_settings(extra: Mapping[str, str]) -> str:
    """The managed file: sized for this machine, durable, and then what the caller asked for."""
    settings = {**_sized(), **_FIXED, **extra}
    lines = [f"{_checked(name)} = {_quoted(value)}\n" for name, value in settings.items()]
    return "".join([f"# Written by MnemoLite at every start: put yours in {OVERRIDES}.\n", *lines])


_FIXED = {
    # An accepted event is on disk, whatever happens next.
    "fsync": "on",
    "full_page_writes": "on",
    "synchronous_commit": "on",
    # Writing comes in bursts (imports, embedding): few checkpoints, and room between them.
    "checkpoint_timeout": "15min",
    "max_wal_size": "2GB",
    "max_connections": "100",
    "shared_preload_libraries": "pg_stat_statements",
    "jit": "off",  # queries here take milliseconds: compiling them would cost more
    "random_page_cost": "1.1",
    "autovacuum_work_mem": "64MB",  # else every autovacuum worker takes maintenance_work_mem
    "timezone": "UTC",
    "log_timezone": "UTC",
    "lc_messages": "C",  # English, so that errors can be recognised
    # The log tells about the server; the statements and values in it would be people's memories.
    "log_destination": "stderr",
    "logging_collector": "off",
    "log_min_error_statement": "panic",
    "log_error_verbosity": "terse",
    "log_checkpoints": "off",
    "unix_socket_permissions": "0700",
}


def _sized() -> dict[str, str]:
    """Sizes for a machine of 2 to 8 GB that also runs MnemoLite and its model."""
    room, cores = memory() // MIB, processors()
    sizes = {
        "shared_buffers": _clamp(room // 6, low=64, high=8192),
        "effective_cache_size": _clamp(room // 2, low=256, high=65536),
        # An HNSW index is built many times faster when its graph fits.
        "maintenance_work_mem": _clamp(room // 8, low=64, high=2048),
        "work_mem": _clamp(room // 256, low=4, high=32),
    }
    return {
        **{name: f"{size}MB" for name, size in sizes.items()},
        "max_worker_processes": str(8 + cores),
        "max_parallel_workers": str(cores),
        "max_parallel_workers_per_gather": str(_clamp(cores // 2, low=0, high=4)),
        "max_parallel_maintenance_workers": str(_clamp(cores - 1, low=0, high=7)),
        "dynamic_shared_memory_type": _shared_memory_type(),
    }


def _shared_memory_type() -> str:
    # A parallel index build shares maintenance_work_mem. Containers have 64 MB of /dev/shm unless
    # told otherwise, and the build would end with "No space left on device".
    try:
        small = shutil.disk_usage("/dev/shm").total < 2048 * MIB
    except OSError:
        small = sys.platform == "linux"
    return "mmap" if small else "posix"


def _clamp(value: int, *, low: int, high: int) -> int:
    return max(low, min(value, high))


def _checked(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.]*", name):
        raise LocalPostgresError(f"{name!r} is not the name of a PostgreSQL setting.")
    return name


def _quoted(value: str) -> str:
    if "\n" in value or "\0" in value:
        raise LocalPostgresError(f"The PostgreSQL setting {value!r} must be one line.")
    return "'" + value.replace("\\", "\\\\").replace("'", "''") + "'"
