"""Migrations: from nothing to the newest schema, once, by one process, and never backwards."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from alembic import command
from alembic.config import Config
from psycopg import sql
from psycopg.conninfo import make_conninfo
from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool

from mnemolite import migrations
from mnemolite.errors import DatabaseUnsuitableError, SchemaTooNewError
from mnemolite.memory import Memory
from mnemolite.migrations import HEAD, REVISIONS, VERSION_TABLE, upgrade
from mnemolite.settings import DatabaseSettings, EmbeddingSettings, Settings

_OURS = "{schema} NOT IN ('pg_catalog', 'information_schema', 'pg_toast') AND NOT EXISTS " \
    "(SELECT FROM pg_depend d WHERE d.objid = {oid} AND d.deptype = 'e')"  # fmt: skip
# One query for each kind of thing that a revision can make; every row is one thing, as text.
_CATALOG = {
    "extensions": "SELECT extname FROM pg_extension",
    "columns": "SELECT concat_ws(' ', a.attrelid::regclass, a.attname, "
    "format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attidentity, a.attgenerated, "
    "a.attstorage, pg_get_expr(f.adbin, f.adrelid)) "
    "FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid "
    "LEFT JOIN pg_attrdef f ON (f.adrelid, f.adnum) = (a.attrelid, a.attnum) "
    "WHERE a.attnum > 0 AND NOT a.attisdropped AND {ours}",
    "tables": "SELECT concat_ws(' ', c.oid::regclass, c.relkind, c.reloptions, "
    "CASE c.relkind WHEN 'v' THEN pg_get_viewdef(c.oid) WHEN 'p' THEN pg_get_partkeydef(c.oid) "
    "END) FROM pg_class c WHERE {ours}",
    "indexes": "SELECT pg_get_indexdef(i.indexrelid) || i.indisvalid::text "
    "FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid WHERE {ours}",
    "constraints": "SELECT concat_ws(' ', x.conrelid::regclass, x.conname, "
    "pg_get_constraintdef(x.oid), x.convalidated) FROM pg_constraint x "
    "JOIN pg_class c ON c.oid = x.conrelid WHERE {ours}",
    "triggers": "SELECT pg_get_triggerdef(t.oid) || t.tgenabled::text FROM pg_trigger t "
    "JOIN pg_class c ON c.oid = t.tgrelid WHERE NOT t.tgisinternal AND {ours}",
    "functions": "SELECT pg_get_functiondef(c.oid) FROM pg_proc c WHERE c.prokind = 'f' AND {ours}",
    "languages": "SELECT concat_ws(' ', c.cfgname, m.maptokentype, m.mapseqno, "
    "m.mapdict::regdictionary) FROM pg_ts_config c JOIN pg_ts_config_map m ON m.mapcfg = c.oid "
    "WHERE {ours}",
}
_NAMESPACE_OF = {"functions": "c.pronamespace", "languages": "c.cfgnamespace"}


def catalog(dsn: str) -> dict[str, list[str]]:
    """The schema of a database, as sorted text."""
    found = {}
    with psycopg.connect(dsn) as connection:
        for kind, query in _CATALOG.items():
            schema = _NAMESPACE_OF.get(kind, "c.relnamespace")
            ours = _OURS.format(schema=f"{schema}::regnamespace::text", oid="c.oid")
            statement = query.replace("{ours}", ours).encode()
            found[kind] = sorted(str(row[0]) for row in connection.execute(statement))
    return found


def upgrade_step_by_step(dsn: str) -> None:
    """As somebody does who installs every release in turn."""
    for revision in REVISIONS:
        engine = create_engine(
            "postgresql+psycopg://", creator=lambda: psycopg.connect(dsn), poolclass=NullPool
        )
        config = Config()
        config.set_main_option("script_location", str(Path(migrations.__file__).parent))
        with engine.begin() as connection:
            config.attributes["connection"] = connection
            config.attributes["version_table"] = VERSION_TABLE
            command.upgrade(config, revision)


@pytest.fixture
def database(empty_dsn: str) -> Iterator["psycopg.Connection[tuple[object, ...]]"]:
    """A connection to the database without a schema."""
    with psycopg.connect(empty_dsn, autocommit=True) as connection:
        yield connection


def test_a_fresh_database_gets_the_whole_schema(empty_dsn: str) -> None:
    upgrade(empty_dsn)
    found = catalog(empty_dsn)
    tables = " ".join(found["tables"])
    for name in ("events", "namespaces", "embedding_spaces", "embedding_queue", VERSION_TABLE):
        assert f"{name} r" in tables
    assert {"vector", "unaccent"} <= set(found["extensions"])
    for kind, things in found.items():
        assert things, f"the catalog query of {kind} finds nothing"
    with psycopg.connect(empty_dsn) as connection:
        assert migrations.current_revision(connection) == HEAD


def test_the_catalog_shows_a_difference(dsn: str) -> None:
    before = catalog(dsn)
    changes = {
        "columns": "ALTER TABLE events ALTER session SET STORAGE PLAIN",
        "indexes": "DROP INDEX events_time_idx",
        "constraints": "ALTER TABLE namespaces ADD CHECK (name <> 'x')",
        "triggers": "ALTER TABLE events DISABLE TRIGGER events_keep",
        "functions": "ALTER FUNCTION events_keep() SET search_path = public",
        "languages": "ALTER TEXT SEARCH CONFIGURATION mnemo_french DROP MAPPING FOR word",
        "tables": "ALTER TABLE events SET (fillfactor = 90)",
    }
    for kind, statement in changes.items():
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute(statement.encode())
        after = catalog(dsn)
        assert after[kind] != before[kind], kind
        before = after


def test_step_by_step_equals_fresh(dsn: str, empty_dsn: str) -> None:
    upgrade_step_by_step(empty_dsn)
    stepped, fresh = catalog(empty_dsn), catalog(dsn)
    for kind, things in fresh.items():
        assert stepped[kind] == things
    upgrade(empty_dsn)
    assert catalog(empty_dsn) == fresh


def test_revisions_form_one_line() -> None:
    versions = Path(migrations.__file__).parent / "versions"
    assert sorted(set(REVISIONS)) == REVISIONS
    for revision in REVISIONS:
        (module,) = versions.glob(f"{revision}_*.py")
        assert module.with_suffix(".sql").is_file()
    assert len(list(versions.glob("*.sql"))) == len(REVISIONS)


def test_a_second_run_changes_nothing(empty_dsn: str) -> None:
    upgrade(empty_dsn)
    before = catalog(empty_dsn)
    with psycopg.connect(empty_dsn, autocommit=True) as connection:
        connection.execute('INSERT INTO events (content) VALUES (\'{"text": "kept"}\')')
        upgrade(empty_dsn)
        kept = connection.execute("SELECT text FROM events").fetchall()
    assert kept == [("kept",)]
    assert catalog(empty_dsn) == before


def test_processes_that_start_together_upgrade_once(empty_dsn: str, dsn: str) -> None:
    program = f"from mnemolite.migrations import upgrade; upgrade({empty_dsn!r})"
    processes = [
        subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    said = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, said
    assert catalog(empty_dsn) == catalog(dsn)


def test_a_failed_upgrade_leaves_nothing(
    empty_dsn: str, database: "psycopg.Connection[tuple[object, ...]]"
) -> None:
    database.execute("CREATE FUNCTION events_forget() RETURNS integer LANGUAGE sql RETURN 1")
    before = catalog(empty_dsn)
    with pytest.raises(Exception, match="events_forget"):
        upgrade(empty_dsn)
    assert catalog(empty_dsn) == before
    database.execute("DROP FUNCTION events_forget()")
    upgrade(empty_dsn)


def test_a_newer_schema_is_refused(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        update = sql.SQL("UPDATE {} SET version_num = '9999'").format(sql.Identifier(VERSION_TABLE))
        connection.execute(update)
        with pytest.raises(SchemaTooNewError, match="9999") as raised:
            upgrade(dsn)
        assert raised.value.code == "schema_too_new"
        assert raised.value.remedy


async def test_a_memory_does_not_open_a_newer_schema(dsn: str, settings: Settings) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        update = sql.SQL("UPDATE {} SET version_num = '9999'").format(sql.Identifier(VERSION_TABLE))
        connection.execute(update)
    with pytest.raises(SchemaTooNewError):
        async with Memory.open(settings):
            pytest.fail("it opened")


def test_no_schema_yet(database: "psycopg.Connection[tuple[object, ...]]") -> None:
    assert migrations.current_revision(database) is None


def test_somebody_elses_events_are_refused(
    empty_dsn: str, database: "psycopg.Connection[tuple[object, ...]]"
) -> None:
    database.execute("CREATE TABLE events (id integer)")
    before = catalog(empty_dsn)
    with pytest.raises(DatabaseUnsuitableError, match="table named events"):
        upgrade(empty_dsn)
    assert catalog(empty_dsn) == before


async def test_the_advice_about_somebody_elses_events_works(
    empty_dsn: str, database: "psycopg.Connection[tuple[object, ...]]"
) -> None:
    database.execute("CREATE TABLE events (id integer)")
    database.execute("CREATE SCHEMA mnemolite")
    own = make_conninfo(empty_dsn, options="-csearch_path=mnemolite,public")
    settings = Settings(
        database=DatabaseSettings(url=own), embedding=EmbeddingSettings(mode="mock", dimension=8)
    )
    async with Memory.open(settings) as memory:
        await memory.add("in a schema of its own")
    async with Memory.open(settings) as memory:
        assert (await memory.stats()).events == 1
    assert database.execute("SELECT count(*) FROM public.events").fetchone() == (0,)


def test_a_database_of_another_encoding_is_refused(server_dsn: str) -> None:
    name = f"mnemolite_test_latin_{os.getpid()}"
    with psycopg.connect(server_dsn, autocommit=True) as connection:
        create = sql.SQL("CREATE DATABASE {} TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C'")
        connection.execute(create.format(sql.Identifier(name)))
        try:
            with pytest.raises(DatabaseUnsuitableError, match="UTF8"):
                upgrade(make_conninfo(server_dsn, dbname=name))
        finally:
            connection.execute(sql.SQL("DROP DATABASE {}").format(sql.Identifier(name)))


# --- A server whose extensions are others -------------------------------------------------------


@pytest.fixture
def extensions(
    database: "psycopg.Connection[tuple[object, ...]]", empty_dsn: str
) -> Iterator[tuple[Path, str]]:
    """A folder that the server takes for its extensions, and the address that makes it so."""
    if database.info.server_version < 180000 or not database.info.host.startswith("/"):
        pytest.skip("only a local PostgreSQL >= 18 can be shown another folder of extensions")
    folder = Path(tempfile.mkdtemp(prefix="mnemolite-test-extensions-"))
    folder.chmod(0o755)  # the server may run as another user
    (folder / "extension").mkdir(mode=0o755)
    yield (
        folder / "extension",
        make_conninfo(empty_dsn, options=f"-cextension_control_path={folder}"),
    )
    shutil.rmtree(folder)


def offer(folder: Path, name: str, version: str) -> None:
    (folder / f"{name}.control").write_text(f"default_version = '{version}'\n")


def test_a_server_without_pgvector_is_named(extensions: tuple[Path, str]) -> None:
    folder, dsn = extensions
    offer(folder, "unaccent", "1.1")
    with pytest.raises(DatabaseUnsuitableError, match="no extension 'vector'") as raised:
        upgrade(dsn)
    assert "CREATE EXTENSION vector" in (raised.value.remedy or "")


def test_a_server_without_unaccent_is_named(extensions: tuple[Path, str]) -> None:
    folder, dsn = extensions
    offer(folder, "vector", "0.8.1")
    with pytest.raises(DatabaseUnsuitableError, match="no extension 'unaccent'"):
        upgrade(dsn)


@pytest.mark.parametrize("version", ["0.7.4", "0.5.0"])
def test_an_old_pgvector_is_named(extensions: tuple[Path, str], version: str) -> None:
    folder, dsn = extensions
    offer(folder, "vector", version)
    offer(folder, "unaccent", "1.1")
    with pytest.raises(DatabaseUnsuitableError, match=f"pgvector {version} is too old"):
        upgrade(dsn)


@pytest.mark.parametrize("version", ["0.8.0", "0.10.0", "1.0.0"])
def test_a_newer_pgvector_is_welcome(extensions: tuple[Path, str], version: str) -> None:
    folder, dsn = extensions
    offer(folder, "vector", version)
    offer(folder, "unaccent", "1.1")
    with psycopg.connect(dsn) as connection:
        migrations.check_server(connection)
