"""One caller in a loop against 16 at once, through the async front, in one run.

    python -m benchmarks.concurrent_queries

Prints throughput, the latency of the luckiest and the unluckiest caller, the longest stall of the
event loop, the cost of a cache hit, and what queries wait while documents are embedded.
"""

import asyncio
import time
from statistics import median

from mnemolite.embeddings import create_embedder
from mnemolite.embeddings.batching import wrap_embedder
from mnemolite.settings import Settings

QUERIES, CALLERS, ROUNDS = 640, 16, 3
TICK_SECONDS = 0.001


async def watch_loop(stalls: list[float]) -> None:
    """Note how much later than asked the event loop comes back."""
    while True:
        started = time.perf_counter()
        await asyncio.sleep(TICK_SECONDS)
        stalls.append(time.perf_counter() - started - TICK_SECONDS)


async def ask(front, texts: list[str]) -> list[float]:
    """The seconds of each query, asked one after the other."""
    seconds = []
    for text in texts:
        started = time.perf_counter()
        await front.embed_query(text)
        seconds.append(time.perf_counter() - started)
    return seconds


async def measure(front, name: str) -> tuple[float, float]:
    """Queries a second of one caller and of 16."""
    texts = [f"where is my {name} number {number}" for number in range(2 * QUERIES)]
    started = time.perf_counter()
    await ask(front, texts[:QUERIES])
    alone = QUERIES / (time.perf_counter() - started)
    stalls: list[float] = []
    watching = asyncio.create_task(watch_loop(stalls))
    started = time.perf_counter()
    callers = [texts[QUERIES + number :: CALLERS] for number in range(CALLERS)]
    latencies = await asyncio.gather(*(ask(front, own) for own in callers))
    together = QUERIES / (time.perf_counter() - started)
    watching.cancel()
    means = [1000 * sum(own) / len(own) for own in latencies]
    print(
        f"{name}: 1 caller {alone:.0f}/s, 16 callers {together:.0f}/s ({together / alone:.2f}x); "
        f"mean latency of the callers {min(means):.1f} to {max(means):.1f} ms, worst single "
        f"{1000 * max(max(own) for own in latencies):.1f} ms; longest stall of the event loop "
        f"{1000 * max(stalls):.1f} ms"
    )
    return alone, together


async def beside_documents(front) -> None:
    """What a query takes while documents are embedded, and what it takes alone."""
    alone = await ask(front, [f"quiet {number}" for number in range(50)])
    documents = [f"turn {number}: " + "some words of a chat " * 10 for number in range(512)]
    embedding = asyncio.create_task(front.embed_documents(documents))
    beside = []
    while not embedding.done():
        beside += await ask(front, [f"busy {len(beside)}"])
        await asyncio.sleep(0.02)
    print(
        f"a query alone: median {1000 * median(alone):.1f} ms; beside documents: median "
        f"{1000 * median(beside):.1f} ms, worst {1000 * max(beside):.1f} ms of {len(beside)}"
    )


async def cached(front) -> None:
    """What a query costs whose vector is in the cache."""
    await front.embed_query("again")
    seconds = await ask(front, ["again"] * 10_000)
    print(f"a cached query: median {1e6 * median(seconds):.1f} microseconds")


async def main() -> None:
    settings = Settings().embedding
    async with wrap_embedder(create_embedder(settings), settings) as front:
        rates = [await measure(front, f"round {number + 1}") for number in range(ROUNDS)]
        ratio = median(together / alone for alone, together in rates)
        print(f"16 callers run at {ratio:.2f} times one caller in a loop")
        await cached(front)
        await beside_documents(front)


if __name__ == "__main__":
    asyncio.run(main())
