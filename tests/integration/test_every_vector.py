"""What is nearest by reading everything, against the exact plan of a search."""

import numpy as np
import pytest

from mnemolite.arms import Arms, SearchJob
from mnemolite.every_vector import nearest_to_each
from mnemolite.memory import Memory
from mnemolite.models import NewEvent, SearchQuery
from mnemolite.worker import Worker

LONG = " ".join(f"Sentence {n} of a long report about gardens." for n in range(400))


@pytest.fixture
async def filled(memory: Memory) -> Memory:
    """Short events, and long ones of many passages, in two namespaces."""
    events = [
        NewEvent(
            content={"text": f"{LONG} {n}" if n % 40 == 0 else f"turn {n} of topic {n % 7}"},
            namespace="here" if n % 5 else "there",
            metadata={"tenth": n % 10},
        )
        for n in range(300)
    ]
    await memory.add_many(events)
    await Worker(memory).drain()
    return memory


@pytest.mark.parametrize("where", [{}, {"tenth": 3}, {"tenth": 99}])
async def test_the_same_as_the_exact_plan(filled: Memory, where: dict[str, int]) -> None:
    jobs = []
    for text in ("a report of gardens", "turn 7", "something else"):
        vector = await filled.embedder.embed_query(text)
        query = SearchQuery(q=text, vector=vector.tolist(), namespace="here", where=where)
        question = await filled.lexicon.question("here", text, space=filled.space.id)
        jobs.append(SearchJob(query, question, filled.space, None, forced="exact"))
    vectors = np.array([job.query.vector for job in jobs], dtype=np.float32)
    found = await nearest_to_each(
        filled.database, jobs[0], space=filled.space, vectors=vectors, depth=100
    )
    for job, distances in zip(jobs, found, strict=True):
        by_plan = await Arms(filled.database).vector(job)
        assert distances.tolist() == pytest.approx(by_plan.scores, abs=1e-6)
