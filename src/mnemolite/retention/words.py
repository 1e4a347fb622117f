"""The words of a partition of events that goes: counted aside, then taken out of the lexicon.

A detached partition does not change any more, so what reads much is done before the transaction
that takes it away. Readers of the feed, and whoever counts words, wait for that one alone.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from psycopg import sql

from mnemolite.database import Connection
from mnemolite.sql import load

_queries = load("drop_words")


@asynccontextmanager
async def gathered(connection: Connection, partition: str) -> AsyncIterator[None]:
    """The words of a partition, counted, in a table that only this connection sees.

    Nothing of them is left in it when the block ends, however it does.
    """
    for name in ("room_for_lexemes", "room_for_words"):
        await connection.execute(_queries[name])
    try:
        await _gather(connection, partition)
        yield
    finally:
        if not connection.closed:
            await connection.execute(_queries["clear"])


async def discount(connection: Connection, partition: str) -> None:
    """Take what was gathered out of the lexicon, in a transaction that holds COUNT_LOCK."""
    await connection.execute(_queries["have_room"])
    await connection.execute(_queries["discount"])
    totals = _queries["discount_totals"].format(partition=sql.Identifier(partition))
    await connection.execute(totals)


async def _gather(connection: Connection, partition: str) -> None:
    for name in ("gather_lexemes", "gather_words"):
        async with connection.transaction():
            await connection.execute(_queries["have_room"])
            await connection.execute(_queries[name].format(partition=sql.Identifier(partition)))
