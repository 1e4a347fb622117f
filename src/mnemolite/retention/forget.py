"""Forgetting: erase what a filter matches, wherever it lies, and look whether it is gone."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from psycopg import sql

from mnemolite.database import EARLIEST, LATEST, Connection
from mnemolite.errors import InvalidQueryError, LayoutBusyError
from mnemolite.filters import parse
from mnemolite.memory import Memory
from mnemolite.models import (
    MAX_QUERY_CHARACTERS,
    ForgetQuery,
    ForgetReport,
    SearchQuery,
)
from mnemolite.partitions import EVENTS, taking_turn
from mnemolite.retention import batches, journal
from mnemolite.retention.batches import Wanted
from mnemolite.retention.drops import carry_on, steady_connection, unfinished
from mnemolite.retention.rules import FORGET, holds
from mnemolite.retention.run import OnProgress, settle, silent
from mnemolite.retention.selection import any_of
from mnemolite.sql import load

_queries = load("forget")
_retention = load("retention")

_SAMPLES = 10
_HITS = 50
# What tells of events by their ids on purpose, so that others learn that they are gone.
_TELLING = ["event_changes", "search_history", "webhook_deliveries"]
_WRITTEN = ["events", "embedding_queue", "lexicon", "lexicon_queue", "idempotency_keys"]
# How long to wait for partitions that another process is dropping.
_ROUNDS, _ROUND_SECONDS = 60, 1.0
_ELSEWHERE = (
    "PostgreSQL's write-ahead log and what is archived of it, until it is recycled",
    "the files of the tables, until new rows take the place of the erased ones (VACUUM FULL "
    "writes them anew)",
    "replicas, until they have replayed the deletion",
    "backups, exports and logs made before",
)


@dataclass(frozen=True, slots=True)
class _Sample:
    """An event that is to be erased, and its vector in the active space."""

    namespace: str
    text: str
    vector: list[float] | None


class _Erasure:
    """One erasure, with the ids that it has erased."""

    def __init__(
        self, memory: Memory, notes: Connection, *, query: ForgetQuery, override_holds: bool
    ) -> None:
        self._memory = memory
        self._notes = notes
        self._query = query
        self._override = override_holds
        self._wanted = Wanted(
            parse(query.where),
            query.namespace,
            query.session,
            query.since or EARLIEST,
            query.until or LATEST,
        )

    async def tables(self) -> list[str]:
        """Where events lie: the memory, and the partitions that were kept apart from it."""
        return [EVENTS, *await journal.kept_tables(self._notes)]

    async def count(self) -> tuple[int, int]:
        """How many events match, and how many of them are held."""
        events = held = 0
        going = [entry.partition_name for entry in await unfinished(self._notes)]
        for table in [*await self.tables(), *[name for name in going if name]]:
            found, kept = await batches.count(self._notes, self._wanted, table=table)
            events, held = events + found, held + kept
        return events, 0 if self._override else held

    async def held_by(self) -> list[str]:
        """The holds that keep some of it."""
        if self._override:
            return []
        names: set[str] = set()
        for table in await self.tables():
            names |= await batches.names_of_holders(self._notes, self._wanted, table=table)
        return sorted(names)

    async def samples(self) -> list[_Sample]:
        """Some of what is to be erased."""
        space = await self._memory.spaces.active()
        vector: sql.Composable = _queries["no_vector"]
        if space is not None:
            vector = _queries["vector"].format(vectors=sql.Identifier(space.table))
        held = any_of([] if self._override else await holds(self._notes))
        found: list[_Sample] = []
        async for portion in batches.portions(self._notes, self._wanted):
            meant = portion.condition()
            statement = _queries["sample"].format(
                table=sql.Identifier(EVENTS), portion=meant.text, held=held.text, vector=vector
            )
            values = meant.values | held.values | {"limit": _SAMPLES - len(found)}
            async for row in await self._notes.execute(statement, values):
                numbers = json.loads(row["vector"]) if row["vector"] else None
                found.append(_Sample(row["namespace"], row["text"], numbers))
            if len(found) >= _SAMPLES:
                break
        return found

    async def erase(self) -> AsyncIterator[int]:
        """Delete all of it, in batches; the number of events in each."""
        await self._notes.execute(_queries["begin_notes"])
        line = await journal.begin(
            self._notes,
            "forget",
            rule=FORGET,
            namespace=self._query.namespace,
            since=self._query.since,
            until=self._query.until,
        )
        for _ in range(_ROUNDS):
            await self._finish_drops()
            for table in await self.tables():
                async for gone in batches.delete(
                    self._memory.database,
                    self._wanted,
                    line=line,
                    table=table,
                    override_holds=self._override,
                ):
                    await self._notes.execute(_queries["note"], {"ids": list(gone.ids)})
                    yield len(gone.ids)
            if not await unfinished(self._notes):
                break
            await asyncio.sleep(_ROUND_SECONDS)
        await journal.advance(self._notes, line, step="done")

    async def _finish_drops(self) -> None:
        """Let partitions that are on their way out come to their end, if nobody else does."""
        if not await unfinished(self._notes):
            return
        with contextlib.suppress(LayoutBusyError):
            async with taking_turn(self._memory.database) as connection:
                for entry in await unfinished(connection):
                    await carry_on(connection, entry)

    async def ids_left(self) -> dict[str, int]:
        """Rows of erased events, by table, for every column of ids that the database has."""
        await self._notes.execute("ANALYZE mnemolite_erased")
        columns = await self._notes.execute(_queries["id_columns"], {"telling": _TELLING})
        left = {}
        for row in await columns.fetchall():
            query = "ids_left_in_lists" if row["many"] else "ids_left"
            names = {name: sql.Identifier(row[name]) for name in ("table", "column")}
            found = await _one(self._notes, _queries[query].format(**names))
            if found["rows"]:
                left[row["table"]] = found["rows"]
        return left

    async def found_again(self, sample: _Sample) -> int | None:
        """Erased events that a search for the text and by the vector finds; None: no words."""
        space = await self._memory.spaces.active() if sample.vector else None
        try:
            result = await self._memory.search(
                SearchQuery(
                    q=sample.text[:MAX_QUERY_CHARACTERS],
                    namespace=sample.namespace,
                    # Its own vector: so none is made of the text, nor kept in a cache.
                    vector=sample.vector,
                    space=space.id if space else None,
                    mode="hybrid" if sample.vector else "text",
                    limit=_HITS,
                    rerank=False,
                )
            )
        except InvalidQueryError:
            return None
        ids = [hit.id for hit in result.data]
        return int((await _one(self._notes, _queries["noted"], ids=ids))["events"])

    async def vacuum(self) -> list[str]:
        """Remove the dead rows, and what the planner has noted of them."""
        tables = [*_WRITTEN, *await self.tables()]
        rows = await self._notes.execute(_queries["touched"], {"tables": tables})
        names = [row["name"] async for row in rows]
        for name in names:
            await self._notes.execute(_queries["vacuum"].format(table=sql.Identifier(name)))
        return names

    async def elsewhere(self) -> list[str]:
        """Where copies may be: the files of archived partitions, and what any database has."""
        span = {"since": self._query.since or EARLIEST, "until": self._query.until or LATEST}
        rows = await self._notes.execute(_retention["archives"], span)
        return [f"the archive {row['archive']}" async for row in rows] + list(_ELSEWHERE)


async def preview_forget(
    memory: Memory, query: ForgetQuery, *, override_holds: bool = False
) -> ForgetReport:
    """What would be erased; nothing is changed."""
    async with steady_connection(memory.database) as notes:
        erasure = _Erasure(memory, notes, query=query, override_holds=override_holds)
        matched, held = await erasure.count()
        return ForgetReport(
            dry_run=True,
            matched=matched,
            erased=0,
            held=held,
            held_by=await erasure.held_by() if held else [],
            matching_left=matched - held,
            ids_left={},
            searches=0,
            found_again=0,
            vacuumed=[],
            elsewhere=await erasure.elsewhere(),
        )


async def forget(
    memory: Memory,
    query: ForgetQuery,
    *,
    override_holds: bool = False,
    vacuum: bool = True,
    on_progress: OnProgress = silent,
) -> ForgetReport:
    """Erase what matches, with all that was derived from it, then look for it everywhere.

    Holds win unless they are overridden. Another call goes on where a crash has stopped this one.
    """
    async with steady_connection(memory.database) as notes:
        erasure = _Erasure(memory, notes, query=query, override_holds=override_holds)
        matched, _ = await erasure.count()
        samples, erased = await erasure.samples(), 0
        async for events in erasure.erase():
            erased += events
            on_progress("erasing", erased, matched)
        await settle(memory)
        left, held = await erasure.count()
        found = [await erasure.found_again(sample) for sample in samples]
        return ForgetReport(
            dry_run=False,
            matched=matched,
            erased=erased,
            held=held,
            held_by=await erasure.held_by() if held else [],
            matching_left=left - held,
            ids_left=await erasure.ids_left(),
            searches=sum(one is not None for one in found),
            found_again=sum(one or 0 for one in found),
            vacuumed=await erasure.vacuum() if vacuum and erased else [],
            elsewhere=await erasure.elsewhere(),
        )


async def _one(
    connection: Connection, query: sql.SQL | sql.Composed, **values: Any
) -> dict[str, Any]:
    row = await (await connection.execute(query, values)).fetchone()
    assert row is not None
    return row
