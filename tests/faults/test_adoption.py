"""An adoption that is killed at any stage goes on when its command is run again."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal
from uuid import UUID

import psycopg
import pytest

from mnemolite.memory import Memory
from mnemolite.models import NewEvent
from mnemolite.settings import Settings
from tests import foreign
from tests.acceptance.server import command, environment
from tests.conftest import _fresh_database
from tests.faults.test_reembed import held, wait_until_blocked, wait_until_gone

Side = Literal["source", "memory"]
Stage = tuple[str, Side, str]

ROWS = 60
BEGIN = ("--online", "--space", "old-model", "--batch", "20")
# What somebody else holds, and on which side, so that the command is killed at that very place.
ADOPTING: tuple[Stage, ...] = (
    ("the space is made", "memory", "LOCK TABLE embedding_spaces IN EXCLUSIVE MODE"),
    ("the source is watched", "source", "LOCK TABLE events IN ROW EXCLUSIVE MODE"),
    (
        "two batches of three are copied",
        "memory",
        "INSERT INTO events (id, timestamp, content) VALUES ('{id}', '{timestamp}', '{{}}')",
    ),
    ("it is taken up again", "memory", "SELECT FROM adoptions FOR UPDATE"),
)
CUTTING: tuple[Stage, ...] = (
    ("the memory is watched", "memory", "LOCK TABLE events IN ROW EXCLUSIVE MODE"),
    ("the source is locked", "source", "LOCK TABLE events IN ROW EXCLUSIVE MODE"),
    (
        "changes are taken off the log",
        "source",
        "SELECT FROM mnemolite_adoption.changes FOR UPDATE",
    ),
    (
        "the source is blocked, the memory does not know",
        "memory",
        "SELECT FROM adoptions FOR UPDATE",
    ),
)
GIVING_BACK: tuple[Stage, ...] = (
    ("a row is written back", "source", "SELECT FROM events FOR UPDATE"),
    ("what was written back is noted", "memory", "SELECT FROM adoption_changes FOR UPDATE"),
    ("the memory is locked", "memory", "LOCK TABLE events IN ROW EXCLUSIVE MODE"),
    ("traces are removed", "source", "LOCK TABLE events IN ACCESS SHARE MODE"),
    ("the memory does not know", "memory", "SELECT FROM adoptions FOR UPDATE"),
)
REMOVING: tuple[Stage, ...] = (
    ("events are removed", "memory", "SELECT FROM adopted_events FOR UPDATE"),
    ("the space is dropped", "memory", "SELECT FROM embedding_spaces FOR UPDATE"),
)


@pytest.fixture
def source(server_dsn: str) -> Iterator[str]:
    for dsn in _fresh_database(server_dsn, "template0"):
        foreign.create(dsn)
        foreign.fill(dsn, 1, ROWS)
        yield dsn


class Adoption:
    """``mnemolite db adopt`` as an operator runs it, and as it is killed on the way."""

    def __init__(self, source: str, memory: str, folder: Path) -> None:
        self.dsns: dict[Side, str] = {"source": source, "memory": memory}
        self._folder = folder
        # Nothing here is about time: a busy machine must not end a command.
        patience = {"MNEMO_POOL_TIMEOUT_SECONDS": "60"}
        self._variables = {"DATABASE_URL": memory, "EMBEDDING_MODE": "mock", **patience}

    def run(self, *options: str) -> dict[str, Any]:
        process = self._start(*options)
        stdout, stderr = process.communicate(timeout=120)
        assert process.returncode == 0, stderr
        found: dict[str, Any] = json.loads(stdout)
        return found

    def kill(self, stage: Stage, *options: str) -> None:
        """Run it until it waits for what is held, and kill it there."""
        _, side, statement = stage
        late, timestamp, *_ = foreign.rows(self.dsns["source"])[50]
        statement = statement.format(id=late, timestamp=timestamp)
        with foreign.connect(self.dsns[side]) as watching, held(self.dsns[side], statement):
            process = self._start(*options)
            wait_until_blocked(watching, process)
            process.kill()
            process.communicate()
            # Its connection dies with it, or the server would still do what it waits for.
            watching.execute(
                "SELECT pg_terminate_backend(l.pid) FROM pg_locks l JOIN pg_stat_activity a "
                "USING (pid) WHERE NOT l.granted AND a.datname = current_database()"
            )
        for dsn in self.dsns.values():
            with foreign.connect(dsn) as watching:
                wait_until_gone(watching)

    def _start(self, *options: str) -> subprocess.Popen[str]:
        arguments = ("db", "adopt", "--json", "--from", self.dsns["source"], *options)
        return subprocess.Popen(
            command(*arguments),
            env=environment(**self._variables),
            cwd=self._folder,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )


@pytest.fixture
async def adopting(settings: Settings, dsn: str, source: str, tmp_path: Path) -> Adoption:
    async with Memory.open(settings) as memory:
        await memory.add(NewEvent(content={"text": "was here before"}, namespace="mine"))
    return Adoption(source, dsn, tmp_path)


def cut_over(adopting: Adoption, *, stages: tuple[Stage, ...]) -> int:
    """Adopt online and cut over, killed at each stage, the source written to in between."""
    written = ROWS
    for stage in ADOPTING if stages else ():
        adopting.kill(stage, *BEGIN)
        foreign.fill(adopting.dsns["source"], written + 1, written + 2)
        written += 2
    adopting.run(*BEGIN)
    for number, stage in enumerate(stages):
        foreign.fill(adopting.dsns["source"], written + 1, written + 2)
        written += 2
        adopting.kill(stage, "--cutover")
        assert number < len(stages) - 1 or adopting.run("--status")["phase"] == "copied"
    cut = adopting.run("--cutover")
    assert cut["source"] == cut["target"]
    assert cut["source"]["rows"] == written
    return int(cut["state"]["space"])


@pytest.mark.timeout(900)
async def test_an_adoption_goes_on_after_a_kill_at_any_stage(
    settings: Settings, adopting: Adoption
) -> None:
    source, memory = adopting.dsns["source"], adopting.dsns["memory"]
    space = cut_over(adopting, stages=CUTTING)
    with foreign.connect(memory) as sql:
        mine = sql.execute("SELECT id::text FROM events WHERE namespace = 'mine'").fetchall()
    found = [row for row in foreign.adopted(memory, space) if row[:1] not in mine]
    assert found == foreign.rows(source)
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):
        foreign.fill(source, 1000, 1000)
    adopting.run("--finish")
    foreign.fill(source, 1000, 1000)


@pytest.mark.timeout(900)
async def test_a_rollback_goes_on_after_a_kill_at_any_stage(
    settings: Settings, adopting: Adoption
) -> None:
    source, memory = adopting.dsns["source"], adopting.dsns["memory"]
    space = cut_over(adopting, stages=())
    patient = settings.database.model_copy(update={"pool_timeout_seconds": 60.0})
    settings = settings.model_copy(update={"database": patient})
    before = foreign.rows(source)
    for number, stage in enumerate(GIVING_BACK):
        async with Memory.open(settings, with_model=False) as opened:
            await opened.merge_metadata(UUID(before[number][0]), {"changed": number})
            await opened.delete(UUID(before[20 + number][0]))
            await opened.add(NewEvent(content={"text": f"new {number}"}))
        adopting.kill(stage, "--rollback")
    adopting.run("--rollback")
    with foreign.connect(memory) as sql:
        mine = sql.execute("SELECT id::text FROM events WHERE namespace = 'mine'").fetchall()
    after = foreign.rows(source)
    assert [row for row in foreign.adopted(memory, space) if row[:1] not in mine] == after
    assert {row[0] for row in before} - {row[0] for row in after} == {
        row[0] for row in before[20:25]
    }
    assert len(after) == ROWS
    foreign.fill(source, 1000, 1001)
    for stage in REMOVING:
        adopting.kill(stage, "--rollback")
    adopting.run("--rollback")
    assert len(foreign.rows(source)) == ROWS + 2
    with foreign.connect(memory) as sql:
        left = sql.execute("SELECT content ->> 'text' FROM events ORDER BY 1").fetchall()
        assert left == [*((f"new {number}",) for number in range(5)), ("was here before",)]
        assert sql.execute("SELECT count(*) FROM adoptions").fetchall() == [(0,)]
        registered = "SELECT count(*) FROM embedding_spaces WHERE id = %s"
        assert sql.execute(registered, [space]).fetchall() == [(0,)]
