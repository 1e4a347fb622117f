"""Rules and holds: what is to go, and what is to stay; SQL in, models out."""

import json
from typing import Any

from mnemolite.database import Connection, Database
from mnemolite.errors import InvalidInputError, RetentionNotFoundError
from mnemolite.filters import parse
from mnemolite.models import RetentionHold, RetentionRule
from mnemolite.sql import load

_queries = load("retention")

# What the log calls that which goes by no stored rule.
PARTITIONS, OLDER_THAN, FORGET = "partitions", "older-than", "forget"


async def rules(connection: Connection) -> list[RetentionRule]:
    """All of them, by name."""
    cursor = await connection.execute(_queries["rules"])
    return [RetentionRule.model_validate(_rule(row)) async for row in cursor]


async def add_rule(database: Database, rule: RetentionRule) -> None:
    """Store a rule. Raises InvalidInputError for a name that is taken, InvalidFilterError."""
    if rule.name in (PARTITIONS, OLDER_THAN, FORGET):
        raise InvalidInputError(
            f"The log calls something else {rule.name!r}.", field="name", remedy="Choose another."
        )
    values = rule.model_dump(exclude={"where"}) | {"filter": _filter(rule.where)}
    await _add(database, "add_rule", values=values)


async def remove_rule(database: Database, name: str) -> None:
    """Delete nothing by this rule any more. Raises RetentionNotFoundError."""
    await _remove(database, "remove_rule", name=name)


async def holds(connection: Connection) -> list[RetentionHold]:
    """All of them, by name."""
    cursor = await connection.execute(_queries["holds"])
    return [RetentionHold.model_validate(row | {"where": row["where"]}) async for row in cursor]


async def add_hold(database: Database, hold: RetentionHold) -> None:
    """Keep what matches. Raises InvalidInputError for a name that is taken, InvalidFilterError."""
    values = hold.model_dump(exclude={"where"}) | {"filter": _filter(hold.where)}
    await _add(database, "add_hold", values=values)


async def remove_hold(database: Database, name: str) -> None:
    """Let go of what it held. Raises RetentionNotFoundError."""
    await _remove(database, "remove_hold", name=name)


async def _add(database: Database, query: str, *, values: dict[str, Any]) -> None:
    async with database.connection() as connection:
        if not (await connection.execute(_queries[query], values)).rowcount:
            raise InvalidInputError(
                f"The name {values['name']!r} is taken.",
                field="name",
                remedy="Choose another, or remove the old one first.",
            )


async def _remove(database: Database, query: str, *, name: str) -> None:
    async with database.connection() as connection:
        if not (await connection.execute(_queries[query], {"name": name})).rowcount:
            raise RetentionNotFoundError(
                f"There is none of the name {name!r}.",
                field="name",
                remedy="`mnemolite retention status` lists rules and holds.",
            )


def _filter(where: dict[str, Any] | None) -> str:
    parse(where)
    return json.dumps(where or {}, ensure_ascii=False)


def _rule(row: dict[str, Any]) -> dict[str, Any]:
    lengths = {"month": row.pop("months"), "day": row.pop("days"), "hour": row.pop("hours")}
    ages = [f"{count} {unit}s" for unit, count in lengths.items() if count]
    return row | {"max_age": ages[0] if ages else None}
