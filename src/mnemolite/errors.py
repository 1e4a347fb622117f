"""Every error MnemoLite raises on purpose: one root, a stable code, an HTTP status each.

A class's docstring is its default message; ``detail`` replaces it, ``field`` names the input at
fault, ``remedy`` says what to do, and ``retry_after`` (seconds) says when trying again makes sense.
"""

from typing import ClassVar


class MnemoliteError(Exception):
    """Something went wrong inside MnemoLite."""

    code: ClassVar[str] = "internal_error"
    status: ClassVar[int] = 500
    usual_remedy: ClassVar[str | None] = None  # where nothing more special is said

    def __init__(
        self,
        detail: str | None = None,
        *,
        field: str | None = None,
        remedy: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        self.detail = detail or (type(self).__doc__ or "").split("\n", 1)[0]
        self.field = field
        self.remedy = remedy or self.usual_remedy
        self.retry_after = retry_after
        super().__init__(self.detail)

    @property
    def title(self) -> str:
        """The class's own message, the same for every error of this code."""
        return (type(self).__doc__ or "").split("\n", 1)[0].rstrip(".")

    def __str__(self) -> str:
        named = f"{self.field}: {self.detail}" if self.field else self.detail
        return f"{named} {self.remedy}" if self.remedy else named


# --- What the caller sent -----------------------------------------------------------------------


class InvalidInputError(MnemoliteError):
    """The request is not valid."""

    code = "invalid_input"
    status = 422


class InvalidTextError(InvalidInputError):
    """A text holds a character that cannot be stored."""

    code = "invalid_text"


class InvalidTimestampError(InvalidInputError):
    """A timestamp must be a finite ISO 8601 date and time with a UTC offset."""

    code = "invalid_timestamp"


class InvalidFilterError(InvalidInputError):
    """The filter is not valid."""

    code = "invalid_filter"


class InvalidCursorError(InvalidInputError):
    """The cursor was not made by this API."""

    code = "invalid_cursor"


class InvalidVectorError(InvalidInputError):
    """The vector does not fit the active embedding space."""

    code = "invalid_vector"


class InvalidQueryError(InvalidInputError):
    """The search has nothing to look for."""

    code = "invalid_query"


class MalformedJsonError(MnemoliteError):
    """The request body is not valid JSON."""

    code = "malformed_json"
    status = 400


class UnsupportedMediaTypeError(MnemoliteError):
    """The request body must be sent as application/json."""

    code = "unsupported_media_type"
    status = 415


class PayloadTooLargeError(MnemoliteError):
    """The request is larger than this server accepts."""

    code = "payload_too_large"
    status = 413


class UnauthorizedError(MnemoliteError):
    """This server needs a valid API key."""

    code = "unauthorized"
    status = 401


class QueueFullError(MnemoliteError):
    """Too many events wait to be embedded."""

    code = "queue_full"
    status = 503


class StartingError(MnemoliteError):
    """The server is starting."""

    code = "starting"
    status = 503


class NotFoundError(MnemoliteError):
    """There is nothing at this address."""

    code = "not_found"
    status = 404


class MethodNotAllowedError(MnemoliteError):
    """This address does not support that method."""

    code = "method_not_allowed"
    status = 405


class EventNotFoundError(NotFoundError):
    """No event has this id."""

    code = "event_not_found"


class SearchNotFoundError(NotFoundError):
    """No recorded search has this id."""

    code = "search_not_found"


class RetentionNotFoundError(NotFoundError):
    """No retention rule or hold has this name."""

    code = "retention_not_found"


class CursorGoneError(MnemoliteError):
    """The feed no longer holds what follows this cursor."""

    code = "cursor_gone"
    status = 410


class SlowReaderError(MnemoliteError):
    """The client took nothing of its stream for too long."""

    code = "slow_reader"
    status = 408


class TooManyStreamsError(MnemoliteError):
    """This process serves as many streams as it may."""

    code = "too_many_streams"
    status = 503


class EventConflictError(MnemoliteError):
    """Another event already has this id."""

    code = "event_conflict"
    status = 409


class IdempotencyConflictError(MnemoliteError):
    """The idempotency key belongs to another request."""

    code = "idempotency_conflict"
    status = 409


class IdempotencyGoneError(MnemoliteError):
    """An event that was stored under the idempotency key has been deleted since."""

    code = "idempotency_gone"
    status = 410


# --- The database -------------------------------------------------------------------------------


class DatabaseError(MnemoliteError):
    """The database refused an operation."""

    code = "database_error"


class DatabaseUnavailableError(DatabaseError):
    """The database cannot be reached."""

    code = "database_unavailable"
    status = 503


class DatabaseBusyError(DatabaseError):
    """Every database connection is in use."""

    code = "database_busy"
    status = 503


class DatabaseReadOnlyError(DatabaseError):
    """The database refuses writes."""

    code = "database_read_only"
    status = 503
    usual_remedy = (
        "DATABASE_URL must lead to the primary: name all hosts, with "
        "target_session_attrs=read-write, so that it is found after a fail-over."
    )


class DatabaseFullError(DatabaseError):
    """The database has no room left."""

    code = "database_full"
    status = 507
    usual_remedy = (
        "Free some space where PostgreSQL keeps its data, or give it a larger disk; nothing of the "
        "request was stored, so send it again then."
    )


class DatabaseTimeoutError(DatabaseError):
    """The database took too long to answer."""

    code = "database_timeout"
    status = 503


class DatabaseConflictError(DatabaseError):
    """The operation collided with another one and can be tried again."""

    code = "database_conflict"
    status = 503


class DatabaseUnsuitableError(DatabaseError):
    """The database lacks something MnemoLite needs."""

    code = "database_unsuitable"


class SchemaTooNewError(DatabaseUnsuitableError):
    """The database was written by a newer MnemoLite."""

    code = "schema_too_new"


class LocalPostgresError(DatabaseError):
    """The embedded PostgreSQL could not be used."""

    code = "local_postgres_failed"


class DatabaseNotEmptyError(DatabaseError):
    """The database holds something already."""

    code = "database_not_empty"
    status = 409


class BackupError(DatabaseError):
    """The database could not be saved or restored."""

    code = "backup_failed"


class LayoutBusyError(MnemoliteError):
    """The layout of the database is being changed already."""

    code = "layout_busy"
    status = 409


class LayoutRefusedError(MnemoliteError):
    """The database does not allow this change of its layout."""

    code = "layout_refused"
    status = 409


# --- Embeddings ---------------------------------------------------------------------------------


class EmbeddingError(MnemoliteError):
    """A text could not be embedded."""

    code = "embedding_failed"
    status = 503


class ModelUnavailableError(EmbeddingError):
    """The embedding model is not available."""

    code = "model_unavailable"


class ModelBusyError(ModelUnavailableError):
    """The embedding model has too much to do."""

    code = "model_busy"


class ModelMismatchError(EmbeddingError):
    """The embedding model is not the one this database was filled with."""

    code = "model_mismatch"


class EmbeddingAbandonedError(EmbeddingError):
    """The worker that was embedding the text ended before it was done."""

    code = "embedding_abandoned"


class SpaceChangeError(MnemoliteError):
    """The embedding spaces do not allow this change now."""

    code = "space_change_refused"
    status = 409


# No fault of a text: to embed another one would fail as well.
MODEL_FAULTS = (ModelUnavailableError, ModelMismatchError)


# --- Reranking ----------------------------------------------------------------------------------


class RerankingError(MnemoliteError):
    """The hits could not be ordered anew."""

    code = "reranking_failed"
    status = 503


class RerankingTimeoutError(RerankingError):
    """The reranker took too long to answer."""

    code = "reranking_timeout"


class RerankerUnavailableError(RerankingError):
    """The reranker could not be loaded."""

    code = "reranker_unavailable"


# --- The operator -------------------------------------------------------------------------------


class SettingsError(MnemoliteError):
    """A setting is not valid."""

    code = "invalid_setting"


class InvalidFileError(InvalidInputError):
    """The file cannot be read."""

    code = "invalid_file"
