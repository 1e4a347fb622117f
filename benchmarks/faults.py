"""Kill -9 of the server, the worker or PostgreSQL at random moments, under parallel writers.

    python -m benchmarks.faults --kills 200

Sixteen writers post events and try again, each with its own `Idempotency-Key`, until they are
acknowledged; a reader follows the change feed and resumes it. Reported at the end, as JSON: what
was acknowledged and is lost or doubled, what is pending, and what the feed missed or told twice.
The exit code is 1 unless all of these are 0.
"""

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.faults.siege import Siege

_NONE_OF = ("lost", "lost_ids", "doubled", "pending", "embeddings_too_many")
_NOR_OF = ("feed_missing", "feed_doubled")


def say(progress: str) -> None:
    print(progress, file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--writers", type=int, default=16)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--pause-seconds", type=float, default=0.15, help="of a writer")
    parser.add_argument("--minutes", type=float, default=60, help="at most")
    options = parser.parse_args()
    struck: Counter[str] = Counter()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        siege = Siege(
            Path(folder),
            seed=options.seed,
            writers=options.writers,
            pause_seconds=options.pause_seconds,
            say=say,
        )
        try:
            with siege.crowd():
                while struck.total() < options.kills:
                    siege.wait_for_writes(options.writers)
                    struck[siege.strike()] += 1
                    if struck.total() % 10 == 0:
                        say(f"{struck.total()} kills, {len(siege.acknowledged)} events")
                    if time.monotonic() - started > options.minutes * 60:
                        break
                siege.wait_for_writes(options.writers)
            account = siege.account()
        finally:
            siege.close()
    seconds = round(time.monotonic() - started)
    print(json.dumps({"kills": struck, "seconds": seconds, **account}, indent=2))
    return int(any(account[name] for name in (*_NONE_OF, *_NOR_OF)))


if __name__ == "__main__":
    sys.exit(main())
