"""Words that were counted aside leave nothing behind, however the drop ends."""

import psycopg
import pytest

from mnemolite.memory import Memory
from mnemolite.retention.words import gathered

LEFT = (
    "SELECT (SELECT count(*) FROM pg_temp.mnemolite_lexemes) AS lexemes,"
    " (SELECT count(*) FROM pg_temp.mnemolite_words) AS words"
)


async def test_nothing_of_the_words_is_left(months: Memory) -> None:
    async with months.database.connection() as connection:

        async def left() -> tuple[int, int]:
            row = await (await connection.execute(LEFT)).fetchone()
            assert row is not None
            return row["lexemes"], row["words"]

        async with gathered(connection, "events_p20200101"):
            lexemes, words = await left()
            assert lexemes == 30
            assert words > 0
        assert await left() == (0, 0)
        with pytest.raises(psycopg.DataError):
            async with gathered(connection, "events_p20200101"), connection.transaction():
                await connection.execute("SELECT 1 / 0")
        assert await left() == (0, 0)
