"""How fast an import with embeddings is beside the bare model on the same texts, in one run.

    python benchmarks/import_speed.py ../shared/data/locomo.corpus.jsonl.gz

Both run twice, in turns, so that a busy machine slows both.
"""

import argparse
import asyncio
import json
import tempfile
import time
from pathlib import Path
from statistics import median

from mnemolite.embeddings import create_embedder
from mnemolite.embeddings.templates import recall_text
from mnemolite.evaluate import read_rows
from mnemolite.import_export import LineMapping, import_lines, open_lines
from mnemolite.memory import Memory
from mnemolite.settings import DatabaseSettings, Settings
from mnemolite.worker import Worker

ROUNDS = 2
MAPS = ["doc_id=metadata.doc_id", "scope=namespace", "ts=timestamp"]


def bare_model(settings: Settings, texts: list[str]) -> float:
    """Seconds the model takes for all texts, in the batches it likes best."""
    embedder = create_embedder(settings.embedding)
    embedder.embed(texts[:64], "document")
    started = time.perf_counter()
    for start in range(0, len(texts), 512):
        embedder.embed(texts[start : start + 512], "document")
    return time.perf_counter() - started


async def whole_import(settings: Settings, corpus: Path) -> tuple[float, float, int]:
    """Seconds to store, seconds to embed, and the number of events."""
    async with Memory.open(settings) as memory:
        started = time.perf_counter()
        with open_lines(str(corpus)) as lines:
            report = await import_lines(memory, lines, mapping=LineMapping.parse(MAPS))
        stored = time.perf_counter()
        await Worker(memory).drain()
        return stored - started, time.perf_counter() - stored, report.stored


def wrapped_texts(corpus: Path) -> list[str]:
    """The texts as the worker embeds them."""
    mapping, texts = LineMapping.parse(MAPS), []
    from mnemolite.import_export import ImportReport

    for row in read_rows(corpus):
        event = mapping.to_event(json.loads(json.dumps(row)), ImportReport())
        speaker = event.content.get("speaker")
        texts.append(recall_text(event.content["text"], speaker=speaker, timestamp=event.timestamp))
    return texts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpus", type=Path, nargs="?")
    options = parser.parse_args()
    data = Path(__file__).resolve().parents[2] / "shared" / "data"
    corpus = options.corpus or data / "locomo.corpus.jsonl.gz"
    texts = wrapped_texts(corpus)
    bare, embedded, imported = [], [], []
    for number in range(ROUNDS):
        with tempfile.TemporaryDirectory() as folder:
            settings = Settings(database=DatabaseSettings(url=None, data_dir=Path(folder) / "data"))
            bare.append(bare_model(settings, texts))
            store, embed, count = asyncio.run(whole_import(settings, corpus))
            embedded.append(embed)
            imported.append(store + embed)
        print(
            f"round {number + 1}: bare model {len(texts) / bare[-1]:6.1f}/s; import of {count}: "
            f"stored in {store:.1f} s, embedded in {embed:.1f} s, {count / imported[-1]:6.1f}/s"
        )
    print(
        f"embedding runs at {median(bare) / median(embedded):.0%} of the bare model, the import "
        f"that stores everything first at {median(bare) / median(imported):.0%}"
    )


if __name__ == "__main__":
    main()
