"""The steps of an adoption: begin and copy, cut over, roll back, finish. Each can be run again."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from mnemolite.adoption import record as records
from mnemolite.adoption.copying import Passage, Show
from mnemolite.adoption.record import Record, required_record
from mnemolite.adoption.source import Source
from mnemolite.adoption.target import Target, unwatch
from mnemolite.adoption.vectors import adopted_info, check_vectors, names_own_model, own_space
from mnemolite.database import Database
from mnemolite.errors import AdoptionError
from mnemolite.memory import Memory
from mnemolite.models import AdoptionPlan, AdoptionReport, AdoptionState, Space
from mnemolite.spaces import create_space
from mnemolite.sql import load

_queries = load("adoption")
_BACK_ROWS = 1000


async def status(memory: Memory) -> AdoptionState | None:
    """How far the adoption has come that is under way, None if there is none."""
    async with memory.database.own_connection() as connection:
        record = await Record.read(connection)
    return record.state() if record else None


async def preview(memory: Memory, dsn: str, *, plan: AdoptionPlan, show: Show) -> AdoptionReport:
    """What an adoption would do; changes nothing. Raises AdoptionError, DatabaseError."""
    async with _passage(memory.database, dsn, plan=plan, show=show) as passage:
        await _check(passage)
        if names_own_model(memory.settings, plan):
            passage.target.space = await own_space(memory, passage)
        facts = await passage.source.count()
        refusals = await passage.preview(facts["rows"])
        checksums = await passage.source.checksums(refusals)
        notes = [
            f"{facts['rows']} rows, {facts['vectors']} vectors, from {facts['first']} "
            f"to {facts['last']}, key ({', '.join(passage.source.table.key)})",
            *_notes(memory, passage),
        ]
    return AdoptionReport(state=None, source=checksums, refusals=refusals, notes=notes)


async def adopt(memory: Memory, dsn: str, *, plan: AdoptionPlan, show: Show) -> AdoptionReport:
    """Copy a foreign table; go on where it stopped.

    Offline it ends with the proof that all rows are the same; online it ends when few changes are
    left to be caught up with. Raises AdoptionError, DatabaseError.
    """
    async with _passage(memory.database, dsn, plan=plan, show=show) as passage:
        record = await _begun(memory, passage)
        if plan.online:
            await passage.source.watch()
        if record.phase == "copying":
            await passage.copy(record)
        elif record.phase != "copied":
            raise _wrong_phase(record, "It is past its copy.")
        if plan.online:
            await passage.catch_up()
            return await _report(passage, _notes(memory, passage))
        theirs, ours = await passage.prove()
        report = await _report(passage, _notes(memory, passage))
    return report.model_copy(update={"source": theirs, "target": ours})


async def cut_over(memory: Memory, dsn: str, *, show: Show) -> AdoptionReport:
    """Let the memory take the source's place: block its writers, catch up, compare, change over.

    When this fails the source is written to as before. Raises AdoptionError, DatabaseError.
    """
    async with _resumed(memory, dsn, show=show) as (passage, record):
        if record.phase == "cut over":
            return await _report(passage, ["The memory has taken the source's place already."])
        if record.phase != "copied" or not record.plan.online:
            raise _wrong_phase(record, "Only what was copied with --online is cut over.")
        await _kept_space(memory, record)
        await passage.target.watch()
        await passage.catch_up()
        async with passage.source.locked():
            began = time.monotonic()
            await passage.catch_up(until=0)
            theirs, ours = await passage.prove()
            if not await passage.source.is_blocked():
                await passage.source.block()
        await records.move(passage.target.connection, "cut over")
        seconds = time.monotonic() - began
        report = await _report(passage, [f"The source's writers waited {seconds:.1f} s."])
    return report.model_copy(update={"source": theirs, "target": ours})


async def roll_back(memory: Memory, dsn: str | None, *, show: Show) -> AdoptionReport:
    """Take an adoption back.

    Before the cut-over the adopted events go from the memory. After it, what has changed here is
    brought back to the source, which is written to again, and the events stay until this is run
    once more. Raises AdoptionError, DatabaseError.
    """
    async with memory.database.own_connection() as connection:
        record = await required_record(connection)
    if record.phase == "finishing":
        raise _wrong_phase(record, "It is being finished.")
    if not record.plan.online or record.phase == "given back":
        async with Target.opened(memory.database, record.plan) as target:
            return await _remove(memory, target, record=record, show=show)
    async with _resumed(memory, dsn, show=show) as (passage, record):
        if record.phase == "cut over":
            return await _give_back(memory, passage)
        await passage.source.remove_traces()
        return await _remove(memory, passage.target, record=record, show=show)


async def finish(memory: Memory, dsn: str | None, *, show: Show) -> AdoptionReport:
    """End an adoption: the events stay, everything else that it has made goes."""
    async with memory.database.own_connection() as connection:
        record = await required_record(connection)
    offline = record.phase == "copied" and not record.plan.online
    if not offline and record.phase not in ("cut over", "given back", "finishing"):
        raise _wrong_phase(record, "It is not complete.")
    if offline or record.phase == "given back":
        async with Target.opened(memory.database, record.plan) as target:
            await target.forget()
    else:
        async with _resumed(memory, dsn, show=show) as (passage, record):
            await records.move(passage.target.connection, "finishing")
            await passage.source.remove_traces()
            await passage.target.forget()
    return AdoptionReport(state=None, notes=["The adoption is finished; its events stay."])


# --- Beginning ----------------------------------------------------------------------------------


@asynccontextmanager
async def _passage(
    database: Database, dsn: str, *, plan: AdoptionPlan, show: Show
) -> AsyncIterator[Passage]:
    async with Target.opened(database, plan) as target, Source.opened(dsn, plan) as source:
        yield Passage(source, target, show)


@asynccontextmanager
async def _resumed(
    memory: Memory, dsn: str | None, *, show: Show
) -> AsyncIterator[tuple[Passage, Record]]:
    """The way and the record of the adoption that is under way."""
    if dsn is None:
        raise AdoptionError("The source is needed for this.", field="--from")
    async with memory.database.own_connection() as connection:
        plan = (await required_record(connection)).plan
    async with _passage(memory.database, dsn, plan=plan, show=show) as passage:
        identity = passage.source.table.identity
        record = await required_record(passage.target.connection, identity)
        passage.target.space = await _space_of(memory, record)
        yield passage, record


async def _space_of(memory: Memory, record: Record) -> Space | None:
    found = [space for space in await memory.spaces.all() if space.id == record.space]
    return found[0] if found else None


async def _kept_space(memory: Memory, record: Record) -> Space | None:
    """The space of the source's vectors, where it has any. Raises AdoptionError if it is gone."""
    space = await _space_of(memory, record)
    if space is None and record.space is not None:
        raise AdoptionError(
            f"Space {record.space}, which held the source's vectors, was dropped meanwhile.",
            remedy="Take the adoption back with --rollback, and begin anew.",
        )
    return space


async def _begun(memory: Memory, passage: Passage) -> Record:
    """The record of this adoption, written now if it is new."""
    target, plan = passage.target, passage.target.plan
    record = await Record.read(target.connection)
    if record is None:
        await _begin(memory, passage)
    record = await required_record(target.connection, passage.source.table.identity)
    if changed := record.plan.differences(plan):
        raise AdoptionError(
            f"This adoption was begun with other options: {', '.join(changed)}.",
            remedy="Give the same ones; or take it back with --rollback, and begin anew.",
        )
    await records.replan(target.connection, plan)
    target.space = await _kept_space(memory, record)
    return record


async def _begin(memory: Memory, passage: Passage) -> None:
    await _check(passage)
    target, table, plan = passage.target, passage.source.table, passage.target.plan
    total = (await passage.source.count())["rows"]
    space: Space | None = None
    if names_own_model(memory.settings, plan):
        space = await own_space(memory, passage)
    elif plan.space is not None:
        info = adopted_info(table, plan.space)
        space = await memory.spaces.of_digest(info.digest)
    async with target.connection.transaction():
        made = space is None and plan.space is not None
        if made and plan.space is not None:
            info = adopted_info(table, plan.space)
            space = await create_space(target.connection, info, recipe={}, status="adopted")
            await target.connection.execute(_queries["mark_adopted"], {"space": space.id})
        facts = {"source": table.identity, "label": table.label, "total": total, "made_space": made}
        await records.begin(target.connection, plan, space=space, facts=facts)


async def _check(passage: Passage) -> None:
    """Raise AdoptionError for what has to be said before it begins."""
    table, plan = passage.source.table, passage.target.plan
    if table.left and not plan.leave_columns:
        raise AdoptionError(
            f"The table has more columns than are taken over: {', '.join(table.left)}.",
            field="--leave-columns",
            remedy="Put what they hold into metadata first, or leave them with --leave-columns.",
        )
    check_vectors(table, plan)
    values = {"language": plan.language}
    cursor = await passage.target.connection.execute(_queries["language_exists"], values)
    if not (await cursor.fetchone() or {}).get("found"):
        raise AdoptionError(
            f"PostgreSQL has no text-search language {plan.language!r}.",
            field="--language",
            remedy="Use one that `SELECT cfgname FROM pg_ts_config` lists, or simple.",
        )


def _notes(memory: Memory, passage: Passage) -> list[str]:
    """What an operator should know of this adoption."""
    table, plan = passage.source.table, passage.target.plan
    notes: list[str] = []
    if names_own_model(memory.settings, plan):
        notes.append("The vectors are this model's: queries find them by meaning.")
    elif plan.space is not None:
        notes.append(
            f"The vectors of {plan.space!r} become a space apart. It is searched by vectors of "
            "your own (`vector` and `space`); for queries in words the events are queued and "
            "embedded by the model of this memory."
        )
    if table.left:
        notes.append(f"Columns that are not taken over: {', '.join(table.left)}.")
    if plan.online and table.required:
        notes.append(
            f"After the cut-over, new events cannot be brought back to the source as long as it "
            f"demands {', '.join(table.required)} (NOT NULL without a default)."
        )
    if plan.online:
        notes.append("Next: mnemolite db adopt --cutover; it waits for few changes to be left.")
    return notes


async def _report(passage: Passage, notes: list[str]) -> AdoptionReport:
    connection = passage.target.connection
    record = await required_record(connection)
    refusals = await records.refusals(connection)
    return AdoptionReport(state=record.state(), refusals=refusals, notes=notes)


def _wrong_phase(record: Record, reason: str) -> AdoptionError:
    return AdoptionError(
        f"The adoption of {record.label} is {record.phase}. {reason}",
        remedy="See `mnemolite db adopt --status` and docs/migration.md.",
    )


# --- Going back ---------------------------------------------------------------------------------


async def _give_back(memory: Memory, passage: Passage) -> AdoptionReport:
    """Bring what has changed here back to the source, and let it be written to again."""
    await _bring_back(passage)
    # On another connection, so that what was brought back is committed while nobody writes here.
    async with (
        memory.database.own_connection() as connection,
        passage.target.locked(connection),
    ):
        await _bring_back(passage)
        await passage.source.remove_traces()
        await unwatch(connection)
        await records.move(connection, "given back")
    return await _report(passage, ["The source has what changed here, and is written to again."])


async def _bring_back(passage: Passage) -> None:
    while True:
        numbers, rows = await passage.target.changed(_BACK_ROWS)
        if not numbers:
            return
        await passage.source.write_back(rows)
        await passage.target.forget_changes(numbers)
        passage.show("bringing back", len(numbers), len(numbers))


async def _remove(memory: Memory, target: Target, *, record: Record, show: Show) -> AdoptionReport:
    """Delete the adopted events, and the space that was made for their vectors."""
    await records.move(target.connection, "rolling back")
    left = record.adopted
    while removed := await target.remove_events():
        left -= removed
        show("removing", record.adopted - left, record.adopted)
    space = await _space_of(memory, record)
    if space is not None and record.made_space:
        await memory.succession.begin_drop(space)
        await memory.succession.remove(space)
    await target.forget()
    return AdoptionReport(state=None, notes=["The adopted events are gone from this memory."])
