"""What reads the whole memory reads a partitioned one alike: backups and exports."""

from pathlib import Path

from mnemolite import backup
from mnemolite.import_export.exports import write_export
from mnemolite.memory import Memory
from mnemolite.models import ExportQuery, LayoutWish
from mnemolite.settings import DatabaseSettings
from mnemolite.worker import Worker
from tests.integration.test_migrations import catalog
from tests.laid_out import content, fill


async def test_a_backup_holds_the_partitions(
    memory: Memory, dsn: str, empty_dsn: str, tmp_path: Path
) -> None:
    await fill(memory, 20)
    await Worker(memory).drain()
    await memory.layout.enable(LayoutWish())
    before = content(dsn)
    path = tmp_path / "memory.backup"
    manifest = backup.back_up(memory.settings.database, path)
    assert manifest.tables["events"] == 22
    assert "events_default" not in manifest.tables
    _, findings = backup.restore(DatabaseSettings(url=empty_dsn), path)
    assert all(finding.ok for finding in findings)
    assert content(empty_dsn) == before
    assert catalog(empty_dsn)["triggers"] == catalog(dsn)["triggers"]
    assert catalog(empty_dsn)["indexes"] == catalog(dsn)["indexes"]


async def test_an_export_is_the_same_in_each_layout(memory: Memory, tmp_path: Path) -> None:
    await fill(memory, 20)
    await Worker(memory).drain()
    query = ExportQuery()
    written = []
    for number, change in enumerate(
        (None, memory.layout.enable(LayoutWish(), split=False), memory.layout.split())
    ):
        if change is not None:
            await change
        path = tmp_path / f"{number}.jsonl"
        await write_export(memory, query, path=str(path), with_vectors=True)
        written.append(path.read_text().splitlines()[1:])  # without the header and its time
    assert len(written[0]) >= 22
    assert written[1] == written[0]
    assert written[2] == written[0]
