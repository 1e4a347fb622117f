"""Settings: frozen groups, the environment and what wins over it, errors that name a variable."""

import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from mnemolite.errors import SettingsError
from mnemolite.settings import Settings, describe_variables

GROUPS = tuple(Settings.model_fields)


@pytest.fixture(autouse=True)
def _no_settings_around(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither this machine's environment nor a .env file reaches these tests."""
    for name in describe_variables():
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("group", GROUPS)
def test_groups_are_frozen(group: str) -> None:
    values = getattr(Settings.load(), group)
    for name in type(values).model_fields:
        with pytest.raises(ValidationError, match="frozen"):
            setattr(values, name, getattr(values, name))
    with pytest.raises(ValidationError, match="frozen"):
        setattr(Settings.load(), group, values)


def test_every_field_has_a_variable_and_a_description() -> None:
    variables = describe_variables()
    fields = [name for group in GROUPS
              for name in type(getattr(Settings.load(), group)).model_fields]  # fmt: skip
    assert len(variables) == len(fields)
    for name, description in variables.items():
        assert re.fullmatch("(MNEMO|EMBEDDING|DATABASE)_[A-Z0-9_]+", name)
        assert description.endswith(".")


def test_the_defaults_are_private_and_real() -> None:
    settings = Settings.load()
    assert settings.database.url is None
    assert settings.server.host == "127.0.0.1"
    assert settings.server.api_key is None
    assert settings.embedding.mode == "real"
    assert settings.worker.in_server


@pytest.mark.parametrize(
    ("variable", "value", "group", "field", "expected"),
    [
        ("DATABASE_URL", "postgresql://db/x", "database", "url", "postgresql://db/x"),
        ("MNEMO_DATA_DIR", "/srv/m", "database", "data_dir", Path("/srv/m")),
        ("MNEMO_POOL_SIZE", "7", "database", "pool_size", 7),
        ("EMBEDDING_MODE", "mock", "embedding", "mode", "mock"),
        ("EMBEDDING_DIMENSION", "384", "embedding", "dimension", 384),
        ("EMBEDDING_CACHE_SIZE", "64MiB", "embedding", "cache_size", 64 * 2**20),
        ("EMBEDDING_CACHE_SIZE", "1kB", "embedding", "cache_size", 1000),
        ("EMBEDDING_CACHE_SIZE", "0", "embedding", "cache_size", 0),
        ("MNEMO_MAX_BODY", "1048576", "server", "max_body", 2**20),
        ("MNEMO_PORT", "0", "server", "port", 0),
        ("MNEMO_WORKER_IN_SERVER", "false", "worker", "in_server", False),
        ("MNEMO_WORKER_POLL_SECONDS", "0.5", "worker", "poll_seconds", 0.5),
        ("MNEMO_LANGUAGE", "french", "search", "default_language", "french"),
        ("MNEMO_RERANKER", "tei", "reranker", "provider", "tei"),
        ("MNEMO_RERANKER_URL", "", "reranker", "url", None),
        ("MNEMO_RERANKER_API_KEY", "", "reranker", "api_key", None),
        ("MNEMO_RERANKER_DEADLINE_SECONDS", "0.25", "reranker", "deadline_seconds", 0.25),
        ("MNEMO_EMBEDDING_QUERY_PREFIX", "", "embedding", "query_prefix", ""),
    ],
)
def test_the_environment_is_read(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, group: str, field: str,
    expected: object,
) -> None:  # fmt: skip
    monkeypatch.setenv(variable, value)
    assert getattr(getattr(Settings.load(), group), field) == expected


@pytest.mark.parametrize(
    ("variable", "group", "field"),
    [
        ("DATABASE_URL", "database", "url"),
        ("MNEMO_DATA_DIR", "database", "data_dir"),
        ("EMBEDDING_DIMENSION", "embedding", "dimension"),
        ("MNEMO_EMBEDDING_THREADS", "embedding", "threads"),
        ("MNEMO_API_KEY", "server", "api_key"),
    ],
)
def test_blank_means_unset(
    monkeypatch: pytest.MonkeyPatch, variable: str, group: str, field: str
) -> None:
    monkeypatch.setenv(variable, "")
    assert getattr(getattr(Settings.load(), group), field) is None


def test_options_win_over_the_environment_and_that_over_the_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ".env").write_text("MNEMO_PORT=1001\nMNEMO_HOST=from.file\nMNEMO_LANGUAGE=german\n")
    assert Settings.load().server.port == 1001
    monkeypatch.setenv("MNEMO_PORT", "1002")
    assert Settings.load().server.port == 1002
    loaded = Settings.load(server={"port": 1003})
    assert (loaded.server.port, loaded.server.host) == (1003, "from.file")
    assert loaded.search.default_language == "german"


def test_an_option_of_none_wins_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://db/x")
    assert Settings.load(database={"url": None}).database.url is None


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("EMBEDDING_MODE", "fake"),
        ("EMBEDDING_MODE", ""),
        ("EMBEDDING_DIMENSION", "0"),
        ("EMBEDDING_DIMENSION", "many"),
        ("EMBEDDING_MODEL", ""),
        ("EMBEDDING_CACHE_SIZE", "lots"),
        ("EMBEDDING_CACHE_SIZE", "-1"),
        ("MNEMO_POOL_SIZE", "1"),
        ("MNEMO_POOL_SIZE", "201"),
        ("MNEMO_POOL_TIMEOUT_SECONDS", "0"),
        ("MNEMO_PORT", "65536"),
        ("MNEMO_API_KEY", "short"),
        ("MNEMO_LOG_LEVEL", "loud"),
        ("MNEMO_MAX_BODY", "16 bananas"),
        ("MNEMO_WORKER_BATCH_SIZE", "0"),
        ("MNEMO_WORKER_POLL_SECONDS", "inf"),
        ("MNEMO_WORKER_POLL_SECONDS", "nan"),
        ("MNEMO_RERANKER", "oracle"),
        ("MNEMO_RERANKER_PAIRS", "0"),
        ("MNEMO_RERANKER_DEADLINE_SECONDS", "inf"),
        ("MNEMO_LANGUAGE", "english; DROP TABLE events"),
    ],
)
def test_a_wrong_value_names_its_variable(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError) as raised:
        Settings.load()
    assert raised.value.field == variable
    assert raised.value.code == "invalid_setting"


def test_a_wrong_option_names_the_variable_it_stands_for() -> None:
    with pytest.raises(SettingsError) as raised:
        Settings.load(server={"port": 70_000})
    assert raised.value.field == "MNEMO_PORT"


def test_options_of_one_name_are_told_apart_by_their_group() -> None:
    with pytest.raises(SettingsError) as raised:
        Settings.load(reranker={"provider": "oracle"})
    assert raised.value.field == "MNEMO_RERANKER"


def test_a_wrong_mode_is_told_the_right_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMBEDDING_MODE", "fake")
    with pytest.raises(SettingsError, match="'real' or 'mock'"):
        Settings.load()


def test_a_key_is_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MNEMO_API_KEY", "open-sesame")
    assert "open-sesame" not in repr(Settings.load())
    monkeypatch.setenv("MNEMO_API_KEY", "sesame!")
    with pytest.raises(SettingsError) as raised:
        Settings.load()
    assert "sesame!" not in str(raised.value)


def test_a_file_wins_over_the_environment_and_options_over_both(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MNEMO_LANGUAGE", "german")
    monkeypatch.setenv("MNEMO_PORT", "9001")
    file = tmp_path / "a.env"
    file.write_text("# a comment\nMNEMO_LANGUAGE=french\nEMBEDDING_DIMENSION=\n")
    settings = Settings.load(file=file)
    assert settings.search.default_language == "french"
    assert (settings.server.port, settings.embedding.dimension) == (9001, None)
    option = Settings.load(file=file, search={"default_language": "italian"})
    assert option.search.default_language == "italian"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"MNEMO_LANGAGE=french", "MNEMO_LANGAGE"),
        (b"MNEMO_PORT=none", "MNEMO_PORT"),
        (b"\xff\xfe", "a.env"),
        (None, "a.env"),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, content: bytes | None, said: str) -> None:
    file = tmp_path / "a.env"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(SettingsError) as caught:
        Settings.load(file=file)
    assert said in str(caught.value)
