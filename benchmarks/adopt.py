"""The adoption of a database of the old shape, offline and online under writes, in one run.

    python -m benchmarks.adopt --rows 100000

A database beside the memory's, on the same private server, is filled with events and vectors of
768 dimensions. It is adopted offline and taken back; then it is adopted online while it is written
to without a pause, and cut over. After each adoption all rows are compared one by one, in text, by
another program path than that of the adoption. Printed: the time of each step, what was written
meanwhile, and for how long the writers waited at most.
"""

import argparse
import json
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
from tests.acceptance.server import command, environment
from tests.foreign import ADOPTED, ROWS, connect

from mnemolite.local_postgres import open_local_postgres

DIMENSION = 768
_PAUSE_SECONDS = 0.02
_CREATE = f"""
CREATE EXTENSION vector;
CREATE TABLE events (id uuid NOT NULL, timestamp timestamptz NOT NULL, content jsonb NOT NULL,
    embedding vector({DIMENSION}), metadata jsonb DEFAULT '{{}}', PRIMARY KEY (id, timestamp))
"""
_FILL = """
INSERT INTO events
SELECT gen_random_uuid(), '2023-01-01'::timestamptz + n * interval '13 minutes 0.000123 seconds',
    jsonb_build_object('text', 'turn ' || n || ': ' || repeat(md5(n::text) || ' ', 6),
        'speaker', CASE n % 2 WHEN 0 THEN 'Ada' ELSE 'Bo' END),
    (SELECT array_agg(random() - 0.5)::vector FROM generate_series(1, {dimension}) i WHERE n > 0),
    jsonb_build_object('user', 'user ' || n % 20, 'session', n / 50, 'n', n)
FROM generate_series({first}, {last}) AS n
"""


@dataclass
class Writer:
    """Inserts, changes and deletes rows of the source, one at a time, until it is refused."""

    dsn: str
    rows: int
    written: int = 0
    longest_wait_seconds: float = 0.0
    inserted: set[str] = field(default_factory=set)
    refused: str = ""

    def run(self) -> None:
        with connect(self.dsn) as sql:
            while not self.refused:
                began = time.monotonic()
                try:
                    self._write(sql)
                except psycopg.errors.ObjectNotInPrerequisiteState as error:
                    self.refused = str(error.diag.message_primary)
                    return
                self.written += 1
                waited = time.monotonic() - began
                self.longest_wait_seconds = max(self.longest_wait_seconds, waited)
                time.sleep(_PAUSE_SECONDS)

    def _write(self, sql: psycopg.Connection[tuple[Any, ...]]) -> None:
        which = "SELECT id, timestamp FROM events TABLESAMPLE SYSTEM (0.1) LIMIT 1"
        match self.written % 5:
            case 0 | 1:
                row = sql.execute(
                    "INSERT INTO events (id, timestamp, content) VALUES (gen_random_uuid(), now(), "
                    """jsonb_build_object('text', 'written meanwhile')) RETURNING id::text"""
                ).fetchone()
                self.inserted.add(row[0] if row else "")
            case 2 | 3:
                change = f"""metadata = metadata || '{{"changed": {self.written}}}'"""
                sql.execute(
                    f"UPDATE events SET {change} WHERE (id, timestamp) IN ({which})".encode()
                )
            case 4:
                delete = f"DELETE FROM events WHERE (id, timestamp) IN ({which})"
                deleted = sql.execute(f"{delete} RETURNING id::text".encode()).fetchone()
                self.inserted.discard(deleted[0] if deleted else "")


def adopt(dsn: str, *options: str, folder: Path) -> dict[str, Any]:
    """Run the command; its report, and the seconds that it took."""
    arguments = command("db", "adopt", "--json", *(["--from", dsn] if dsn else []), *options)
    variables = environment(MNEMO_DATA_DIR=str(folder), EMBEDDING_MODE="mock")
    began = time.monotonic()
    done = subprocess.run(
        arguments, env=variables, cwd=folder.parent, text=True, capture_output=True, check=False
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    return {**json.loads(done.stdout), "seconds": time.monotonic() - began}


def stream(dsn: str, query: str) -> Iterator[tuple[Any, ...]]:
    with psycopg.connect(dsn, options="-c timezone=UTC") as sql, sql.cursor(name="rows") as cursor:
        cursor.itersize = 1000
        cursor.execute(query.encode())
        yield from cursor


def compare(source: str, memory: str, *, space: int) -> int:
    """The number of rows, all of them the same in text; ends the run at the first that is not."""
    rows = 0
    ours = stream(memory, ADOPTED.format(space=space))
    for theirs, mine in zip(stream(source, ROWS), ours, strict=True):
        if theirs != mine:
            raise SystemExit(f"Row {rows} differs:\n{theirs}\n{mine}")
        rows += 1
    return rows


def main(rows: int) -> None:
    with tempfile.TemporaryDirectory(prefix="adopt-") as temporary:
        folder = Path(temporary) / "data"
        Path(temporary).chmod(0o755)
        with open_local_postgres(folder, database="mnemolite") as server:
            memory, source = server.dsn(), server.dsn("foreign")
            with connect(server.dsn("postgres")) as sql:
                sql.execute("CREATE DATABASE foreign_ ENCODING 'UTF8' TEMPLATE template0")
                sql.execute('ALTER DATABASE foreign_ RENAME TO "foreign"')
            run(source, memory, folder=folder, rows=rows)


def run(source: str, memory: str, *, folder: Path, rows: int) -> None:
    with connect(source) as sql:
        sql.execute(_CREATE.encode())
        sql.execute(_FILL.format(dimension=DIMENSION, first=1, last=rows).encode())
        sql.execute("ANALYZE events")
    options = ("--space", "old-model", "--namespace-key", "metadata.user")
    preview = adopt(source, *options, "--dry-run", folder=folder)
    print(f"dry run: {preview['seconds']:.1f} s")

    offline = adopt(source, *options, folder=folder)
    print(f"offline: {offline['seconds']:.1f} s, {rows / offline['seconds']:.0f} rows/s")
    print(f"  {compare(source, memory, space=offline['state']['space'])} rows, all the same")
    print(f"  source {offline['source']}\n  memory {offline['target']}")
    rolled = adopt("", "--rollback", folder=folder)
    print(f"rollback: {rolled['seconds']:.1f} s")

    writer = Writer(source, rows)
    thread = threading.Thread(target=writer.run)
    thread.start()
    online = adopt(source, *options, "--online", folder=folder)
    print(f"online copy under writes: {online['seconds']:.1f} s, {writer.written} writes so far")
    cut = adopt(source, "--cutover", folder=folder)
    thread.join()
    print(f"cut-over: {cut['seconds']:.1f} s; {cut['notes'][0]}")
    print(f"  {compare(source, memory, space=cut['state']['space'])} rows, all the same")
    print(f"  source {cut['source']}\n  memory {cut['target']}")
    with connect(memory) as sql:
        ids = {row[0] for row in sql.execute("SELECT id::text FROM events")}
    print(
        f"  writes {writer.written}, of these lost {len(writer.inserted - ids)} of "
        f"{len(writer.inserted)} inserts; longest wait {writer.longest_wait_seconds:.2f} s"
    )
    print(f"  then: {writer.refused}")
    back = adopt(source, "--rollback", folder=folder)
    print(f"rollback after the cut-over: {back['seconds']:.1f} s")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", type=int, default=100_000)
    main(parser.parse_args().rows)
