"""Changing the model while the memory is in use: fill a second space, compare, switch, go back.

Every step looks at the database for where it stands, so a command that was interrupted goes on
when it is run again.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from statistics import fmean
from typing import Literal, TypeVar

import structlog

from mnemolite.embedders import OF_ONE_MODEL
from mnemolite.errors import DatabaseTimeoutError, SpaceChangeError
from mnemolite.memory import Memory
from mnemolite.models import Comparison, Space, SpaceStatus
from mnemolite.settings import EmbeddingSettings

log = structlog.get_logger(__name__)

T = TypeVar("T")
Show = Callable[[str, int, int], None]  # what is being done, how much is done, of how much

_POLL_SECONDS = 0.5
_CATCH_UP_POLL_SECONDS = 0.05
_TRIES = 20
_NEIGHBOURS = 10
# One table row in about so many is looked at when a sample is taken.
_OVERSAMPLING = 4


@dataclass(frozen=True, slots=True)
class Change:
    """What a switch or a rollback did."""

    active: Space
    changed: bool  # False: it was so already
    lost: list[str]  # what was given up by force


def another_model(model: str | None, *, provider: str | None, **said: object) -> dict[str, object]:
    """The embedding settings that differ from a process's own; ``said`` is None where unsaid."""
    given = {name: value for name, value in said.items() if value is not None}
    if model is None and provider is None:
        return given
    # What the environment says of the model in use does not hold for another one.
    fields = EmbeddingSettings.model_fields
    given = {name: fields[name].default for name in OF_ONE_MODEL if name in fields} | given
    given["mode"] = "mock" if provider == "mock" else "real"
    if model is not None:
        given["model"] = model
    if provider not in (None, "mock"):
        given["provider"] = provider
    return given


# --- Fill ---------------------------------------------------------------------------------------


async def queue_older(memory: Memory, show: Show) -> None:
    """Queue all older events for the process's own space, in batches."""
    succession, space = memory.succession, memory.space
    if await succession.is_untouched(space):
        await _outwait_older_writers(memory, show)
    events = (await memory.stats()).events
    done = 0
    while looked_at := await succession.fill(space):
        done += looked_at
        show("queueing", done, events)


async def embed_older(memory: Memory, show: Show) -> None:
    """Wait until a running worker has embedded all that is in the queue now."""
    succession, space = memory.succession, memory.space
    moment = await succession.clock()
    total = left = await succession.due_before(space, moment)
    while left:
        show("embedding", total - left, total)
        await asyncio.sleep(_POLL_SECONDS)
        left = await succession.due_before(space, moment)


async def complete(memory: Memory, show: Show) -> None:
    """Put right what slipped through, then build the index: after the bulk, for it is faster so."""
    succession, space = memory.succession, memory.space
    active = await memory.spaces.active()
    if active is None or space.id not in memory.embedders.held:
        raise SpaceChangeError(f"Space {space.id} has been dropped.")
    await succession.sweep(space)
    if missing := await succession.queue_missing(space, active):
        log.info("missing_events_queued", events=missing)
        await embed_older(memory, show)
    await succession.analyze(space)
    show("indexing", 0, 1)
    min_rows = memory.settings.worker.hnsw_min_rows
    while await memory.spaces.lacks_index(space, min_rows):
        if not await memory.spaces.build_index(space, min_rows=min_rows):
            await asyncio.sleep(_POLL_SECONDS)


# --- Look ---------------------------------------------------------------------------------------


async def compare(memory: Memory, *, samples: int = 0) -> Comparison:
    """Hold the space that could be switched or gone back to against the active one."""
    spaces = await memory.spaces.all()
    active = _of_status(spaces, "active")
    space = _of_status(spaces, "building") or _of_status(spaces, "retired")
    if active is None or space is None:
        raise SpaceChangeError(
            "There is no space beside the active one.",
            remedy="`mnemolite reembed start` makes one.",
        )
    return await _compare(memory, space, active=active, samples=samples)


async def _compare(memory: Memory, space: Space, *, active: Space, samples: int = 0) -> Comparison:
    succession = memory.succession
    state = await succession.state(space)
    overlaps = await _overlaps(memory, space, active=active, samples=samples) if samples else []
    return Comparison(
        space=space.id,
        active=active.id,
        embedded=state.progress.embedded,
        active_embedded=(await succession.state(active)).progress.embedded,
        missing=await succession.missing(space, active),
        behind=await succession.behind(space, active),
        parked=state.progress.parked,
        orphans=await succession.orphans(space),
        indexed=not await memory.spaces.lacks_index(space, memory.settings.worker.hnsw_min_rows),
        samples=len(overlaps),
        overlap=fmean(overlaps) if overlaps else None,
        least_overlap=min(overlaps, default=None),
    )


async def _overlaps(memory: Memory, space: Space, *, active: Space, samples: int) -> list[float]:
    """How far both spaces agree on the ten nearest of some events, each found by its own vector."""
    succession = memory.succession
    embedded = (await succession.state(active)).progress.embedded
    share = min(100.0, 100.0 * _OVERSAMPLING * samples / max(1, embedded))
    overlaps = []
    for key in await succession.sample(space, active, share=share, limit=samples):
        near, far = [
            # One more, for the event itself is the nearest.
            set(await succession.nearest(each, key, limit=_NEIGHBOURS + 1)) - {key["event_id"]}
            for each in (space, active)
        ]
        if most := min(_NEIGHBOURS, max(len(near), len(far))):
            overlaps.append(len(near & far) / most)
    return overlaps


# --- Change -------------------------------------------------------------------------------------


async def switch(memory: Memory, *, force: bool = False, wait_seconds: float = 30.0) -> Change:
    """Make the space that was built the active one.

    Raises SpaceChangeError when something would be lost, unless that is forced.
    """
    spaces = await memory.spaces.all()
    active, space = _of_status(spaces, "active"), _of_status(spaces, "building")
    if active is None or space is None:
        if active is not None and _of_status(spaces, "retired"):
            return Change(active, changed=False, lost=[])
        raise SpaceChangeError(
            "There is no space to switch to.", remedy="`mnemolite reembed start` makes one."
        )
    return await _exchange(
        memory, space, active=active, leaves_as="retired", force=force, wait_seconds=wait_seconds
    )


async def rollback(memory: Memory, *, force: bool = False, wait_seconds: float = 30.0) -> Change:
    """Make the space that was active before the active one again.

    Raises SpaceChangeError when something would be lost, unless that is forced.
    """
    spaces = await memory.spaces.all()
    active, space = _of_status(spaces, "active"), _of_status(spaces, "retired")
    building = _of_status(spaces, "building")
    if active is None or space is None:
        if active is not None and building is not None and building.activated_at is not None:
            return Change(active, changed=False, lost=[])
        raise SpaceChangeError(
            "There is no retired space to go back to.",
            remedy="`mnemolite reembed status` shows the spaces.",
        )
    if building is not None:
        raise SpaceChangeError(
            f"Space {building.id} ({building.model}) is being built, and only one can be.",
            remedy=f"Remove it first: mnemolite reembed drop {building.id}.",
        )
    return await _exchange(
        memory, space, active=active, leaves_as="building", force=force, wait_seconds=wait_seconds
    )


async def _exchange(
    memory: Memory,
    space: Space,
    *,
    active: Space,
    leaves_as: Literal["retired", "building"],
    force: bool,
    wait_seconds: float,
) -> Change:
    lost = await _lacking(memory, space, active=active)
    if lost and not force:
        raise _incomplete(space, lost)
    deadline = time.monotonic() + wait_seconds
    # New events come all the time, so the last look is taken inside the transaction.
    while behind := await _patiently(
        lambda: memory.succession.exchange(space, active, leaves_as=leaves_as, force=force)
    ):
        if time.monotonic() >= deadline:
            raise _incomplete(space, [f"{behind} events are still in its queue"])
        await asyncio.sleep(_CATCH_UP_POLL_SECONDS)
    return Change(await memory.spaces.active() or space, changed=True, lost=lost)


async def drop(memory: Memory, space_id: int, *, force: bool = False, show: Show) -> Space:
    """Remove a space that is not the active one, with its vectors, its queue and its index.

    Raises SpaceChangeError while processes search it, unless that is forced.
    """
    space = next((each for each in await memory.spaces.all() if each.id == space_id), None)
    if space is None:
        raise SpaceChangeError(f"There is no space {space_id}.", field="SPACE")
    searching = await memory.spaces.searching(space)
    if searching and not force:
        raise SpaceChangeError(
            f"{searching} processes still search space {space_id}.",
            remedy="Restart them with the active model (see `mnemolite reembed status`).",
        )
    await _patiently(lambda: memory.succession.begin_drop(space))
    # Whoever began to write before may still queue events for it.
    await _outwait_older_writers(memory, show)
    while emptied := await memory.succession.empty_queue(space):
        show("emptying its queue", emptied, 0)
    await _patiently(lambda: memory.succession.remove(space))
    return space


async def followed(memory: Memory, *, seconds: float) -> tuple[int, int]:
    """Wait for running processes to search the active space: how many do, and how many do not."""
    deadline = time.monotonic() + seconds
    while True:
        states = await memory.list_spaces()
        ahead = sum(state.searched_by for state in states if state.status == "active")
        behind = sum(state.searched_by for state in states if state.status != "active")
        if not behind or time.monotonic() >= deadline:
            return ahead, behind
        await asyncio.sleep(_POLL_SECONDS)


async def variables_of(memory: Memory, space: Space) -> dict[str, object]:
    """The environment variables that name a space's model."""
    fields = EmbeddingSettings.model_fields
    recipe = await memory.spaces.recipe(space)
    return {
        str(extra["env"]): value
        for name, value in recipe.items()
        if value is not None and isinstance(extra := fields[name].json_schema_extra, dict)
    }


def _of_status(spaces: list[Space], status: SpaceStatus) -> Space | None:
    """The space of that status; of several, the one that was active last."""
    found = [space for space in spaces if space.status == status]
    found.sort(key=lambda space: space.activated_at or space.created_at)
    return found[-1] if found else None


async def _lacking(memory: Memory, space: Space, *, active: Space) -> list[str]:
    """What a search of the space would not find that it finds today, but for what is queued."""
    compared = await _compare(memory, space, active=active)
    lacking = {
        "older events are still being put into its queue": space.filled_at is None,
        f"{compared.missing} events are missing": compared.missing > 0,
        f"{compared.parked} events could not be embedded": compared.parked > 0,
        "its HNSW index is not built": not compared.indexed,
    }
    return [said for said, wrong in lacking.items() if wrong]


def _incomplete(space: Space, lacking: list[str]) -> SpaceChangeError:
    return SpaceChangeError(
        f"Space {space.id} is not complete: {'; '.join(lacking)}.",
        remedy="Let a worker with its model run (`mnemolite reembed start` again does), see "
        "`mnemolite reembed verify`; or give up what is missing with --force.",
    )


async def _outwait_older_writers(memory: Memory, show: Show) -> None:
    older = await memory.succession.writers()
    while older := older & await memory.succession.writers():
        show("waiting for transactions that began earlier", 0, 0)
        await asyncio.sleep(_CATCH_UP_POLL_SECONDS)


async def _patiently(step: Callable[[], Awaitable[T]]) -> T:
    """Try again what could not have its locks in time; between the tries everybody else moves."""
    for _ in range(_TRIES - 1):
        try:
            return await step()
        except DatabaseTimeoutError:
            await asyncio.sleep(_POLL_SECONDS)
    return await step()
