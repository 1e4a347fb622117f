"""Which space the source's vectors become."""

import numpy as np

from mnemolite.adoption.copying import Passage
from mnemolite.adoption.table import SourceTable
from mnemolite.embeddings import ModelInfo, similarity
from mnemolite.embeddings.templates import recall_text
from mnemolite.errors import AdoptionError
from mnemolite.memory import Memory
from mnemolite.models import AdoptionPlan, JsonObject, Space
from mnemolite.settings import Settings
from mnemolite.spaces import MAX_DIMENSION

# Between runtimes of one model the last bits differ, and int8 weights move a vector a little.
_SAME_MODEL = 0.98
_UNKNOWN = "unknown"


def names_own_model(settings: Settings, plan: AdoptionPlan) -> bool:
    """Whether the vectors are said to be of the model that the settings name."""
    own = "mock" if settings.embedding.mode == "mock" else settings.embedding.model
    return plan.vectors and plan.space == own


def adopted_info(table: SourceTable, model: str) -> ModelInfo:
    """The identity of vectors of which nothing is known but the name of their model."""
    return ModelInfo(
        provider="adopted",
        model=model,
        revision="",
        dimension=table.dimension or 0,
        pooling=_UNKNOWN,
        normalisation=_UNKNOWN,
        template=_UNKNOWN,
        max_tokens=0,
    )


def check_vectors(table: SourceTable, plan: AdoptionPlan) -> None:
    """Raise AdoptionError unless it is said what becomes of the vectors."""
    if "embedding" not in table.types or not plan.vectors:
        if plan.space is not None:
            raise AdoptionError("The table has no column embedding.", field="--space")
        return
    if table.dimension is None:
        raise AdoptionError(
            "The column embedding is empty and says no dimension.",
            field="--space",
            remedy="Leave the vectors out with --no-vectors.",
        )
    if table.dimension > MAX_DIMENSION:
        raise AdoptionError(
            f"The vectors have {table.dimension:,} dimensions, a space {MAX_DIMENSION:,} at most.",
            field="--space",
            remedy="Leave the vectors out with --no-vectors.",
        )
    if plan.space is None:
        raise AdoptionError(
            f"The table has vectors of {table.dimension} dimensions.",
            field="--space",
            remedy="Name the model that made them with --space NAME, or leave them out with "
            "--no-vectors; events without vectors are embedded anew.",
        )


async def own_space(memory: Memory, passage: Passage) -> Space:
    """The space of this process's model, after a look whether it makes such vectors."""
    info, table = memory.embedder.info, passage.source.table
    if table.dimension != info.dimension:
        raise AdoptionError(
            f"{info.model!r} makes {info.dimension} dimensions, the source's vectors have "
            f"{table.dimension}.",
            field="--space",
            remedy=_APART,
        )
    await _check_sample(memory, await _sample(passage))
    space = await memory.spaces.of_digest(info.digest)
    if space is None:
        raise AdoptionError("The model's space is gone.", field="--space", remedy=_APART)
    return space


_APART = (
    "Give the vectors a name of their own, such as --space NAME/before: they become a space apart, "
    "which is searched by vectors only, and the events are embedded anew."
)


async def _sample(passage: Passage) -> list[JsonObject]:
    source, target = passage.source, passage.target
    async with target.connection.transaction(force_rollback=True):
        async with source.rows(None, target.plan.batch) as rows:
            await target.stage(rows, source)
        await target.settle(source.table.dimension)
        return await target.sample()


async def _check_sample(memory: Memory, rows: list[JsonObject]) -> None:
    """Embed some of the texts, and hold the vectors against the source's."""
    embedder = memory.embedder
    short = [row for row in rows if len(embedder.passages(row["text"])) == 1]
    if not short:
        raise AdoptionError(
            "None of the first rows has a vector and a text of one passage, so nobody can tell "
            "whether the vectors are this model's.",
            field="--space",
            remedy=_APART,
        )
    texts = [
        recall_text(row["text"], speaker=row["speaker"], timestamp=row["timestamp"])
        for row in short
    ]
    computed = await embedder.embed_documents(texts)
    given = [np.array(row["embedding"].strip("[]").split(","), dtype=np.float32) for row in short]
    least = min(similarity(a, b) for a, b in zip(computed, given, strict=True))
    if least < _SAME_MODEL:
        raise AdoptionError(
            f"{embedder.info.model!r} makes other vectors of the source's texts: of "
            f"{len(short)} compared, the least similar has a cosine of {least:.3f}.",
            field="--space",
            remedy=_APART,
        )
