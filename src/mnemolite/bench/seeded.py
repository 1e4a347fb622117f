"""Seeded vectors, for scale alone: those of a sample of the texts, repeated with noise.

A model takes hours for a million texts, where the cost of a search depends on the number of the
vectors and on how they lie, not on what they mean. What is found with them means nothing.
"""

from uuid import uuid4

import numpy as np

from mnemolite.embeddings import Vectors
from mnemolite.evaluate import draw_texts
from mnemolite.memory import Memory
from mnemolite.queue import EmbeddedPassage, Lease

_CENTRES = 2000
# Beside a vector of length 1; the cosine of a vector with its centre is then about 0.7.
_NOISE_LENGTH = 1.0
_CLAIMED = 10_000
_LEASE_SECONDS = 600.0


async def store_seeded(memory: Memory, namespace: str) -> None:
    """Give every pending event a vector that no model made."""
    texts = await draw_texts(memory, namespace, count=_CENTRES)
    centres = await memory.embedder.embed_documents(texts)
    generator = np.random.default_rng(0)
    lease = Lease(uuid4(), seconds=_LEASE_SECONDS, max_attempts=5)
    while True:
        async with memory.queue.claim(memory.space, lease, limit=_CLAIMED) as claim:
            if not claim.events:
                return
            vectors = near(centres, len(claim.events), generator=generator)
            passages = [
                EmbeddedPassage(event, 0, (0, len(event.text or "")), vector)
                for event, vector in zip(claim.events, vectors, strict=True)
            ]
            await claim.store(claim.events, passages)


def near(centres: Vectors, count: int, *, generator: np.random.Generator) -> Vectors:
    """Unit vectors, each near a centre taken at random."""
    dimension = centres.shape[1]
    noise = generator.standard_normal((count, dimension), dtype=np.float32)
    noise *= _NOISE_LENGTH / np.sqrt(dimension)
    noise += centres[generator.integers(0, len(centres), count)]
    noise /= np.linalg.norm(noise, axis=1, keepdims=True)
    return noise
