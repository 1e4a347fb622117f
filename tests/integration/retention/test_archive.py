"""Partitions are written to files that an import makes the same events of."""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from mnemolite import retention
from mnemolite.errors import InvalidInputError
from mnemolite.import_export import import_events, open_lines
from mnemolite.memory import Memory
from mnemolite.models import NewEvent, RetentionRule
from mnemolite.retention import Options
from mnemolite.settings import Settings
from tests.conftest import _fresh_database
from tests.integration.retention.conftest import Look, assert_consistent, month, settle
from tests.integration.retention.test_drops import age_of
from tests.integration.test_export import rows

_EVENTS = (
    "SELECT id, namespace, session, timestamp, created_at, content::text, metadata::text, text, "
    "language::text, lexemes::text, words FROM events WHERE timestamp < '2020-02-01' ORDER BY id"
)
AWKWARD = '{"text": "1.10 日本語 \\"q\\" é 🎉 \\u2028", "n": 123456789012345678901, "p": 1.10}'


@pytest.fixture
def other_dsn(server_dsn: str, template: str) -> Iterator[str]:
    yield from _fresh_database(server_dsn, template)


async def test_an_archive_imports_to_the_same_events(
    months: Memory, settings: Settings, dsn: str, other_dsn: str, look: Look, tmp_path: Path
) -> None:
    await months.events.add_namespaces(["français"], "french")
    insert = "INSERT INTO events (namespace, content, timestamp) VALUES ('français', %s, %s)"
    look(insert, AWKWARD, month(1).replace(day=9, microsecond=7))
    await settle(months)
    before = rows(dsn, _EVENTS)
    assert len(before) == 31
    options = Options(older_than=age_of(month(2)), archive=tmp_path)
    (outcome,) = await retention.run(months, options)
    path = tmp_path / "events_p20200101.jsonl.gz"
    assert [one.archive for one in outcome.partitions] == [str(path)]
    assert [one.name for one in tmp_path.iterdir()] == [path.name]
    assert_consistent(look)

    first, *_, last = gzip.decompress(path.read_bytes()).decode().split("\n")[:-1]
    assert json.loads(first)["version"] == 1
    assert json.loads(first)["filters"] == {
        "since": "2020-01-01T00:00:00Z", "until": "2020-02-01T00:00:00Z",
    }  # fmt: skip
    assert json.loads(last) == {"mnemolite": "end", "events": 31}
    database = settings.database.model_copy(update={"url": other_dsn})
    async with Memory.open(settings.model_copy(update={"database": database})) as other:
        with open_lines(str(path)) as lines:
            report = await import_events(other, lines)
    assert (report.stored, report.bad) == (31, 0)
    assert rows(other_dsn, _EVENTS) == before


async def test_no_archive_is_overwritten(months: Memory, tmp_path: Path) -> None:
    options = Options(older_than=age_of(month(2)), archive=tmp_path)
    (tmp_path / "events_p20200101.jsonl.gz").write_text("somebody else's")
    (outcome,) = await retention.run(months, options)
    assert [one.archive for one in outcome.partitions] == [
        str(tmp_path / "events_p20200101.2.jsonl.gz")
    ]
    assert (tmp_path / "events_p20200101.jsonl.gz").read_text() == "somebody else's"


async def test_only_whole_partitions_go_when_they_are_archived(
    months: Memory, look: Look, tmp_path: Path
) -> None:
    await months.add(NewEvent(timestamp=month(5, 1999), content={"text": "before any range"}))
    options = Options(older_than=age_of(month(2)), archive=tmp_path)
    (seen,) = await retention.preview(months, options)
    (outcome,) = await retention.run(months, options)
    assert (seen.deleted, seen.left) == (outcome.deleted, outcome.left) == (0, 1)
    assert look("SELECT count(*) AS n FROM events WHERE timestamp < '2020-02-01'") == [{"n": 1}]


async def test_a_partition_is_put_back_when_its_file_cannot_be_written(
    months: Memory, dsn: str, look: Look, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = rows(dsn, _EVENTS)
    folder = tmp_path / "archive"
    folder.mkdir()
    # The folder goes between the look at it and the file: the log names another one.
    look(
        "CREATE FUNCTION elsewhere() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "NEW.archive := '/nowhere/at/all.jsonl.gz'; RETURN NEW; END $$"
    )
    look(
        "CREATE TRIGGER elsewhere BEFORE INSERT ON retention_log FOR EACH ROW "
        "WHEN (NEW.archive IS NOT NULL) EXECUTE FUNCTION elsewhere()"
    )
    (outcome,) = await retention.run(months, Options(older_than=age_of(month(3)), archive=folder))
    (partition,) = outcome.partitions
    assert "/nowhere/at/all" in str(partition.error)
    assert (outcome.deleted, outcome.left) == (0, 60)
    assert rows(dsn, _EVENTS) == before
    assert look("SELECT count(*) AS n FROM events_p20200101") == [{"n": 30}]
    (entry,) = await retention.entries(months, limit=5)
    assert (entry.step, entry.events) == ("put back", 0)
    await settle(months)
    assert_consistent(look)


async def test_in_a_plain_table_nothing_is_archived_and_rules_go_on(
    memory: Memory, look: Look, tmp_path: Path
) -> None:
    await memory.add(NewEvent(timestamp=month(1), content={"text": "a"}, metadata={"kind": "b"}))
    await memory.add(NewEvent(timestamp=month(1), content={"text": "c"}))
    for options in (
        Options(older_than="1 day", archive=tmp_path),
        Options(older_than="1 day", keep=True),
    ):
        (outcome,) = await retention.run(memory, options)
        assert (outcome.deleted, outcome.left) == (0, 2)
    rule = RetentionRule(name="r", max_age="1 day", where={"kind": "b"})
    await retention.add_rule(memory.database, rule)
    (outcome,) = await retention.run(memory, Options(archive=tmp_path))
    assert (outcome.deleted, outcome.left) == (1, 0)
    assert look("SELECT text FROM events") == [{"text": "c"}]


async def test_a_folder_that_is_none(months: Memory, look: Look, tmp_path: Path) -> None:
    for path in (tmp_path / "no", tmp_path / "file"):
        (tmp_path / "file").touch()
        with pytest.raises(InvalidInputError, match=r"archive: .*is no folder"):
            await retention.run(months, Options(older_than=age_of(month(3)), archive=path))
    assert look("SELECT count(*) AS n FROM events") == [{"n": 180}]
