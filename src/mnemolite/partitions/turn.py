"""Taking turns: one process at a time changes how the events and their vectors are laid out."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from mnemolite.database import Connection, Database, translated_errors
from mnemolite.errors import DatabaseError, LayoutBusyError
from mnemolite.sql import load

_queries = load("turn")
_LOCK = 0x6D6E656D72


@asynccontextmanager
async def taking_turn(database: Database, *, finishing: bool = False) -> AsyncIterator[Connection]:
    """A connection of its own, in autocommit mode, that holds the right to change the layout.

    ``finishing`` is for those who go on with what was left unfinished; for all others it is not
    their turn until that is done: what they do to a table would not reach the copy that takes its
    place. Raises LayoutBusyError that says who is at it, or what is unfinished.
    """
    async with database.own_connection() as connection:
        await connection.execute(_queries["settle"])
        row = await (await connection.execute(_queries["take"], {"lock": _LOCK})).fetchone()
        if not (row and row["mine"]):
            raise LayoutBusyError(await _holder(connection))
        try:
            if not finishing:
                await _refuse_unfinished(connection)
            yield connection
        finally:
            await _give_back(connection)


async def _give_back(connection: Connection) -> None:
    """A session that ends lets go too, but at some later moment: the next one need not wait."""
    if not connection.closed:
        with suppress(DatabaseError), translated_errors():
            await connection.execute(_queries["give_back"], {"lock": _LOCK})


async def _holder(connection: Connection) -> str:
    row = await (await connection.execute(_queries["holder"], {"lock": _LOCK})).fetchone()
    who = f"The process {row['pid']}" if row else "Another process"
    return f"{who} is changing the layout of the database."


async def _refuse_unfinished(connection: Connection) -> None:
    row = await (await connection.execute(_queries["unfinished"])).fetchone()
    if row is not None:
        raise LayoutBusyError(
            f"The {row['operation']} of {row['source']} is not finished.",
            remedy=f"A worker goes on with it; so does `mnemolite partitions {row['operation']}`.",
        )
