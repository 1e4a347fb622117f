"""Settings of what surrounds a model: a model server, batching, the caches of vectors."""

from typing import Literal

from pydantic import ByteSize

from mnemolite.settings.groups import Group, OptionalSecret, OptionalText, env


class RemoteSettings(Group):
    """How a model server is asked, when the provider is ``remote``."""

    url: OptionalText = env(
        "MNEMO_EMBEDDING_URL",
        None,
        "Address of the model server, without the protocol's own path.",
        pattern=r"^https?://",
    )
    api_key: OptionalSecret = env(
        "MNEMO_EMBEDDING_API_KEY", None, "Sent to the model server as a bearer token."
    )
    protocol: Literal["openai", "tei", "kserve"] = env(
        "MNEMO_EMBEDDING_PROTOCOL", "openai", "What the model server speaks."
    )
    tokenizer: OptionalText = env(
        "MNEMO_EMBEDDING_TOKENIZER",
        None,
        "The remote model's tokenizer.json, to count tokens. Unset: a cautious estimate.",
    )
    request_texts: int = env(
        "MNEMO_EMBEDDING_REQUEST_TEXTS", 32, "Most texts of one request.", ge=1, le=2048
    )
    request_bytes: ByteSize = env(
        "MNEMO_EMBEDDING_REQUEST_BYTES",
        ByteSize(1024 * 1024),
        "Most bytes of texts in one request, if it has more than one text.",
    )
    concurrency: int = env(
        "MNEMO_EMBEDDING_CONCURRENCY", 4, "Requests to the model server at once.", ge=1, le=64
    )
    timeout_seconds: float = env(
        "MNEMO_EMBEDDING_TIMEOUT_SECONDS",
        30.0,
        "Longest wait for one answer of the model server.",
        gt=0,
        le=600,
    )
    retries: int = env(
        "MNEMO_EMBEDDING_RETRIES", 3, "Further tries of a request that failed.", ge=0, le=10
    )
    circuit_seconds: float = env(
        "MNEMO_EMBEDDING_CIRCUIT_SECONDS",
        10.0,
        "How long a model server that failed repeatedly is left alone.",
        gt=0,
        le=3600,
    )


class BatchSettings(Group):
    """How calls of the model are joined."""

    batch_window_ms: float = env(
        "MNEMO_EMBEDDING_BATCH_WINDOW_MS",
        0.0,
        "How long an idle model waits for company before it takes a query.",
        ge=0,
        le=1000,
    )
    batch_size: int = env(
        "MNEMO_EMBEDDING_BATCH_SIZE", 64, "Most queries of one batch.", ge=1, le=1024
    )
    queue_limit: int = env(
        "MNEMO_EMBEDDING_QUEUE_LIMIT",
        1000,
        "Queries that may wait for the model; more are answered with 503.",
        ge=1,
    )


class RedisSettings(Group):
    """The second level of the cache of vectors, which processes share."""

    redis_url: OptionalSecret = env(
        "MNEMO_REDIS_URL", None, "A Redis that processes share their query vectors in."
    )
    redis_ttl_seconds: int = env(
        "MNEMO_REDIS_TTL_SECONDS", 604_800, "How long Redis keeps a vector.", ge=1
    )
    redis_timeout_ms: float = env(
        "MNEMO_REDIS_TIMEOUT_MS", 50.0, "Longest wait for Redis.", gt=0, le=5000
    )
