"""What a search over HTTP costs beyond the bare model and the bare SQL, in one run.

    python benchmarks/search_overhead.py ../shared/data/locomo.corpus.jsonl.gz \
        ../shared/data/locomo.queries.jsonl.gz --queries 100

Each question is asked over HTTP on a kept connection; then its text is embedded by the bare
embedder, and the very statements that the search ran are run again by one plain connection.
"""

import argparse
import asyncio
import http.client
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any
from urllib.parse import urlencode

import psycopg
from pgvector.psycopg import register_vector
from psycopg.rows import dict_row

from mnemolite import evaluate
from mnemolite.embeddings import create_embedder
from mnemolite.memory import Memory
from mnemolite.models import SearchQuery
from mnemolite.settings import DatabaseSettings, EmbeddingSettings, ServerSettings, Settings
from mnemolite.worker import Worker

PORT = 18_733


def settings(data_dir: Path) -> Settings:
    """The defaults, without the cache of query vectors: every query is embedded."""
    return Settings(
        database=DatabaseSettings(url=None, data_dir=data_dir),
        embedding=EmbeddingSettings(cache_size=0),
        server=ServerSettings(port=PORT),
    )


async def load(data_dir: Path, corpus: Path) -> None:
    async with Memory.open(settings(data_dir)) as memory:
        await evaluate.load_corpus(memory, corpus, progress=lambda *_: None)
        await Worker(memory).drain()


class Recorder:
    """Remembers the statements of a search, to run them again without the search."""

    def __init__(self) -> None:
        self.statements: list[tuple[Any, Any]] = []

    async def record(self, data_dir: Path, queries: list[SearchQuery]) -> list[list[Any]]:
        original = psycopg.AsyncConnection.execute
        recorder = self

        async def execute(self: Any, query: Any, params: Any = None, **options: Any) -> Any:  # noqa: PLR0917
            if "set_config" not in str(query) and params is not None:
                recorder.statements.append((query, params))
            return await original(self, query, params, **options)

        recorded = []
        async with Memory.open(settings(data_dir)) as memory:
            psycopg.AsyncConnection.execute = execute  # type: ignore[method-assign]
            for query in queries:
                self.statements = []
                await memory.search(query)
                recorded.append(self.statements)
        psycopg.AsyncConnection.execute = original  # type: ignore[method-assign]
        return recorded


def time_http(queries: list[SearchQuery]) -> list[float]:
    connection = http.client.HTTPConnection("127.0.0.1", PORT)
    times = []
    for query in queries:
        target = "/v1/search?" + urlencode({"q": query.q, "namespace": query.namespace})
        started = time.perf_counter()
        connection.request("GET", target)
        answer = connection.getresponse().read()
        times.append(time.perf_counter() - started)
        assert json.loads(answer)["data"], query
    return times


def time_bare(
    dsn: str, queries: list[SearchQuery], *, recorded: list[list[Any]]
) -> tuple[list[float], list[float]]:
    embedder = create_embedder(settings(Path()).embedding)
    model, database = [], []
    with psycopg.connect(dsn, autocommit=True, row_factory=dict_row) as connection:
        register_vector(connection)
        connection.execute("SET plan_cache_mode = force_custom_plan")
        connection.execute("SET jit = off")
        for query, statements in zip(queries, recorded, strict=True):
            started = time.perf_counter()
            embedder.embed([query.q], "query")
            model.append(time.perf_counter() - started)
            started = time.perf_counter()
            for statement, parameters in statements:
                connection.execute(statement, parameters).fetchall()
            database.append(time.perf_counter() - started)
    return model, database


def wait_ready() -> None:
    for _ in range(600):
        try:
            connection = http.client.HTTPConnection("127.0.0.1", PORT)
            connection.request("GET", "/health/ready")
            if connection.getresponse().status == 200:
                return
        except OSError:
            time.sleep(0.1)
    sys.exit("the server is not ready")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpus", type=Path, nargs="?")
    parser.add_argument("queries", type=Path, nargs="?")
    parser.add_argument("--queries", dest="count", type=int, default=100)
    options = parser.parse_args()
    data = Path(__file__).resolve().parents[2] / "shared" / "data"
    corpus = options.corpus or data / "locomo.corpus.jsonl.gz"
    questions = evaluate.read_questions(options.queries or data / "locomo.queries.jsonl.gz")
    step = max(1, len(questions) // options.count)
    queries = [SearchQuery(q=one.text, namespace=one.namespace) for one in questions[::step]]
    with tempfile.TemporaryDirectory() as folder:
        data_dir = Path(folder) / "data"
        asyncio.run(load(data_dir, corpus))
        recorded = asyncio.run(Recorder().record(data_dir, queries))
        place = ["--data-dir", str(data_dir)]
        server = subprocess.Popen(
            [sys.executable, "-m", "mnemolite.cli", "serve", "--port", str(PORT), *place],
            env={"EMBEDDING_CACHE_SIZE": "0", "PATH": "/usr/bin:/bin"},
            stderr=subprocess.DEVNULL,
        )
        try:
            wait_ready()
            from mnemolite.local_postgres import open_local_postgres

            with open_local_postgres(data_dir) as local:
                time_http(queries[:20])
                over_http = time_http(queries)
                model, database = time_bare(local.dsn(), queries, recorded=recorded)
        finally:
            server.terminate()
            server.wait()
    extra = [h - m - d for h, m, d in zip(over_http, model, database, strict=True)]
    for name, times in (
        ("GET /v1/search", over_http),
        ("bare embedding", model),
        ("bare SQL", database),
        ("the rest", extra),
    ):
        print(f"{name:16} median {median(times) * 1000:7.2f} ms")


if __name__ == "__main__":
    main()
