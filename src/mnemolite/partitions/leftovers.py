"""Leftovers of a change whose table has been dropped meanwhile, as a space can be."""

from psycopg import sql

from mnemolite.database import Connection
from mnemolite.partitions.trail import Names
from mnemolite.sql import load

_queries = load("relayout")


async def clear_leftovers(connection: Connection, source: str) -> None:
    """Drop what was made for the change, and forget it."""
    names = Names(source)
    async with connection.transaction():
        for table in (names.shadow, names.old, names.log):
            await connection.execute(_queries["drop"].format(table=sql.Identifier(table)))
        for function in (names.note, names.keep):
            statement = _queries["drop_function"].format(function=sql.Identifier(function))
            await connection.execute(statement)
        await connection.execute(_queries["end"], {"source": source})
