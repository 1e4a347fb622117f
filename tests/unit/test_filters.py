"""The filter language in Python: what each operator says, and which filters are refused."""

import json
import math
from collections.abc import Mapping
from decimal import Decimal
from enum import Enum

import pytest

from mnemolite import filters
from mnemolite.errors import InvalidFilterError
from mnemolite.filters import And, Filter, OneOf, Path, matches, parse

METADATA: dict[str, object] = {
    "user": "ada",
    "age": 36,
    "score": 0.1,
    "big": 2**70 + 1,
    "active": True,
    "nothing": None,
    "tags": ["red", "deep blue", 3, None, [1, 2], {"sku": "A1", "qty": 2}],
    "place": {"city": "Paris", "geo": {"lat": 48.9}, "0": "zero"},
    "when": "2026-03-05T10:00:00Z",
    "v1.2": {"a\\b": "dotted"},
    "content": "metadata's own",
    "metadata": {"deep": 1},
    "$odd": "dollar",
    "100%": "all",
    "'; DROP TABLE events;--": "quoted",
    "empty": [],
    "blank": {},
}
CONTENT: dict[str, object] = {"text": "The ferry leaves at nine", "speaker": "Ada", "turns": [1, 2]}


def found(where: object) -> bool:
    return matches(parse(where), content=CONTENT, metadata=METADATA)


class Role(str, Enum):  # noqa: UP042 - its str() is not its value, which is the point
    ADA = "ada"


@pytest.mark.parametrize(
    "where",
    [
        None,
        {},
        {"user": "ada"},
        {"user": Role.ADA},
        {"user": {"$eq": "ada"}},
        {"user": "ada", "age": 36},
        {"age": 36.0},
        {"age": Decimal("36.00")},
        {"score": Decimal("0.1")},
        {"score": {"$gte": 0.1, "$lte": 0.1}},
        {"big": 2**70 + 1},
        {"big": {"$gt": 2**70}},
        {"big": {"$gt": float(2**70)}},
        {"user": {"$ne": "bob"}},
        {"absent": {"$ne": "bob"}},
        {"nothing": None},
        {"absent": None},
        {"user.name": None},
        {"user": {"$ne": None}},
        {"nothing": {"$exists": True, "$eq": None}},
        {"absent": {"$exists": False}},
        {"age": {"$gt": 35}},
        {"age": {"$gte": 36}},
        {"age": {"$lt": 36.5}},
        {"age": {"$lte": 36}},
        {"when": {"$gte": "2026-03-05", "$lt": "2026-03-06"}},
        {"user": {"$gt": "Zoe"}},
        {"user": {"$lt": "é"}},
        {"user": {"$lt": "ada\U0001f600"}},
        {"active": {"$gt": False}},
        {"user": {"$in": ["bob", "ada"]}},
        {"absent": {"$in": [1, None]}},
        {"user": {"$nin": ["bob", 1]}},
        {"user": {"$nin": []}},
        {"absent": {"$nin": [1]}},
        {"age": {"$not": {"$gt": 36}}},
        {"age": {"$not": {"$not": {"$gt": 3}}}},
        {"absent": {"$not": {"$gt": 3}}},
        {"user": {"$not": {"$gt": 3}}},
        {"tags": {"$contains": "red"}},
        {"tags": {"$contains": 3.0}},
        {"tags": {"$contains": None}},
        {"tags": {"$contains": ["red", 3]}},
        {"tags": {"$contains": [[2]]}},
        {"tags": {"$contains": {"sku": "A1"}}},
        {"user": {"$contains": "d"}},
        {"user": {"$contains": ""}},
        {"place": {"$contains": {"geo": {"lat": 48.9}}}},
        {"place.geo.lat": {"$gt": 48}},
        {"place.0": "zero"},
        {"tags.0": "red"},
        {"tags.-1.sku": "A1"},
        {"tags.4.1": 2},
        {"tags.4": [1, 2]},
        {"empty": []},
        {"blank": {"$eq": {}}},
        {"place.geo": {"lat": 48.90}},
        {r"v1\.2.a\\b": "dotted"},
        {"metadata.user": "ada"},
        {"metadata.content": "metadata's own"},
        {"metadata.metadata.deep": 1},
        {"metadata.$odd": "dollar"},
        {"100%": "all"},
        {"'; DROP TABLE events;--": "quoted"},
        {"content.text": {"$contains": "ferry"}},
        {"content.turns": {"$contains": [2, 1]}},
        {"$and": [{"user": "ada"}, {"age": 36}]},
        {"$and": [{"user": "ada"}]},
        {"$or": [{"user": "bob"}, {"age": 36}]},
        {"$not": {"user": "ada", "age": 1}},
        {"user": "ada", "$or": [{"age": 1}, {"$not": {"age": 2}}]},
    ],
    ids=repr,
)
def test_a_filter_matches_and_its_negation_does_not(where: Mapping[str, object] | None) -> None:
    assert found(where)
    if where:
        assert not found({"$not": where})


@pytest.mark.parametrize(
    "where",
    [
        {"user": "Ada"},
        {"user": "ada", "age": 1},
        {"active": 1},
        {"active": "true"},
        {"age": "36"},
        {"age": True},
        {"score": Decimal("0.1000000000000000055511151231257827")},
        {"big": float(2**70)},
        {"nothing": False},
        {"nothing": {"$exists": False}},
        {"absent": {"$exists": True}},
        {"absent": {"$gt": 0}},
        {"nothing": {"$gte": 0}},
        {"age": {"$gt": "1"}},
        {"user": {"$gt": 1}},
        {"active": {"$gte": 0}},
        {"user": {"$in": []}},
        {"absent": {"$nin": [None]}},
        {"tags": "red"},
        {"tags": {"$contains": "blue"}},
        {"tags": {"$contains": ["red", "green"]}},
        {"tags": {"$contains": {"sku": "A1", "qty": 3}}},
        {"tags": {"$contains": {"qty": True}}},
        {"absent": {"$contains": None}},
        {"user": {"$contains": ["a"]}},
        {"place": {"$contains": "Paris"}},
        {"place": {"city": "Paris"}},
        {"tags.6": None, "user": "bob"},
        {"tags.1_0": {"$exists": True}},
        {"tags.99999999999999999999": {"$exists": True}},
        {"user.0": "a"},
        {"v1.2": {"$exists": True}},
        {"content.user": "ada"},
        {"$or": [{"user": "bob"}, {"age": 1}]},
        {"$not": {"user": "ada"}},
    ],
    ids=repr,
)
def test_a_filter_does_not_match_and_its_negation_does(where: Mapping[str, object]) -> None:
    assert not found(where)
    assert found({"$not": where})


def nested(levels: int) -> dict[str, object]:
    where: dict[str, object] = {"a": 1}
    for _ in range(levels - 1):
        where = {"$not": where}
    return where


def deep(levels: int) -> object:
    value: object = 1
    for _ in range(levels):
        value = [value]
    return value


BAD: list[tuple[object, str, str]] = [
    # Shapes.
    ("user", "where", "An object is expected"),
    ([], "where", "An object is expected"),
    (7, "where", "An object is expected"),
    ({"$and": {"a": 1}}, "where.$and", "A list is expected"),
    ({"$or": []}, "where.$or", "list is empty"),
    ({"$and": [{}]}, "where.$and[0]", "object is empty"),
    ({"$or": [{"a": 1}, 2]}, "where.$or[1]", "An object is expected"),
    ({"$not": {}}, "where.$not", "object is empty"),
    ({"$not": [{"a": 1}]}, "where.$not", "An object is expected"),
    ({"a": {}}, "where.a", "no operator"),
    ({"a": {"gt": 3}}, "where.a", "$gt"),
    ({"a": {"$gt": 3, "b": 1}}, "where.a", "side by side"),
    ({"a": {"$not": 3}}, "where.a.$not", "object of operators"),
    ({"a": {"$not": {"b": 3}}}, "where.a.$not", "object of operators"),
    ({"a": {"$not": {}}}, "where.a.$not", "no operator"),
    ({1: 2}, "where.1", "key must be a string"),
    ({"a": {1: 2}}, "where.a.1", "key must be a string"),
    # Operators.
    ({"a": {"$gtt": 1}}, "where.a.$gtt", "Did you mean $gt"),
    ({"a": {"$notin": [1]}}, "where.a.$notin", "Did you mean $not"),
    ({"a": {"$regex": "x"}}, "where.a.$regex", "Valid here: $eq, $ne, $gt"),
    ({"a": {"$or": [1]}}, "where.a.$or", "around the field"),
    ({"$nor": [{"a": 1}]}, "where.$nor", "Did you mean $"),
    ({"$gt": 3}, "where.$gt", "inside a field"),
    ({"$": 3}, "where.$", "Valid here: $and, $or, $not"),
    # Operands.
    ({"user": {"$gte": None}}, "where.user.$gte", "a number, a string or a boolean"),
    ({"user": {"$lt": [1]}}, "where.user.$lt", "a number, a string or a boolean"),
    ({"user": {"$gt": {"a": 1}}}, "where.user.$gt", "a number, a string or a boolean"),
    ({"a": {"$in": "x"}}, "where.a.$in", "A list is expected"),
    ({"a": {"$nin": {"b": 1}}}, "where.a.$nin", "A list is expected"),
    ({"a": {"$exists": 1}}, "where.a.$exists", "true or false"),
    ({"a": {"$exists": None}}, "where.a.$exists", "true or false"),
    ({"a": {"$contains": []}}, "where.a.$contains", "$exists"),
    ({"a": {"$contains": {}}}, "where.a.$contains", "$exists"),
    ({"a": {"$eq": b"x"}}, "where.a.$eq", "A bytes is not JSON"),
    ({"a": {1, 2}}, "where.a", "A set is not JSON"),
    ({"a": math.nan}, "where.a", "finite"),
    ({"a": {"$gt": math.inf}}, "where.a.$gt", "finite"),
    ({"a": [1, {"b": Decimal("-Infinity")}]}, "where.a[1].b", "finite"),
    ({"a": Decimal("sNaN")}, "where.a", "finite"),
    ({"a": 10**1000}, "where.a", "1000 digits"),
    ({"a": Decimal("1e-1001")}, "where.a", "1000 digits"),
    ({"a": Decimal("1e999999")}, "where.a", "1000 digits"),
    # Text that PostgreSQL cannot hold.
    ({"a": "x\0"}, "where.a", "U+0000"),
    ({"a": {"$in": ["x", "\ud800"]}}, "where.a.$in[1]", "U+D800"),
    ({"a": {"$eq": {"b\0": 1}}}, r"where.a.$eq.b\u0000", "U+0000"),
    ({"a\0": 1}, r"where.a\u0000", "U+0000"),
    ({"a.\udfff": 1}, r"where.a.\udfff", "U+DFFF"),
    ({"a": {"$gt\0": 1}}, r"where.a.$gt\u0000", "U+0000"),
    # Paths.
    ({"": 1}, "where.", "empty segment"),
    ({".": 1}, "where..", "empty segment"),
    ({"a..b": 1}, "where.a..b", "empty segment"),
    ({".a": 1}, "where..a", "empty segment"),
    ({"a.": 1}, "where.a.", "empty segment"),
    ({"a\\": 1}, "where.a\\", "backslash"),
    ({"a\\n": 1}, "where.a\\n", "backslash"),
    ({"a\\'": 1}, "where.a\\'", "backslash"),
    ({"content": 1}, "where.content", "content.key"),
    ({"metadata": {"$exists": True}}, "where.metadata", "metadata.metadata"),
    ({".".join("a" * 17): 1}, f"where.{'.'.join('a' * 17)}", "16 segments"),
    ({"a" * 501: 1}, f"where.{'a' * 80}…", "500 characters"),
    # Sizes.
    (nested(9), "where" + ".$not" * 8, "8 levels"),
    ({"a": {"$eq": deep(9)}}, "where.a.$eq" + "[0]" * 9, "8 levels"),
    ({"a": {"$eq": deep(5000)}}, "where.a.$eq" + "[0]" * 9, "8 levels"),
    ({"$or": [{"a": 1}] * 101}, "where.$or[100].a", "100 conditions"),
    ({"a": {"$in": [1] * 1001}}, "where.a.$in", "1000 values"),
    ({"a": {"$eq": {str(i): i for i in range(1001)}}}, "where.a.$eq", "1000 values"),
]


@pytest.mark.parametrize(("where", "field", "says"), BAD, ids=[str(i) for i in range(len(BAD))])
def test_a_bad_filter_is_refused_where_it_is_bad(where: object, field: str, says: str) -> None:
    with pytest.raises(InvalidFilterError) as caught:
        parse(where)
    assert caught.value.field == field
    assert says in f"{caught.value.detail} {caught.value.remedy}"
    json.dumps(str(caught.value), ensure_ascii=False).encode()


def test_the_field_names_where_the_filter_came_from() -> None:
    with pytest.raises(InvalidFilterError) as caught:
        parse({"user": {"$gte": []}}, field="body.where")
    assert caught.value.field == "body.where.user.$gte"


@pytest.mark.parametrize(
    "where",
    [
        nested(8),
        {"a": {"$eq": deep(8)}},
        {"$or": [{"a": 1}] * 100},
        {"a": {"$in": [1] * 1000}},
        {".".join("a" * 16): 1},
        {"a" * 500: 1},
        {"a": 10**1000 - 1},
        {"a": 5e-324},
    ],
    ids=lambda where: str(where)[:20],
)
def test_the_limits_themselves_are_allowed(where: object) -> None:
    assert isinstance(parse(where), Filter)


@pytest.mark.parametrize("where", [None, {}])
def test_nothing_asked_is_everything_found(where: object) -> None:
    assert parse(where) == And(())
    assert parse(where).to_sql().as_string() == "(TRUE)"


@pytest.mark.parametrize(
    "name",
    [
        "a'; DROP TABLE events;--",
        "a}",
        "{",
        '"',
        "'",
        "''",
        r"\\",
        "é",
        "表",
        "😀",
        "%s",
        "x$1",
        ":a",
    ],
)
def test_odd_characters_stay_inside_quotes(name: str) -> None:
    plain = name.replace(r"\\", "\\")
    where = {name: {"$eq": name, "$gt": name, "$in": [name, "b"], "$contains": name}}
    text = parse(where).to_sql().as_string()
    assert "%" not in text
    assert parse({name: 1}) == OneOf(Path("metadata", (plain,)), (1,))
    outside = "".join(text.replace("''", "").split("'")[::2])
    assert "DROP" not in outside
    assert outside.count("(") == outside.count(")")


def test_strings_are_ordered_without_the_locale_of_the_database() -> None:
    """The embedded server has no other locale to show the difference on."""
    assert """#>> '{}') COLLATE "C" > 'x'""" in parse({"a": {"$gt": "x"}}).to_sql().as_string()


def test_the_alias_is_quoted() -> None:
    assert parse({"a": 1}).to_sql('e"').as_string().startswith('("e"""."metadata" @>')


def test_a_parsed_filter_does_not_change_with_what_it_was_parsed_from() -> None:
    wanted = {"a": [1]}
    parsed = parse({"place": {"$eq": wanted}})
    wanted["a"].append(2)
    assert matches(parsed, content={}, metadata={"place": {"a": [1]}})


def test_the_public_names_are_sorted_and_exist() -> None:
    assert sorted(filters.__all__, key=lambda n: (not n.isupper(), n.islower(), n)) == list(
        filters.__all__
    )
    assert all(hasattr(filters, name) for name in filters.__all__)
