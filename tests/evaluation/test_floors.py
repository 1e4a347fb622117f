"""What retrieval must not fall below, measured by the command on public questions.

The corpora are not part of the repository: without them these tests are skipped. The floors are
what was reached, less one point, and only ever rise.
"""

import json
from pathlib import Path

import pytest

from tests.acceptance.server import run

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"

FLOORS = [
    ("locomo", [], {"recall@5": 0.706, "recall@10": 0.782}),
    ("piaf_fr", ["--language", "french", "--limit", "1500"], {"recall@10": 0.885}),
]


@pytest.mark.skipif(not DATA.is_dir(), reason="the corpora are not here")
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("corpus", "options", "floors"), FLOORS)
def test_recall_stays_above_its_floor(
    tmp_path: Path, corpus: str, options: list[str], floors: dict[str, float]
) -> None:
    files = [str(DATA / f"{corpus}.{part}.jsonl.gz") for part in ("corpus", "queries")]
    arguments = ["eval", *files, *options, "--json", "--data-dir", str(tmp_path / "data")]
    measured = run(*arguments, cwd=tmp_path, variables={}, timeout=1100)
    assert measured.returncode == 0, measured.stderr
    overall = json.loads(measured.stdout)["modes"]["hybrid"]["overall"]
    for name, floor in floors.items():
        assert overall[name] >= floor, overall
