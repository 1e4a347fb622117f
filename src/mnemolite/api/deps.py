"""What routes ask for: the memory, and input that is strictly JSON."""

import json
from collections.abc import Callable, Coroutine
from typing import Annotated, Any, TypeVar, cast

from fastapi import Depends, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError

from mnemolite.errors import (
    InvalidFilterError,
    MalformedJsonError,
    PayloadTooLargeError,
    UnsupportedMediaTypeError,
)
from mnemolite.memory import Memory

_Model = TypeVar("_Model", bound=BaseModel)


def get_memory(request: Request) -> Memory:
    """The memory that the server opened before it was ready."""
    return cast("Memory", request.app.state.memory)


MemoryDep = Annotated[Memory, Depends(get_memory)]


def parse_json(body: bytes) -> Any:
    """Decode JSON strictly: UTF-8, no NaN or infinity, no number too long to be read exactly."""
    try:
        return json.loads(body.decode("utf-8"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise MalformedJsonError(f"The request body is not valid JSON: {error}.") from None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


class _StrictRequest(Request):
    """A request whose body is bounded, and parsed by ``parse_json``."""

    _parsed: Any = None

    async def parse(self, max_bytes: int) -> None:
        """Read and parse the body; later reads of it find the result."""
        _check_media_type(self)
        received = bytearray()
        async for chunk in self.stream():
            received += chunk
            if len(received) > max_bytes:
                raise PayloadTooLargeError(
                    f"The request body is larger than {max_bytes:,} bytes.",
                    remedy="Send less at once, or raise MNEMO_MAX_BODY.",
                )
        self._body = bytes(received)
        self._parsed = parse_json(self._body)

    async def json(self) -> Any:
        return self._parsed


class StrictJsonRoute(APIRoute):
    """A route whose body must be called JSON, be JSON, and not be too large."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def strict_handler(request: Request) -> Response:
            if self.body_field is None:
                return await handler(request)
            strict = _StrictRequest(request.scope, request.receive)
            await strict.parse(request.app.state.settings.server.max_body)
            return await handler(strict)

        return strict_handler


def _check_media_type(request: Request) -> None:
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json" and not media_type.endswith("+json"):
        raise UnsupportedMediaTypeError(remedy="Send the header Content-Type: application/json.")


def build(model: type[_Model], values: dict[str, Any]) -> _Model:
    """Make a model from a query string's values; its faults are the request's faults."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        faults = [{**fault, "loc": ("query", *fault["loc"])} for fault in error.errors()]
        raise RequestValidationError(faults) from None


def parse_where(text: str | None) -> Any:
    """The filter of a query string: JSON text."""
    if text is None:
        return None
    try:
        return parse_json(text.encode("utf-8", "surrogatepass"))
    except MalformedJsonError as error:
        raise InvalidFilterError(
            f"The filter is not JSON: {error.detail}",
            field="where",
            remedy='Write it as JSON, such as {"user": "ada"}, URL-encoded.',
        ) from None
