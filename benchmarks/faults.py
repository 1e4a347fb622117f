"""Kill -9 of the server, the worker or PostgreSQL at random moments, under parallel writers.

    python -m benchmarks.faults --kills 200

Sixteen writers post events and try again, each with its own `Idempotency-Key`, until they are
acknowledged; a listener follows the change feed and resumes it. Reported at the end, as JSON: what
was acknowledged and is lost or doubled, what is pending, what the feed missed or told twice, and
how long each part of the end took. The exit code is 1 unless nothing is amiss; the folder with the
logs is then kept.
"""

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from tests.faults.siege import MUST_BE_NONE, Siege, Victim


def say(progress: str) -> None:
    print(time.strftime("%H:%M:%S"), progress, file=sys.stderr, flush=True)


def besiege(siege: Siege, *, kills: int, writes_between: int, seconds: float) -> Counter[Victim]:
    """How often each victim was struck, in the time that there was."""
    struck: Counter[Victim] = Counter()
    deadline = time.monotonic() + seconds
    while struck.total() < kills and time.monotonic() < deadline:
        siege.wait_for_writes(writes_between)
        victim = siege.strike()
        struck[victim] += 1
        say(f"{struck.total()} kills, the last of {victim}; {len(siege.acknowledged)} events")
    siege.wait_for_writes(writes_between)
    return struck


def run(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    started = time.monotonic()
    pause = options.pause_seconds
    siege = Siege(folder, seed=options.seed, writers=options.writers, pause_seconds=pause, say=say)
    try:
        with siege.crowd():
            limits = {"kills": options.kills, "seconds": options.minutes * 60}
            struck = besiege(siege, writes_between=options.writers, **limits)
        account = siege.account()
    finally:
        siege.close()
    return {"kills": struck, "seconds": round(time.monotonic() - started), **account}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--writers", type=int, default=16)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--pause-seconds", type=float, default=0.15, help="of a writer")
    parser.add_argument("--minutes", type=float, default=60, help="at most")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="mnemolite-siege-"))
    say(f"all that is logged: {folder}")
    account = run(folder, options)
    print(json.dumps(account, indent=2))
    if any(account[name] for name in MUST_BE_NONE):
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
