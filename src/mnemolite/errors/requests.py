"""Errors in what a caller sent or asked for."""

from mnemolite.errors.root import MnemoliteError


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


class UnknownHostError(InvalidInputError):
    """The host of an address cannot be found."""

    code = "unknown_host"


class ForbiddenAddressError(InvalidInputError):
    """Webhooks may not call this address."""

    code = "forbidden_address"


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


class WebhookNotFoundError(NotFoundError):
    """No webhook has this id."""

    code = "webhook_not_found"


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
