"""Errors as RFC 9457 problem JSON, in answers and in the OpenAPI description."""

from collections.abc import Mapping
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from mnemolite.errors import (
    DatabaseBusyError,
    DatabaseConflictError,
    DatabaseError,
    DatabaseFullError,
    DatabaseReadOnlyError,
    DatabaseTimeoutError,
    DatabaseUnavailableError,
    InvalidCursorError,
    InvalidInputError,
    InvalidQueryError,
    InvalidTextError,
    InvalidTimestampError,
    MalformedJsonError,
    MethodNotAllowedError,
    MnemoliteError,
    NotFoundError,
    PayloadTooLargeError,
    UnauthorizedError,
    UnsupportedMediaTypeError,
)

MEDIA_TYPE = "application/problem+json"

# What pydantic calls an error, and the class of ours whose code the client sees.
_BY_PYDANTIC_TYPE: Mapping[str, type[MnemoliteError]] = {
    "invalid_text": InvalidTextError,
    "invalid_timestamp": InvalidTimestampError,
    "invalid_query": InvalidQueryError,
    "invalid_cursor": InvalidCursorError,
    "json_invalid": MalformedJsonError,
}
_BY_STATUS: Mapping[int, type[MnemoliteError]] = {
    404: NotFoundError,
    405: MethodNotAllowedError,
    413: PayloadTooLargeError,
}
# Every operation can answer with the first ones, those that ask the database with the rest.
COMMON: tuple[type[MnemoliteError], ...] = (UnauthorizedError, MnemoliteError)
DATABASE: tuple[type[MnemoliteError], ...] = (
    DatabaseError,
    DatabaseUnavailableError,
    DatabaseBusyError,
    DatabaseTimeoutError,
)
WITH_BODY: tuple[type[MnemoliteError], ...] = (
    InvalidInputError,
    MalformedJsonError,
    UnsupportedMediaTypeError,
    PayloadTooLargeError,
)
WRITING: tuple[type[MnemoliteError], ...] = (
    *DATABASE,
    DatabaseConflictError,
    DatabaseReadOnlyError,
    DatabaseFullError,
)


class Fault(BaseModel):
    """One of several things wrong with a request."""

    field: str | None
    code: str
    detail: str


class Problem(BaseModel):
    """What went wrong, for programs (code, field) and for people (detail, remedy)."""

    model_config = ConfigDict(extra="forbid")

    type: str = Field(description="A name for the kind of error.")
    title: str
    status: int
    code: str = Field(description="Stable: programs can rely on it.")
    detail: str
    field: str | None = Field(None, description="The input at fault.")
    remedy: str | None = Field(None, description="What to do about it.")
    errors: list[Fault] = Field(default_factory=list, description="All faults of the input.")


def problem_of(error: MnemoliteError, faults: list[Fault] | None = None) -> Problem:
    """The problem document of an error."""
    return Problem(
        type=f"urn:mnemolite:error:{error.code}",
        title=error.title,
        status=error.status,
        code=error.code,
        detail=error.detail,
        field=error.field,
        remedy=error.remedy,
        errors=faults or [],
    )


def respond(error: MnemoliteError, faults: list[Fault] | None = None) -> JSONResponse:
    """The HTTP answer of an error."""
    headers = {"Retry-After": str(error.retry_after)} if error.retry_after else {}
    if isinstance(error, UnauthorizedError):
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse(
        problem_of(error, faults).model_dump(exclude_none=True),
        status_code=error.status,
        headers=headers,
        media_type=MEDIA_TYPE,
    )


async def on_error(_: Request, error: Exception) -> JSONResponse:
    """Answer one of our own errors."""
    assert isinstance(error, MnemoliteError)
    return respond(error)


async def on_http_exception(_: Request, error: Exception) -> JSONResponse:
    """Answer what the framework found: no such route, no such method."""
    assert isinstance(error, HTTPException)
    kind = _BY_STATUS.get(error.status_code, InvalidInputError)
    response = respond(kind(None if error.status_code in _BY_STATUS else str(error.detail)))
    response.headers.update(error.headers or {})
    return response


async def on_validation_error(_: Request, error: Exception) -> JSONResponse:
    """Answer a request that does not fit its model, naming every field."""
    assert isinstance(error, RequestValidationError)
    faults = [_fault(details) for details in error.errors()]
    first = faults[0]
    kind = _kind(error.errors()[0]["type"])
    return respond(kind(first.detail, field=first.field), faults)


def example(value: Any) -> dict[str, Any]:
    """The ``content`` of a successful answer for OpenAPI."""
    return {"content": {"application/json": {"example": value}}}


def responses(*errors: type[MnemoliteError]) -> dict[int | str, dict[str, Any]]:
    """The ``responses`` of a route for OpenAPI: by status, an example for each code."""
    described: dict[int | str, dict[str, Any]] = {}
    for kind in (*errors, *COMMON):
        entry = described.setdefault(
            kind.status,
            {"model": Problem, "description": "", "content": {MEDIA_TYPE: {"examples": {}}}},
        )
        example = problem_of(kind()).model_dump(exclude_none=True)
        entry["content"][MEDIA_TYPE]["examples"][kind.code] = {"value": example}
        names = entry["content"][MEDIA_TYPE]["examples"]
        entry["description"] = "Problem: " + ", ".join(f"`{name}`" for name in names)
    return described


def move_problems(document: dict[str, Any]) -> None:
    """Describe problems by their own media type alone: FastAPI puts them under the route's too."""
    operations = (op for methods in document["paths"].values() for op in methods.values())
    for response in (answer for op in operations for answer in op["responses"].values()):
        content = response.get("content", {})
        if MEDIA_TYPE in content and len(content) > 1:
            other = next(name for name in content if name != MEDIA_TYPE)
            content[MEDIA_TYPE]["schema"] = content.pop(other)["schema"]


def _kind(pydantic_type: str) -> type[MnemoliteError]:
    return _BY_PYDANTIC_TYPE.get(pydantic_type, InvalidInputError)


def _fault(details: Mapping[str, Any]) -> Fault:
    kind = _kind(details["type"])
    message = str(details["msg"])
    # What is wrong between two fields has no place, and names the one at fault itself.
    location = details["loc"] + tuple(filter(None, [details.get("ctx", {}).get("field")]))
    return Fault(field=_field(location), code=kind.code, detail=f"{message}.")


def _field(location: tuple[int | str, ...]) -> str | None:
    """``("body", "events", 3, "content")`` is ``events[3].content``."""
    parts = [part for part in location[1:] if part != "function-before"]
    named = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts)
    return named.removeprefix(".") or None
