"""A foreign table of events is taken over: offline, online, and back again."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import psycopg
import pytest
from pydantic import ValidationError

from mnemolite import adoption
from mnemolite.embeddings.templates import recall_text
from mnemolite.errors import AdoptionError, DatabaseError
from mnemolite.memory import Memory
from mnemolite.models import AdoptionPlan, AdoptionReport, NewEvent, SearchQuery
from mnemolite.worker import Worker
from tests import foreign
from tests.conftest import _fresh_database

ROWS = 230


@pytest.fixture
def source(server_dsn: str) -> Iterator[str]:
    """A database without tables, for a foreign one."""
    yield from _fresh_database(server_dsn, "template0")


@pytest.fixture
def filled(source: str) -> str:
    foreign.create(source)
    foreign.fill(source, 1, ROWS)
    return source


def silent(_doing: str, _done: int, _total: int) -> None:
    pass


def plan(**fields: Any) -> AdoptionPlan:
    return AdoptionPlan(**{"space": "old-model", "batch": 50, **fields})


async def adopt(memory: Memory, dsn: str, **fields: Any) -> AdoptionReport:
    return await adoption.adopt(memory, dsn, plan=plan(**fields), show=silent)


def execute(dsn: str, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
    with foreign.connect(dsn) as sql:
        cursor = sql.execute(statement.encode(), parameters)
        return cursor.fetchall() if cursor.description else []


def space_of(report: AdoptionReport) -> int:
    assert report.state is not None
    assert report.state.space is not None
    return report.state.space


@pytest.mark.parametrize(
    ("key", "partitioned"),
    [
        ("id", False),
        ("id, timestamp", False),
        ("timestamp, id", False),
        ("id, timestamp", True),
        ("timestamp, id", True),
    ],
)
async def test_offline_all_rows_are_the_same(
    memory: Memory, dsn: str, source: str, key: foreign.Key, partitioned: bool
) -> None:
    foreign.create(source, key=key, partitioned=partitioned)
    foreign.fill(source, 1, ROWS)
    before = foreign.rows(source)
    report = await adopt(memory, source)
    assert len(before) == ROWS
    assert foreign.adopted(dsn, space_of(report)) == before == foreign.rows(source)
    assert report.source == report.target
    assert report.source is not None
    assert (report.source.rows, report.source.vectors) == (ROWS, ROWS - ROWS // 7)
    queued = execute(dsn, "SELECT space, count(*) FROM embedding_queue GROUP BY 1")
    assert queued == [(memory.space.id, ROWS)]


WRITES = (
    "UPDATE events SET metadata = metadata || '{\"changed\": true}' WHERE metadata ->> 'n' = '12'",
    "UPDATE events SET content = content || '{\"text\": \"new\"}' WHERE metadata ->> 'n' = '13'",
    "UPDATE events SET timestamp = timestamp + interval '400 days' WHERE metadata ->> 'n' = '14'",
    "UPDATE events SET embedding = embedding + '[1,0,0,0,0,0,0,0]' WHERE metadata ->> 'n' = '16'",
    "UPDATE events SET embedding = NULL WHERE metadata ->> 'n' = '17'",
    "UPDATE events SET id = gen_random_uuid() WHERE metadata ->> 'n' = '18'",
    "DELETE FROM events WHERE metadata ->> 'n' = '19'",
    "INSERT INTO events (id, timestamp, content) VALUES (gen_random_uuid(), now(), '{}')",
)


@pytest.mark.parametrize(("key", "partitioned"), [("id", False), ("id, timestamp", True)])
async def test_online_what_is_written_meanwhile_is_there_too(
    memory: Memory, dsn: str, source: str, key: foreign.Key, partitioned: bool
) -> None:
    foreign.create(source, key=key, partitioned=partitioned)
    foreign.fill(source, 1, ROWS)
    report = await adopt(memory, source, online=True)
    for statement in WRITES:
        execute(source, statement)
    await adopt(memory, source, online=True)
    foreign.fill(source, ROWS + 1, ROWS + 60)
    report = await adoption.cut_over(memory, source, show=silent)
    assert report.source == report.target
    assert foreign.adopted(dsn, space_of(report)) == foreign.rows(source)
    assert len(foreign.rows(source)) == ROWS + 60
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="moved to MnemoLite"):
        execute(source, WRITES[0])
    for table in ("events", "events_2023") if partitioned else ("events",):
        with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):
            execute(source, f"TRUNCATE {table}")
    again = await adoption.cut_over(memory, source, show=silent)
    assert again.state is not None
    assert again.state.phase == "cut over"


async def test_a_truncated_table_is_empty_here_as_well(
    memory: Memory, dsn: str, filled: str
) -> None:
    report = await adopt(memory, filled, online=True)
    execute(filled, "TRUNCATE events")
    foreign.fill(filled, 3, 5)
    report = await adoption.cut_over(memory, filled, show=silent)
    assert len(foreign.rows(filled)) == 3
    assert foreign.adopted(dsn, space_of(report)) == foreign.rows(filled)


async def test_a_rollback_before_the_cut_over_leaves_no_trace(
    memory: Memory, dsn: str, filled: str
) -> None:
    mine = await memory.add("was here before")
    report = await adopt(memory, filled, online=True)
    foreign.fill(filled, ROWS + 1, ROWS + 5)
    space = space_of(report)
    await adoption.roll_back(memory, filled, show=silent)
    assert await adoption.status(memory) is None
    assert execute(dsn, "SELECT id FROM events") == [(mine.id,)]
    assert execute(dsn, "SELECT event_id FROM embedding_queue") == [(mine.id,)]
    assert execute(dsn, f"SELECT to_regclass('embeddings_{space}')") == [(None,)]
    assert execute(dsn, "SELECT count(*) FROM adopted_events") == [(0,)]
    assert len(foreign.rows(filled)) == ROWS + 5
    for trace in (
        "SELECT nspname FROM pg_namespace WHERE nspname = 'mnemolite_adoption'",
        "SELECT tgname FROM pg_trigger WHERE tgname ~ '^mnemolite'",
    ):
        assert execute(filled, trace) == []
    execute(filled, WRITES[0])


async def test_a_rollback_after_the_cut_over_brings_the_changes_back(
    memory: Memory, dsn: str, filled: str
) -> None:
    keys = {"namespace_key": "metadata.user", "session_key": "metadata.thread"}
    await adopt(memory, filled, online=True, **keys)
    await adoption.cut_over(memory, filled, show=silent)
    before = {row[0]: row for row in foreign.rows(filled)}
    changed, deleted = sorted(before)[3], sorted(before)[4]
    await memory.merge_metadata(UUID(changed), {"mood": "calm"})
    await memory.delete(UUID(deleted))
    new = await memory.add_many([
        NewEvent(content={"text": "after"}, namespace="user 9", session="t", metadata={"k": 1}),
    ])  # fmt: skip
    rolled = await adoption.roll_back(memory, filled, show=silent)
    assert rolled.state is not None
    assert (rolled.state.phase, rolled.state.changes) == ("given back", 0)
    after = {row[0]: row for row in foreign.rows(filled)}
    assert deleted not in after
    assert json.loads(after[changed][3])["mood"] == "calm"
    assert after[changed][4] == before[changed][4]
    (event,) = new[0]
    assert json.loads(after[str(event.id)][3]) == {"k": 1, "user": "user 9", "thread": "t"}
    same = before.keys() - {changed, deleted}
    assert all(after[id] == before[id] for id in same)
    execute(filled, WRITES[0])
    await adoption.finish(memory, None, show=silent)
    assert await adoption.status(memory) is None
    assert execute(dsn, "SELECT count(*) FROM events") == [(ROWS,)]


async def test_finish_removes_all_traces(memory: Memory, dsn: str, filled: str) -> None:
    await adopt(memory, filled, online=True)
    with pytest.raises(AdoptionError, match="not complete"):
        await adoption.finish(memory, filled, show=silent)
    await adoption.cut_over(memory, filled, show=silent)
    await adoption.finish(memory, filled, show=silent)
    triggers = "SELECT tgname FROM pg_trigger WHERE tgname ~ {}"
    assert execute(filled, triggers.format("'^mnemolite'")) == []
    assert execute(dsn, triggers.format("'adoption'")) == []
    assert execute(dsn, "SELECT count(*) FROM events") == [(ROWS,)]
    execute(filled, WRITES[0])
    assert execute(dsn, "SELECT count(*) FROM adoption_changes") == [(0,)]


async def test_an_edit_here_before_the_cut_over_gives_way_to_the_source(
    memory: Memory, dsn: str, filled: str
) -> None:
    report = await adopt(memory, filled)
    first, second = execute(dsn, "SELECT id FROM events ORDER BY id LIMIT 2")
    await memory.merge_metadata(first[0], {"edited": True})
    await memory.delete(second[0])
    report = await adopt(memory, filled)
    assert foreign.adopted(dsn, space_of(report)) == foreign.rows(filled)


# --- Rows ---------------------------------------------------------------------------------------

BAD_ROWS = {
    "timestamp: it is null": "NULL, '{}', NULL, NULL",
    "infinite": "'infinity', '{}', NULL, NULL",
    "years 1 to 9999": "'0044-03-15 BC', '{}', NULL, NULL",
    "content: it is no JSON object but array": "now(), '[1]', NULL, NULL",
    "content: it is no JSON object but null": "now(), NULL, NULL, NULL",
    "metadata: it is no JSON object but string": "now(), '{}', NULL, '\"x\"'",
    "embedding: it is the zero vector": "now(), '{}', '[0,0,0,0,0,0,0,0]', NULL",
    "namespace: it is no text": "now(), '{}', NULL, '{\"user\": {\"a\": 1}}'",
    "more bytes than are searchable": (
        "now(), jsonb_build_object('text', repeat('word ', 300000)), NULL, NULL"
    ),
    "namespace: it has not 1 to 200": (
        "now(), '{}', NULL, jsonb_build_object('user', repeat('x', 201))"
    ),
}
INSERT = "INSERT INTO events (id, timestamp, content, embedding, metadata) VALUES ('{}', {})"


def bad_id(number: int) -> str:
    return f"ffffffff-0000-4000-8000-{number:012}"


async def test_bad_rows_end_it_by_name_or_are_left_out_and_reported(
    memory: Memory, dsn: str, source: str
) -> None:
    foreign.create(source, key="id")
    foreign.fill(source, 1, 20)
    good = foreign.rows(source)
    for number, values in enumerate(BAD_ROWS.values()):
        execute(source, INSERT.format(bad_id(number), values))
    fields = {"namespace_key": "metadata.user", "batch": 15}
    previewed = await adoption.preview(memory, source, plan=plan(**fields), show=silent)
    with pytest.raises(AdoptionError, match=bad_id(0)):
        await adopt(memory, source, **fields)
    report = await adopt(memory, source, skip_bad=True, **fields)
    assert report.refusals == previewed.refusals
    found = {refusal.id: refusal.reason for refusal in report.refusals}
    assert found.keys() == {bad_id(number) for number in range(len(BAD_ROWS))}
    for number, reason in enumerate(BAD_ROWS):
        assert reason in found[bad_id(number)]
    assert foreign.adopted(dsn, space_of(report)) == good
    assert report.source == report.target


async def test_one_id_at_two_times_stays_two_events(memory: Memory, dsn: str, source: str) -> None:
    foreign.create(source)
    for day in ("2023-05-01", "2023-05-02"):
        execute(source, INSERT.format(bad_id(1), f"'{day}', '{{\"text\": \"{day}\"}}', NULL, NULL"))
    report = await adopt(memory, source)
    assert foreign.adopted(dsn, space_of(report)) == foreign.rows(source)
    assert len(foreign.rows(source)) == 2


async def test_an_event_that_is_here_already_is_not_overwritten(
    memory: Memory, dsn: str, filled: str
) -> None:
    taken = foreign.rows(filled)[7][0]
    await memory.add(NewEvent(id=UUID(taken), content={"text": "mine"}, namespace="other"))
    with pytest.raises(AdoptionError, match=f"{taken}.*is here already"):
        await adopt(memory, filled)
    report = await adopt(memory, filled, skip_bad=True)
    assert [refusal.id for refusal in report.refusals] == [taken]
    await adoption.roll_back(memory, None, show=silent)
    assert execute(dsn, "SELECT content ->> 'text' FROM events") == [("mine",)]


async def test_namespaces_and_sessions_come_from_where_the_source_has_them(
    memory: Memory, dsn: str, filled: str
) -> None:
    fields = {"namespace_key": "metadata.user", "session_key": "metadata.thread"}
    await adopt(memory, filled, namespace="nobody", language="french", **fields)
    found = execute(
        dsn,
        "SELECT metadata ->> 'user', metadata ->> 'thread', namespace, session, language::text "
        "FROM events",
    )
    assert len(found) == ROWS
    for user, thread, namespace, session, language in found:
        assert (namespace, session) == (user or "nobody", thread)
        assert language == "mnemo_french"


# --- Vectors ------------------------------------------------------------------------------------


async def test_adopted_vectors_are_searched_by_vector(
    memory: Memory, dsn: str, filled: str
) -> None:
    report = await adopt(memory, filled)
    id, *_, vector = next(row for row in foreign.rows(filled) if row[4])
    query = SearchQuery(mode="vector", vector=json.loads(vector), space=space_of(report), limit=3)
    found = await memory.search(query)
    assert str(found.data[0].id) == id
    assert found.data[0].similarity == pytest.approx(1.0)
    worded = await memory.search(SearchQuery(q="turn 12", mode="text"))
    assert worded.data
    states = {state.id: state for state in await memory.list_spaces()}
    state = states[space_of(report)]
    assert (state.status, state.model, state.progress.phase) == ("adopted", "old-model", "complete")
    assert state.progress.embedded == ROWS - ROWS // 7


async def test_vectors_of_this_model_are_its_own_space(
    memory: Memory, dsn: str, source: str
) -> None:
    with foreign.connect(source) as sql:
        sql.execute("CREATE EXTENSION vector")
        sql.execute("CREATE TABLE events (id uuid PRIMARY KEY, timestamp timestamptz NOT NULL, "
            "content jsonb NOT NULL, embedding vector(16), metadata jsonb)")  # fmt: skip
        for number in range(5):
            text, at = f"turn {number}", datetime(2024, 3, number + 1, tzinfo=UTC)
            wrapped = recall_text(text, timestamp=at)
            (vector,) = await memory.embedder.embed_documents([wrapped])
            sql.execute(
                "INSERT INTO events VALUES (%s, %s, %s, %s, NULL)",
                [UUID(int=number), at, json.dumps({"text": text}), str(vector.tolist())],
            )
        sql.execute('INSERT INTO events VALUES (gen_random_uuid(), now(), \'{"text": "later"}\')')
    report = await adopt(memory, source, space="mock")
    assert space_of(report) == memory.space.id
    assert (await memory.queue_state()).due == 1
    await Worker(memory).drain()
    assert report.source == report.target
    assert len(foreign.adopted(dsn, memory.space.id)) == 6
    await adoption.roll_back(memory, None, show=silent)
    assert memory.space in await memory.spaces.all()


async def test_other_vectors_are_not_mixed_with_this_models(memory: Memory, source: str) -> None:
    foreign.create(source)
    with pytest.raises(AdoptionError, match="8") as raised:
        await adopt(memory, source, space="mock")
    assert raised.value.field == "--space"
    execute(source, "ALTER TABLE events ALTER embedding TYPE vector(16)")
    foreign.fill(source, 1, 20, dimension=16)
    with pytest.raises(AdoptionError, match="other vectors"):
        await adopt(memory, source, space="mock")
    assert await adoption.status(memory) is None


# --- What is refused ----------------------------------------------------------------------------


async def test_a_table_that_cannot_be_taken_over_is_refused_with_the_reason(
    memory: Memory, dsn: str, source: str
) -> None:
    foreign.create(source)
    cases: tuple[tuple[str, dict[str, Any], str, str], ...] = (
        ("SELECT", {"table": "absent"}, "--table", "no table absent"),
        ("SELECT", {"table": '"'}, "--table", "no table"),
        ("SELECT", {"table": "a.b.c.d"}, "--table", "no table"),
        ("SELECT", {"table": "pg_catalog.pg_class"}, "--table", "no column id"),
        ("SELECT", {"space": None}, "--space", "vectors of 8 dimensions"),
        ("SELECT", {"language": "klingon"}, "--language", "klingon"),
        ("ALTER TABLE events ADD extra integer", {}, "--leave-columns", "extra"),
        (
            "ALTER TABLE events DROP extra, ALTER embedding TYPE vector",
            {},
            "--space",
            "no dimension",
        ),
        (
            "ALTER TABLE events ALTER embedding TYPE vector(4001)",
            {},
            "--space",
            "a space 4,000 at most",
        ),
        ("ALTER TABLE events DROP CONSTRAINT events_pkey", {}, "--table", "no primary key"),
        ("ALTER TABLE events ALTER content TYPE text", {}, "--table", "content is of type text"),
    )
    for statement, fields, field, said in cases:
        execute(source, statement)
        with pytest.raises(AdoptionError, match=said) as raised:
            await adopt(memory, source, **fields)
        assert raised.value.field == field
    with pytest.raises(AdoptionError, match="MnemoLite of today"):
        await adopt(memory, dsn)
    assert await adoption.status(memory) is None


@pytest.mark.parametrize("address", ["nonsense", "host=", "postgresql://[", "\ud800"])
async def test_an_address_that_leads_nowhere_is_named(memory: Memory, address: str) -> None:
    dsn = f"{address}127.0.0.1 port=1" if address == "host=" else address
    with pytest.raises(DatabaseError) as raised:
        await adopt(memory, dsn)
    assert raised.value.field == "--from"
    assert await adoption.status(memory) is None


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("table", ""),
        ("table", "a\x00"),
        ("namespace", "\ud800"),
        ("namespace", "x" * 201),
        ("namespace_key", "user"),
        ("namespace_key", "metadata."),
        ("session_key", "other.key"),
        ("space", ""),
        ("batch", 0),
        ("batch", 10**9),
        ("vectors", False),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused(field: str, value: object) -> None:
    with pytest.raises(ValidationError):
        plan(**{field: value})


async def test_other_options_than_at_the_beginning_are_refused(
    memory: Memory, filled: str, server_dsn: str
) -> None:
    await adopt(memory, filled)
    with pytest.raises(AdoptionError, match="other options: namespace, space"):
        await adopt(memory, filled, namespace="else", space="other")
    await adopt(memory, filled, batch=7, skip_bad=True)
    with pytest.raises(AdoptionError, match="--online"):
        await adoption.cut_over(memory, filled, show=silent)
    for other in _fresh_database(server_dsn, "template0"):
        foreign.create(other)
        with pytest.raises(AdoptionError, match="adoption that is under way"):
            await adopt(memory, other)


async def test_steps_without_an_adoption_are_refused(memory: Memory, filled: str) -> None:
    with pytest.raises(AdoptionError, match="No adoption"):
        await adoption.cut_over(memory, filled, show=silent)
    with pytest.raises(AdoptionError, match="No adoption"):
        await adoption.roll_back(memory, None, show=silent)
    with pytest.raises(AdoptionError, match="No adoption"):
        await adoption.finish(memory, None, show=silent)


async def test_without_vectors_all_is_embedded_anew(memory: Memory, dsn: str, filled: str) -> None:
    report = await adopt(memory, filled, space=None, vectors=False)
    assert report.target is not None
    assert (report.target.rows, report.target.vectors) == (ROWS, 0)
    assert (await memory.queue_state()).due == ROWS
    assert execute(dsn, "SELECT count(*) FROM embedding_spaces") == [(1,)]
