"""The trail of a table that is copied: the keys of what is written meanwhile, and their use."""

from collections.abc import Sequence
from dataclasses import dataclass

from psycopg import sql
from psycopg.types.json import Jsonb

from mnemolite.database import Connection
from mnemolite.partitions.blueprint import Blueprint, raw
from mnemolite.partitions.exchange import Statements
from mnemolite.sql import load

_queries = load("relayout")


@dataclass(frozen=True, slots=True)
class Names:
    """What a change makes beside its table, and drops again."""

    source: str

    @property
    def shadow(self) -> str:
        """The copy, until it takes the name."""
        return f"{self.source}_new"

    @property
    def old(self) -> str:
        """The table whose name was taken, until it is dropped."""
        return f"{self.source}_old"

    @property
    def log(self) -> str:
        """The keys of the rows that were written since the copy began."""
        return f"{self.source}_relayout_log"

    @property
    def note(self) -> str:
        """The trigger that writes the log, and its function."""
        return f"{self.source}_relayout_note"

    @property
    def keep(self) -> str:
        """The trigger that refuses TRUNCATE, and its function."""
        return f"{self.source}_relayout_keep"


class Trail:
    """What is written to a table while it is copied, and how the copy follows."""

    def __init__(self, connection: Connection, found: Blueprint) -> None:
        self._connection = connection
        self._found = found
        self._names = Names(found.name)

    def follow(self) -> Statements:
        """The log, and the trigger that writes it; it waits for those who write just now."""
        found, names = self._found, self._names
        yield _queries["create_log"].format(
            log=found.identifier(names.log), columns=self._typed(" NOT NULL")
        )
        yield _queries["create_note"].format(
            function=found.identifier(names.note),
            log=found.identifier(names.log),
            key=listed(found.key),
            old=listed(found.key, of="OLD"),
            new=listed(found.key, of="NEW"),
        )
        yield _queries["create_keep"].format(function=found.identifier(names.keep))
        triggers = {"create_note_trigger": names.note, "create_keep_trigger": names.keep}
        for query, name in triggers.items():
            yield _queries[query].format(
                trigger=sql.Identifier(name),
                table=found.identifier(),
                function=found.identifier(name),
            )

    def clear(self) -> Statements:
        """Drop the log, and the triggers with their functions."""
        for name in (self._names.note, self._names.keep):
            yield _queries["drop_function"].format(function=self._found.identifier(name))
        yield _queries["drop"].format(table=self._found.identifier(self._names.log))

    async def sync(self, limit: int) -> int:
        """Bring some of the rows that were written up to date; how many entries of the log.

        What is written while this runs stands in the log once it is committed, and is taken then.
        """
        found = self._found
        take = _queries["take_log"].format(
            log=found.identifier(self._names.log), key=listed(found.key)
        )
        taken = await (await self._connection.execute(take, {"limit": limit})).fetchone()
        if taken is None or not taken["rows"]:
            return 0
        parts = {
            "shadow": found.identifier(self._names.shadow),
            "source": found.identifier(),
            "typed": self._typed(),
            "columns": listed(found.written),
            "of_source": listed(found.written, of="s"),
            "of_s": listed(found.key, of="s"),
            "of_k": listed(found.key, of="k"),
        }
        for query in ("unsync", "sync"):
            statement = _queries[query].format(**parts)
            await self._connection.execute(statement, {"keys": Jsonb(taken["keys"])})
        return int(taken["rows"])

    def _typed(self, behind: str = "") -> sql.Composed:
        return sql.SQL(", ").join(
            sql.SQL("{} {}").format(sql.Identifier(name), raw(f"{kind}{behind}"))
            for name, kind in self._found.key_types.items()
        )


def listed(names: Sequence[str], *, of: str | None = None) -> sql.Composed:
    """Columns, of a table where that is said."""
    prefix = sql.SQL("") if of is None else raw(f"{of}.")
    return sql.SQL(", ").join(prefix + sql.Identifier(name) for name in names)
