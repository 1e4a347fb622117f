"""Statements by which one table takes the place of another, and all that stands on it follows."""

from collections.abc import Iterable, Iterator, Sequence

from psycopg import sql

from mnemolite.partitions.blueprint import Blueprint, Index, Row, raw
from mnemolite.partitions.plan import Part
from mnemolite.partitions.ranges import Range
from mnemolite.sql import load

_queries = load("relayout")
_FIRED = {"R": "ENABLE REPLICA", "A": "ENABLE ALWAYS", "D": "DISABLE"}

Statements = Iterator[sql.SQL | sql.Composed]


def create(found: Blueprint, name: str, *, parts: Sequence[Part] | None) -> Statements:
    """An empty table like the one that was found, in another layout; None: one plain table."""
    table = found.identifier(name)
    form = _storage(found) if parts is None else _by_range(found)
    yield _queries["create"].format(table=table, source=found.identifier(), form=form)
    for column in found.columns:
        if column["statistics"] is not None:
            target, named = sql.Literal(column["statistics"]), sql.Identifier(column["name"])
            yield _queries["set_statistics"].format(table=table, column=named, target=target)
    yield from _own(found, name)
    for part in parts or ():
        yield from create_part(found, name, part=part)


def create_part(found: Blueprint, parent: str, *, part: Part) -> Statements:
    """An empty partition."""
    name = f"{parent}_{part.suffix}"
    yield _queries["create_part"].format(
        part=found.identifier(name),
        parent=found.identifier(parent),
        bound=bound_of(part.range),
        form=_storage(found),
    )
    yield from _own(found, name)


def _own(found: Blueprint, name: str) -> Statements:
    if not found.facts["is_own"]:
        owner = raw(found.facts["owner"])
        yield _queries["set_owner"].format(table=found.identifier(name), owner=owner)


def _by_range(found: Blueprint) -> sql.Composable:
    return sql.SQL(" ") + _queries["by_range"] + _place(found)


def _storage(found: Blueprint) -> sql.Composable:
    """How a table that holds rows is stored."""
    options = found.facts["leaf_options"] or found.facts["options"]
    if not options:
        return _place(found)
    return sql.SQL(" ") + _queries["with_options"].format(options=raw(options)) + _place(found)


def _place(found: Blueprint) -> sql.Composable:
    if not found.facts["tablespace"]:
        return sql.SQL("")
    name = sql.Identifier(found.facts["tablespace"])
    return sql.SQL(" ") + _queries["in_tablespace"].format(tablespace=name)


def bound_of(span: Range | None) -> sql.Composable:
    """The bounds of a partition as SQL."""
    if span is None:
        return _queries["as_default"]
    return _queries["from_to"].format(
        since=sql.SQL("MINVALUE") if span.since is None else sql.Literal(span.since.isoformat()),
        until=sql.SQL("MAXVALUE") if span.until is None else sql.Literal(span.until.isoformat()),
    )


def create_indexes(found: Blueprint, name: str) -> Statements:
    """The indexes of the whole; those that its partitions have already are taken over."""
    table = found.identifier(name)
    for index in found.indexes:
        called = f"{name}_{found.suffix(index)}"
        if index.constraint is not None:
            yield _queries["add_key"].format(
                table=table, name=sql.Identifier(called), definition=raw(index.constraint)
            )
        else:
            yield _create_index(_queries["create_index"], table, index=index, called=called)


def create_concurrently(found: Blueprint, table: str, *, index: Index) -> sql.Composed:
    """An index of one table that holds rows, built while nothing else waits for it."""
    statement = _queries["create_index_concurrently"]
    called = f"{table}_{found.suffix(index)}"
    return _create_index(statement, found.identifier(table), index=index, called=called)


def _create_index(
    statement: sql.SQL, table: sql.Identifier, *, index: Index, called: str
) -> sql.Composed:
    return statement.format(
        unique=sql.SQL("UNIQUE " if index.is_unique else ""),
        name=sql.Identifier(called),
        table=table,
        body=raw(index.body),
    )


def dress(found: Blueprint, name: str) -> Statements:
    """Grants and comment, for a table that nobody uses yet."""
    table = found.identifier(name)
    if found.facts["comment"] is not None:
        yield _queries["comment"].format(table=table, text=sql.Literal(found.facts["comment"]))
    for grant in found.grants:
        yield _queries["grant"].format(
            privilege=_privilege(grant),
            table=table,
            grantee=raw(grant["grantee"]),
            option=sql.SQL(" WITH GRANT OPTION" if grant["is_grantable"] else ""),
        )


def _privilege(grant: Row) -> sql.Composable:
    privilege = raw(grant["privilege"])
    if grant["column"] is None:
        return privilege
    return sql.SQL("{} ({})").format(privilege, sql.Identifier(grant["column"]))


def lock(found: Blueprint) -> Statements:
    """Take the table alone; its views before it, as whoever reads them does."""
    for view in found.views:
        yield _queries["lock_view"].format(view=_view(view), owner=raw(view["owner"]))
    yield _queries["lock"].format(table=found.identifier())


def give_name(found: Blueprint, indexes: Iterable[str], *, old: str, new: str) -> Statements:
    """Rename a table, and those of its indexes that are named after it."""
    yield _queries["rename"].format(table=found.identifier(old), name=sql.Identifier(new))
    for index in indexes:
        if index.startswith(f"{old}_"):
            name = sql.Identifier(f"{new}_{index.removeprefix(f'{old}_')}")
            yield _queries["rename_index"].format(index=found.identifier(index), name=name)


def drop_triggers(found: Blueprint) -> Statements:
    """Take the triggers off the table, before it becomes a part of the one that gets them."""
    for trigger in found.triggers:
        name = sql.Identifier(trigger["name"])
        yield _queries["drop_trigger"].format(trigger=name, table=found.identifier())


def move_in(found: Blueprint) -> Statements:
    """What follows the name to its new table: triggers, views, publications."""
    table = found.identifier()
    for trigger in found.triggers:
        name = sql.Identifier(trigger["name"])
        yield raw(trigger["definition"])
        if how := _FIRED.get(trigger["enabled"]):
            yield _queries["enable_trigger"].format(table=table, how=raw(how), trigger=name)
        if trigger["comment"] is not None:
            text = sql.Literal(trigger["comment"])
            yield _queries["comment_trigger"].format(trigger=name, table=table, text=text)
    for view in found.views:
        options: sql.Composable = sql.SQL("")
        if view["options"]:
            options = sql.SQL(" ") + _queries["with_options"].format(options=raw(view["options"]))
        yield _queries["replace_view"].format(
            view=_view(view), options=options, definition=raw(view["definition"].rstrip("; \n"))
        )
    for publication in found.publications:
        name = sql.Identifier(publication)
        yield _queries["add_published"].format(publication=name, table=table)


def leave_publications(found: Blueprint) -> Statements:
    """Take the old table out of its publications, under the name that it has now."""
    for publication in found.publications:
        yield _queries["drop_published"].format(
            publication=sql.Identifier(publication), table=found.identifier()
        )


def _view(view: Row) -> sql.Identifier:
    return sql.Identifier(view["schema"], view["name"])
