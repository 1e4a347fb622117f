"""What retrieval must not fall below, measured by the command on public questions.

The corpora are not part of the repository: without them these tests are skipped. The floors are
what was reached, less one point, and only ever rise. Of the two corpora of long texts, which take
minutes to embed, only a part is used, and its figures are not those of the whole.
"""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.server import run

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"

Rows = list[dict[str, Any]]


def all_of_it(documents: Rows, _: Rows) -> Rows:
    return documents


def every_fourth_conversation(documents: Rows, _: Rows) -> Rows:
    scopes = sorted({row["scope"] for row in documents})[::4]
    return [row for row in documents if row["scope"] in scopes]


def the_wanted_and_every_fourth_text(documents: Rows, questions: Rows) -> Rows:
    wanted = {name for question in questions for name in question["relevant"]}
    return [row for n, row in enumerate(documents) if n % 4 == 0 or row["doc_id"] in wanted]


FLOORS = [
    ("locomo", all_of_it, [], {"recall@5": 0.711, "recall@10": 0.784}),
    ("piaf_fr", all_of_it, ["--language", "french", "--limit", "1500"], {"recall@10": 0.885}),
    ("beam_100k", every_fourth_conversation, [], {"recall@5": 0.518, "recall@10": 0.572}),
    (
        "scifact",
        the_wanted_and_every_fourth_text,
        ["--category", "test"],
        {"recall@5": 0.871, "recall@10": 0.916},
    ),
]


@pytest.mark.skipif(not DATA.is_dir(), reason="the corpora are not here")
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("corpus", "part", "options", "floors"), FLOORS)
def test_recall_stays_above_its_floor(
    tmp_path: Path,
    corpus: str,
    part: Callable[[Rows, Rows], Rows],
    options: list[str],
    floors: dict[str, float],
) -> None:
    files = write_part(corpus, part, folder=tmp_path)
    arguments = ["eval", *files, *options, "--json", "--data-dir", str(tmp_path / "data")]
    measured = run(*arguments, cwd=tmp_path, variables={}, timeout=1100)
    assert measured.returncode == 0, measured.stderr
    overall = json.loads(measured.stdout)["modes"]["hybrid"]["overall"]
    for name, floor in floors.items():
        assert overall[name] >= floor, overall


def write_part(corpus: str, part: Callable[[Rows, Rows], Rows], *, folder: Path) -> list[str]:
    """The documents to search, and the questions that they answer in full, as files."""
    asked = [row for row in read(f"{corpus}.queries") if row.get("category") != "train"]
    documents = part(read(f"{corpus}.corpus"), asked)
    names = {row["doc_id"] for row in documents}
    questions = [row for row in asked if names.issuperset(row["relevant"])]
    files = {"corpus.jsonl": documents, "queries.jsonl": questions}
    for name, rows in files.items():
        (folder / name).write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return [str(folder / name) for name in files]


def read(name: str) -> Rows:
    with gzip.open(DATA / f"{name}.jsonl.gz") as lines:
        return [json.loads(line) for line in lines]
