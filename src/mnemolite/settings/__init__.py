"""Every setting, read from the environment (and a ``.env`` file) in this one place.

The groups are frozen values that are passed to whoever needs them; nobody else reads the
environment. The defaults run a private PostgreSQL and the packaged model on the loopback address.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from dotenv import dotenv_values
from pydantic import (
    BaseModel,
    BeforeValidator,
    ByteSize,
    ConfigDict,
    Field,
    ValidationError,
)

from mnemolite.errors import SettingsError
from mnemolite.settings.database import IdempotencySettings, ReplicaSettings
from mnemolite.settings.embeddings import BatchSettings, RedisSettings, RemoteSettings
from mnemolite.settings.feed import FeedSettings
from mnemolite.settings.groups import (
    Group,
    OptionalCount,
    OptionalSecret,
    OptionalText,
    blank_is_unset,
    env,
)
from mnemolite.settings.partitions import PartitionSettings
from mnemolite.settings.pipeline import PipelineSettings
from mnemolite.settings.retention import RetentionSettings
from mnemolite.settings.webhooks import WebhookSettings


class DatabaseSettings(Group):
    """Where the memory is kept."""

    url: OptionalText = env(
        "DATABASE_URL",
        None,
        "An outside PostgreSQL >= 16 with pgvector >= 0.8. Unset: a private server is started.",
    )
    data_dir: Annotated[Path | None, BeforeValidator(blank_is_unset)] = env(
        "MNEMO_DATA_DIR",
        None,
        "Folder of the private PostgreSQL. Unset: the platform's folder for user data.",
    )
    name: str = env(
        "MNEMO_DATABASE",
        "mnemolite",
        "Database inside the private PostgreSQL.",
        pattern=r"^[a-z_][a-z0-9_]{0,62}$",
    )
    pool_size: int = env(
        "MNEMO_POOL_SIZE", 10, "Most database connections one process opens.", ge=2, le=200
    )
    pool_timeout_seconds: float = env(
        "MNEMO_POOL_TIMEOUT_SECONDS",
        5.0,
        "Longest wait for a free connection before the answer is 503.",
        gt=0,
        le=300,
    )
    statement_timeout_seconds: float = env(
        "MNEMO_STATEMENT_TIMEOUT_SECONDS",
        30.0,
        "Longest run of one SQL statement of a request.",
        gt=0,
        le=3600,
    )


class EmbeddingSettings(RemoteSettings, BatchSettings, RedisSettings):
    """Which model turns text into vectors."""

    mode: Literal["real", "mock"] = env(
        "EMBEDDING_MODE", "real", "real: a model. mock: deterministic noise, for tests only."
    )
    provider: Literal["onnx", "sentence-transformers", "remote"] = env(
        "MNEMO_EMBEDDING_PROVIDER",
        "onnx",
        "Who runs the model: onnx, sentence-transformers (an extra), or remote (a model server).",
    )
    model: str = env(
        "EMBEDDING_MODEL",
        "all-MiniLM-L6-v2",
        "The packaged model's name, a local folder, a hub id (owner/name), or a server's name.",
        min_length=1,
    )
    revision: OptionalText = env(
        "MNEMO_EMBEDDING_REVISION",
        None,
        "Branch, tag or commit of a hub's model (unset: main); of a server's, your name for it.",
    )
    onnx_file: OptionalText = env(
        "MNEMO_EMBEDDING_ONNX_FILE",
        None,
        "The ONNX file to use of a folder that has several. Unset: a quantised one.",
    )
    trust_remote_code: bool = env(
        "MNEMO_EMBEDDING_TRUST_REMOTE_CODE",
        False,
        "Whether sentence-transformers may run code that a model brings.",
    )
    dimension: OptionalCount = env(
        "EMBEDDING_DIMENSION",
        None,
        "Numbers of a vector; fewer than the model's own cut a Matryoshka model. Unset: all.",
        ge=1,
    )
    matryoshka: bool = env(
        "MNEMO_EMBEDDING_MATRYOSHKA",
        False,
        "Says of a model that is not known for it that its vectors may be cut.",
    )
    max_tokens: OptionalCount = env(
        "MNEMO_EMBEDDING_MAX_TOKENS",
        None,
        "Window of the model in tokens. Unset: its own, 2048 at most; of a server 512.",
        ge=64,
    )
    cache_size: ByteSize = env(
        "EMBEDDING_CACHE_SIZE",
        ByteSize(32 * 1024 * 1024),
        "Memory for cached query vectors, in bytes or as 32MiB. 0 turns the cache off.",
    )
    device: Literal["cpu", "cuda", "mps"] = env(
        "EMBEDDING_DEVICE", "cpu", "Where sentence-transformers runs; onnx runs on the CPU."
    )
    threads: OptionalCount = env(
        "MNEMO_EMBEDDING_THREADS", None, "Threads of the model. Unset: one a core.", ge=1, le=256
    )
    query_prefix: str | None = env(
        "MNEMO_EMBEDDING_QUERY_PREFIX", None, "Put before a query. Unset: what the model wants."
    )
    document_prefix: str | None = env(
        "MNEMO_EMBEDDING_DOCUMENT_PREFIX",
        None,
        "Put before a document. Unset: what the model wants.",
    )


class ServerSettings(Group):
    """How the REST server listens and what it accepts."""

    host: str = env("MNEMO_HOST", "127.0.0.1", "Address to listen on; others need an API key.")
    port: int = env("MNEMO_PORT", 8000, "Port to listen on. 0 picks a free one.", ge=0, le=65535)
    api_key: OptionalSecret = env(
        "MNEMO_API_KEY", None, "When set, every route but /health/live needs it.", min_length=8
    )
    max_body: ByteSize = env(
        "MNEMO_MAX_BODY", ByteSize(16 * 1024 * 1024), "Largest request body, in bytes or as 16MiB."
    )
    shutdown_seconds: float = env(
        "MNEMO_SHUTDOWN_SECONDS",
        10.0,
        "Longest wait at the end for requests and the batch in flight.",
        gt=0,
        le=600,
    )
    log_level: Literal["debug", "info", "warning", "error"] = env(
        "MNEMO_LOG_LEVEL", "info", "Least severe log line that is written."
    )
    log_format: Literal["console", "json"] = env(
        "MNEMO_LOG_FORMAT", "console", "console: for people. json: one object a line."
    )


class WorkerSettings(Group):
    """How pending events are embedded."""

    in_server: bool = env("MNEMO_WORKER_IN_SERVER", True, "Whether `serve` embeds by itself.")
    batch_size: int = env(
        "MNEMO_WORKER_BATCH_SIZE", 512, "Events claimed and embedded at a time.", ge=1, le=1000
    )
    poll_seconds: float = env(
        "MNEMO_WORKER_POLL_SECONDS",
        1.0,
        "Longest time between two looks at the queue; a notification wakes it sooner.",
        gt=0,
        le=60,
    )
    lease_seconds: float = env(
        "MNEMO_WORKER_LEASE_SECONDS",
        60.0,
        "Silence after which other workers take over what a worker has claimed.",
        ge=1,
        le=3600,
    )
    max_attempts: int = env(
        "MNEMO_WORKER_MAX_ATTEMPTS", 5, "Tries before an event is parked.", ge=1, le=100
    )
    retry_seconds: float = env(
        "MNEMO_WORKER_RETRY_SECONDS",
        5.0,
        "Wait before the second try of an event; doubled for each later one.",
        gt=0,
        le=3600,
    )
    hnsw_min_rows: int = env(
        "MNEMO_HNSW_MIN_ROWS",
        20_000,
        "Rows from which a table of embeddings gets an HNSW index; below it exact is fast.",
        ge=1,
    )


class SearchSettings(Group):
    """How a search looks for candidates and ranks them."""

    default_language: str = env(
        "MNEMO_LANGUAGE",
        "english",
        "Text-search language of namespaces that name none.",
        pattern=r"^[a-z_]{1,63}$",
    )
    bm25_k1: float = env(
        "MNEMO_BM25_K1", 0.9, "How slowly further mentions of a word stop counting.", gt=0, le=10
    )
    bm25_b: float = env(
        "MNEMO_BM25_B", 0.4, "How much of an event's length is held against it.", ge=0, le=1
    )
    history_days: int = env(
        "MNEMO_HISTORY_DAYS", 7, "Days that explained searches are kept.", ge=1, le=3650
    )
    history_searches: int = env(
        "MNEMO_HISTORY_SEARCHES",
        10_000,
        "Explained searches that are kept, the newest. 0: none is recorded.",
        ge=0,
        le=1_000_000,
    )


class RerankerSettings(Group):
    """Who orders the best hits of a search anew, if anybody does."""

    provider: Literal["none", "cross-encoder", "tei", "cohere", "jina"] = env(
        "MNEMO_RERANKER",
        "none",
        "none; a local cross-encoder; or the form of a remote server: tei, cohere or jina.",
    )
    model: OptionalText = env(
        "MNEMO_RERANKER_MODEL",
        None,
        "A local folder or hub id of a cross-encoder, or the model's name on the server.",
    )
    url: OptionalText = env(
        "MNEMO_RERANKER_URL",
        None,
        "Address of the server. Unset: Cohere's or Jina's own; tei has none.",
    )
    api_key: OptionalSecret = env(
        "MNEMO_RERANKER_API_KEY", None, "Sent to the server as a bearer token."
    )
    device: Literal["cpu", "cuda", "mps"] = env(
        "MNEMO_RERANKER_DEVICE", "cpu", "Where a cross-encoder runs."
    )
    pairs: int = env(
        "MNEMO_RERANKER_PAIRS", 50, "Best hits that are ordered anew, at most.", ge=1, le=200
    )
    deadline_seconds: float = env(
        "MNEMO_RERANKER_DEADLINE_SECONDS",
        1.0,
        "Longest time to order them; after it the answer keeps its first order and says so.",
        gt=0,
        le=60,
    )


class Settings(BaseModel):
    """All groups together."""

    model_config = ConfigDict(frozen=True)

    database: DatabaseSettings = Field(default_factory=DatabaseSettings)
    embedding: EmbeddingSettings = Field(default_factory=EmbeddingSettings)
    server: ServerSettings = Field(default_factory=ServerSettings)
    worker: WorkerSettings = Field(default_factory=WorkerSettings)
    feed: FeedSettings = Field(default_factory=FeedSettings)
    webhooks: WebhookSettings = Field(default_factory=WebhookSettings)
    pipeline: PipelineSettings = Field(default_factory=PipelineSettings)
    search: SearchSettings = Field(default_factory=SearchSettings)
    reranker: RerankerSettings = Field(default_factory=RerankerSettings)
    idempotency: IdempotencySettings = Field(default_factory=IdempotencySettings)
    replica: ReplicaSettings = Field(default_factory=ReplicaSettings)
    partitions: PartitionSettings = Field(default_factory=PartitionSettings)
    retention: RetentionSettings = Field(default_factory=RetentionSettings)

    @classmethod
    def load(cls, *, file: Path | None = None, **groups: dict[str, object]) -> "Settings":
        """Read the environment; a ``file`` of variables wins over it, ``groups`` over both.

        ``groups`` are option values by field name.

        Raises SettingsError that names the variable at fault.
        """
        given = {} if file is None else _read_file(file)
        try:
            return cls(
                **{
                    name: group(**given.get(name, {}) | groups.get(name, {}))
                    for name, group in _GROUPS.items()
                }
            )
        except ValidationError as error:
            raise _as_settings_error(error) from error


_GROUPS: dict[str, Any] = {
    "database": DatabaseSettings,
    "embedding": EmbeddingSettings,
    "server": ServerSettings,
    "worker": WorkerSettings,
    "feed": FeedSettings,
    "webhooks": WebhookSettings,
    "pipeline": PipelineSettings,
    "search": SearchSettings,
    "reranker": RerankerSettings,
    "idempotency": IdempotencySettings,
    "replica": ReplicaSettings,
    "partitions": PartitionSettings,
    "retention": RetentionSettings,
}


def _read_file(path: Path) -> dict[str, dict[str, object]]:
    """The values of a file of variables, by group and field; a variable nobody knows is a fault."""
    try:
        with path.open(encoding="utf-8") as lines:
            variables = dotenv_values(stream=lines, interpolate=False)
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: {error}.", field="--settings") from error
    groups: dict[str, dict[str, object]] = {}
    for variable, value in variables.items():
        if variable not in _VARIABLES:
            raise SettingsError(
                f"{path} sets {variable}, which is no setting.",
                field="--settings",
                remedy="docs/settings.md lists them all.",
            )
        group, name = _VARIABLES[variable]
        groups.setdefault(group, {})[name] = value or ""
    return groups


def describe_variables() -> dict[str, str]:
    """Every environment variable and its description, in the order of the groups."""
    return {
        field.json_schema_extra["env"]: field.description or ""
        for group in _GROUPS.values()
        for field in group.model_fields.values()
        if isinstance(field.json_schema_extra, dict)
    }


_VARIABLES = {
    field.json_schema_extra["env"]: (group, name)
    for group, kind in _GROUPS.items()
    for name, field in kind.model_fields.items()
    if isinstance(field.json_schema_extra, dict)
}


def _as_settings_error(error: ValidationError) -> SettingsError:
    first = error.errors()[0]
    name = str(first["loc"][0]) if first["loc"] else None
    return SettingsError(f"{first['msg']}.", field=_variable_of(name, group=error.title))


def _variable_of(name: str | None, *, group: str) -> str | None:
    """The environment variable behind a field's own name, for errors about passed values."""
    for kind in _GROUPS.values():
        field = kind.model_fields.get(name)
        if kind.__name__ == group and field and isinstance(field.json_schema_extra, dict):
            return str(field.json_schema_extra["env"])
    return name
