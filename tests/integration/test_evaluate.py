"""A corpus is loaded once, and whole."""

import json
from pathlib import Path

from mnemolite.evaluate import load_corpus
from mnemolite.memory import Memory
from mnemolite.models import EventQuery


async def test_a_corpus_whose_loading_was_interrupted_is_completed(
    memory: Memory, tmp_path: Path
) -> None:
    rows = [{"doc_id": f"d{n}", "scope": "n", "seq": n, "text": f"number {n}"} for n in range(5)]
    corpus = tmp_path / "corpus.jsonl"
    for stored in (2, 5, 5):
        corpus.write_text("".join(json.dumps(row) + "\n" for row in rows[:stored]))
        assert await load_corpus(memory, corpus, progress=lambda *_: None) == stored
        page = await memory.list_events(EventQuery(namespace="n"))
        found = [event.metadata["doc_id"] for event in page.data]
        assert sorted(found) == [f"d{n}" for n in range(stored)]
