"""SQL and Python agree on every filter and every document, and equality finds the index."""

import json
import os
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import sql

from mnemolite.filters import Filter, matches, parse

EXAMPLES = int(os.environ.get("FILTER_EXAMPLES", "100"))

Document = dict[str, Any]
Connection = psycopg.Connection[tuple[Any, ...]]


@pytest.fixture(scope="module")
def connection(server_dsn: str) -> Iterator[Connection]:
    """A connection of this module's own; all that it makes is temporary."""
    with psycopg.connect(server_dsn, autocommit=True) as opened:
        yield opened


# --- What is generated ---------------------------------------------------------------------------
# Small pools, so that paths are found and values are equal often enough to test both answers.

KEYS = ["a", "b", "a.b", "c\\d", "0", "1", "-1", "+0"]
KEYS += [" 1", "", "é", "%s", "'", '"', "}", "$gt", "a%"]
TEXTS = ["", "a", "b", "B", "ab", "é", "e\u0301"]
TEXTS += ["z", "😀", "\uffff", "1", "true", "null", "2026-03-05"]
TEXTS += ["100%", "%s", "%%", "'", '"', "\\", "\\u0025", "a'; DROP TABLE events;--", "{}", "\x01\n"]
NUMBERS: list[int | float | Decimal] = [0, 1, -1, 2, 1.0, -0.0]
NUMBERS += [0.1, 0.5, 1e23, 10**23, 5e-324, 1e308]
NUMBERS += [2**53, 2**53 + 1, float(2**53), 2**64 + 1, 10**400, Decimal("0.10"), Decimal("1e-300")]
NUMBERS += [Decimal("0.1000000000000000055511151231257827"), Decimal("1E+3"), 1000]

texts = st.sampled_from(TEXTS) | st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=4
)
numbers = (
    st.sampled_from(NUMBERS)
    | st.integers(-(10**30), 10**30)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.decimals(allow_nan=False, allow_infinity=False, places=3)
)
scalars = st.none() | st.booleans() | numbers | texts
keys = st.sampled_from(KEYS)


def containers(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3)


small = containers(scalars)
values = scalars | small | containers(scalars | small)
documents: st.SearchStrategy[Document] = st.dictionaries(keys, values, max_size=5)


def places(value: object, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], object]]:
    """Every place of a document that a path can name, with what is there."""
    if path:
        yield path, value
    if isinstance(value, dict):
        for key in filter(None, value):
            yield from places(value[key], (*path, key))
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from places(item, (*path, str(index)))
            yield from places(item, (*path, str(index - len(value))))


def spelled(path: tuple[str, ...], root: str) -> str:
    escaped = [key.replace("\\", "\\\\").replace(".", "\\.") for key in path]
    return ".".join([root, *escaped])


def known_places(events: list[tuple[Document, Document]]) -> list[tuple[str, object]]:
    return [
        (spelled(path, root), value)
        for pair in events
        for root, document in zip(("content", "metadata"), pair, strict=True)
        for path, value in places(document)
    ]


def kin_of(value: object) -> list[object]:
    """What a value equals, contains, or is easily taken for."""
    if isinstance(value, list):
        members = [[kin] for member in value for kin in kin_of(member)]
        return [value, *value, value[1:], value[::-1], *members]
    if isinstance(value, dict):
        return [value, *({key: kin} for key in value for kin in kin_of(value[key]))]
    if isinstance(value, str):
        return [value, value[1:2], value[:1]]
    return [value, bool(value), int(value)] if value in (0, 1) else [value]


@st.composite
def conditions(draw: st.DrawFn, known: list[tuple[str, object]]) -> Document:
    loose = st.lists(keys.filter(bool), min_size=1, max_size=3)
    unknown = st.tuples(loose.map(lambda keys: spelled(tuple(keys), "metadata")), st.none())
    path, there = draw(st.one_of(*[st.sampled_from(known)] * 4, unknown) if known else unknown)
    others = st.sampled_from([there for _, there in known]) if known else values
    value = st.one_of(*[st.sampled_from(kin_of(there))] * 3, others, values)
    orderable = value.filter(lambda v: isinstance(v, bool | int | float | Decimal | str))
    fillers = value.filter(lambda v: v not in ([], {}))
    order = st.sampled_from(["$gt", "$gte", "$lt", "$lte"])
    operations = st.one_of(
        st.tuples(st.sampled_from(["$eq", "$ne"]), value),
        st.tuples(st.sampled_from(["$in", "$nin"]), st.lists(value, max_size=4)),
        st.tuples(order, orderable),
        st.tuples(order, orderable),
        st.tuples(st.just("$contains"), fillers),
        st.tuples(st.just("$contains"), fillers),
        st.tuples(st.just("$exists"), st.booleans()),
    )
    drawn = draw(st.lists(operations, min_size=1, max_size=2))
    inside = dict(drawn)
    return {path: draw(st.sampled_from([inside, {"$not": inside}]))}


@st.composite
def questions(draw: st.DrawFn) -> tuple[list[tuple[Document, Document]], list[Document]]:
    """Some events, and filters that were made with them in mind."""
    events = draw(st.lists(st.tuples(documents, documents), min_size=1, max_size=4))
    leaf = conditions(known_places(events))
    wheres = st.recursive(
        leaf,
        lambda inner: st.one_of(
            st.fixed_dictionaries({"$and": st.lists(inner, min_size=1, max_size=3)}),
            st.fixed_dictionaries({"$or": st.lists(inner, min_size=1, max_size=3)}),
            st.fixed_dictionaries({"$not": inner}),
        ),
        max_leaves=3,
    )
    return events, draw(st.lists(wheres, min_size=1, max_size=8))


# --- What PostgreSQL says ------------------------------------------------------------------------


def encoded(value: object) -> str:
    """JSON with every number as exact as it is; json.dumps knows no Decimal."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{json.dumps(k)}:{encoded(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(encoded, value)) + "]"
    return str(value) if isinstance(value, Decimal) else json.dumps(value)


def answers(
    connection: Connection, events: list[tuple[Document, Document]], parsed: list[Filter]
) -> list[tuple[object, ...]]:
    """One row an event, one column a filter."""
    rows = sql.SQL(", ").join([sql.SQL("(%s, %s::jsonb, %s::jsonb)")] * len(events))
    columns = sql.SQL(", ").join(filter.to_sql() for filter in parsed)
    statement = sql.SQL(
        "SELECT {} FROM (VALUES {}) AS events (n, content, metadata) ORDER BY n"
    ).format(columns, rows)
    parameters = [
        value
        for n, (content, metadata) in enumerate(events)
        for value in (n, encoded(content), encoded(metadata))
    ]
    return connection.execute(statement, parameters).fetchall()


def everything_about(path: str, there: object) -> Iterator[Document]:
    """Each operator on one place, with operands that nearly or truly fit."""
    for kin in kin_of(there):
        yield {path: {"$eq": kin}}
        yield {path: {"$in": [kin, None]}}
        yield {path: {"$nin": [kin, "b"]}}
        if kin not in ([], {}):
            yield {path: {"$contains": kin}}
            yield {path: {"$contains": [kin]}}
        if isinstance(kin, bool | int | float | Decimal | str):
            yield from ({path: {order: kin}} for order in ("$gt", "$gte", "$lt", "$lte"))


def disagreements(
    connection: Connection, events: list[tuple[Document, Document]], wheres: list[Document]
) -> list[tuple[object, ...]]:
    parsed = [parse(where) for where in wheres]
    rows = answers(connection, events, parsed)
    return [
        (where, content, metadata, said)
        for (content, metadata), row in zip(events, rows, strict=True)
        for where, filter, said in zip(wheres, parsed, row, strict=True)
        if said is not matches(filter, content=content, metadata=metadata)
    ]


slow = [HealthCheck.too_slow, HealthCheck.data_too_large]


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=slow)
@given(question=questions())
def test_sql_and_python_agree_on_any_filter(
    connection: Connection, question: tuple[list[tuple[Document, Document]], list[Document]]
) -> None:
    events, wheres = question
    assert disagreements(connection, events, wheres) == []


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=slow)
@given(pair=st.tuples(documents, documents))
def test_sql_and_python_agree_on_every_place(
    connection: Connection, pair: tuple[Document, Document]
) -> None:
    places = known_places([pair])
    wheres = [where for path, there in places for where in everything_about(path, there)]
    assert disagreements(connection, [pair, ({}, {})], wheres[:500]) == []


EVENT = {"user": "ada", "tags": ["red", "blue"], "a": {"b": {"c": 1}}, "100%": "50%", "n": 1.0}


@pytest.fixture(scope="module")
def indexed(connection: Connection) -> Connection:
    """A table like the real one, where a filter that can use the index does."""
    connection.execute(
        "CREATE TEMPORARY TABLE events (n bigint, content jsonb NOT NULL, metadata jsonb NOT NULL)"
    )
    connection.execute("CREATE INDEX ON events USING gin (metadata jsonb_path_ops)")
    connection.execute(
        "INSERT INTO events VALUES (0, %s::jsonb, %s::jsonb)", ["{}", encoded(EVENT)]
    )
    connection.execute(
        "INSERT INTO events SELECT n, '{}', jsonb_build_object('user', 'u' || n, 'n', -n)"
        " FROM generate_series(1, 2000) AS n"
    )
    connection.execute("ANALYZE events")
    connection.execute("SET enable_seqscan = off")
    return connection


def plan(connection: Connection, where: object) -> str:
    rows = connection.execute(selecting(where, explain=True)).fetchall()
    return "\n".join(row[0] for row in rows)


def selecting(where: object, *, explain: bool = False) -> sql.Composed:
    select = sql.SQL("{}SELECT e.n FROM events AS e WHERE {}")
    prefix = sql.SQL("EXPLAIN " if explain else "")
    return select.format(prefix, parse(where).to_sql("e"))


@pytest.mark.parametrize(
    "where",
    [
        {"user": "ada"},
        {"n": 1},
        {"a.b.c": 1},
        {"metadata.user": "ada"},
        {"user": "ada", "n": {"$gt": 0}},
        {"user": "ada", "n": {"$ne": 7}},
        {"user": {"$in": ["ada", "bob"]}},
        {"user": {"$in": ["ada", *(f"x{i}" for i in range(99))]}},
        {"tags": ["red", "blue"]},
        {"tags": {"$in": [["red", "blue"], "green"]}},
        {"tags": {"$contains": ["red"]}},
        {"a": {"$contains": {"b": {"c": 1}}}},
        {"100%": "50%"},
        {"$and": [{"user": "ada"}, {"$or": [{"n": {"$lt": 2}}, {"x": None}]}]},
        {"$or": [{"user": "ada"}, {"n": 5}]},
    ],
    ids=repr,
)
def test_the_index_finds_it(indexed: Connection, where: Document) -> None:
    assert "Bitmap Index Scan" in plan(indexed, where)
    assert indexed.execute(selecting(where)).fetchall() == [(0,)]


@pytest.mark.parametrize(
    "where",
    [
        {"user": {"$in": [f"x{i}" for i in range(999)] + ["ada"]}},
        {"tags.0": "red"},
        {"tags": {"$contains": "red"}},
        {"user": {"$contains": "ad"}},
        {"absent": None, "n": 1},
        {"user": {"$nin": [f"u{i}" for i in range(1000)], "$lt": "u"}},
        {"$not": {"user": {"$gte": "u"}}},
    ],
    ids=lambda where: repr(where)[:60],
)
def test_what_the_index_cannot_say_is_found_all_the_same(
    indexed: Connection, where: Document
) -> None:
    assert indexed.execute(selecting(where)).fetchall() == [(0,)]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(question=questions())
def test_the_index_changes_no_answer(
    indexed: Connection, question: tuple[list[tuple[Document, Document]], list[Document]]
) -> None:
    events, wheres = question
    with indexed.transaction(force_rollback=True):
        for n, (content, metadata) in enumerate(events):
            pair = [-n - 1, encoded(content), encoded(metadata)]
            indexed.execute("INSERT INTO events VALUES (%s, %s::jsonb, %s::jsonb)", pair)
        for where in wheres:
            found = {n for (n,) in indexed.execute(selecting(where)).fetchall() if n < 0}
            filter = parse(where)
            assert found == {
                -n - 1
                for n, (content, metadata) in enumerate(events)
                if matches(filter, content=content, metadata=metadata)
            }, where


@pytest.mark.parametrize(
    "name", ["a'; DROP TABLE events;--", "a}", '"', "'", "%s", "%", "$1", "é", "😀"]
)
def test_odd_names_and_texts_reach_the_database_as_they_are(
    connection: Connection, name: str
) -> None:
    path = f"metadata.{name}"
    wheres: list[Document] = [
        {path: name},
        {path: {"$in": [name, "b", 1]}},
        {path: {"$gte": name, "$lte": name}},
        {path: {"$contains": name}},
        {"$not": {path: {"$exists": False}}},
    ]
    parsed = [parse(where) for where in wheres]
    assert answers(connection, [({}, {name: name})], parsed) == [(True,) * len(wheres)]
    assert answers(connection, [({}, {name: f"{name}x"[::-1]})], parsed)[0][0] is False


@pytest.mark.parametrize("parameters", [None, {"n": 0}, {}])
def test_a_filter_means_the_same_with_parameters_and_without(
    indexed: Connection, parameters: dict[str, int] | None
) -> None:
    where = parse({"100%": {"$eq": "50%", "$lte": "50%", "$contains": "0%"}})
    bound = sql.SQL("e.n = %(n)s AND " if parameters else "")
    statement = sql.SQL("SELECT e.n FROM events AS e WHERE {}{}").format(bound, where.to_sql("e"))
    assert indexed.execute(statement, parameters).fetchall() == [(0,)]


def test_strings_sort_by_code_point_in_any_locale(connection: Connection) -> None:
    """A locale would put b before Z, and é before z."""
    filters = [
        parse({"a": {"$gt": "Z"}}),
        parse({"a": {"$gt": "z"}}),
        parse({"a": {"$lt": "\uffff"}}),
    ]
    said = answers(connection, [({}, {"a": "b"}), ({}, {"a": "é"}), ({}, {"a": "😀"})], filters)
    assert said == [(True, False, True), (True, True, True), (True, True, False)]
