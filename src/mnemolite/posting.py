"""Requests to targets that others have named: to a checked address, bounded, redirects unfollowed.

Importing this module loads the HTTP client.
"""

import asyncio
import ssl
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import cache
from typing import Self

import httpx

from mnemolite.addresses import Target, parse_target, resolve
from mnemolite.errors import InvalidInputError
from mnemolite.retry_after import read_retry_after

# What a target answers is not kept; a longer answer costs the connection.
_MAX_ANSWER_BYTES = 64 * 1024
_MAX_ADDRESSES = 4
_LONGEST_RETRY_AFTER_SECONDS = 86_400.0
_SUCCESS = range(200, 300)
# Of the target as a whole, not of what was sent: it is left alone for a while.
_AWAY = frozenset({408, 429, 502, 503, 504})


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a request."""

    seconds: float
    status: int | None = None
    error: str | None = None  # None: it was taken
    retry_after_seconds: float = 0.0

    @property
    def taken(self) -> bool:
        """Whether the target has it."""
        return self.error is None

    @property
    def gone(self) -> bool:
        """Whether the target wants no more of it."""
        return self.status == httpx.codes.GONE

    @property
    def away(self) -> bool:
        """Whether other requests would fare no better."""
        return not self.taken and (self.status is None or self.status in _AWAY)


class Poster:
    """Connections to one target; they are its own, for the host's name is part of their trust."""

    def __init__(
        self,
        url: str,
        *,
        seconds: float,
        allow_private: bool,
        trust: ssl.SSLContext | None = None,
    ) -> None:
        """``trust`` says whose certificates are good; by default those of the HTTP client."""
        self._url = url
        self._trust = trust
        self._seconds = seconds
        self._allow_private = allow_private
        self._stack = AsyncExitStack()
        self._transport: httpx.AsyncHTTPTransport | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def post(self, body: bytes, headers: Mapping[str, str]) -> Answer:
        """Send a body to the target, within the time of one request."""
        started = time.monotonic()
        try:
            async with asyncio.timeout(self._seconds):
                response = await self._send(body, headers)
        except TimeoutError:
            error = f"The target did not answer within {self._seconds:g} s."
        except InvalidInputError as refused:  # the address: of no host, or of a forbidden one
            error = f"{refused.code}: {refused.detail}"
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as failed:
            error = f"The target cannot be reached: {_described(failed)}"
        else:
            return _answer(response, time.monotonic() - started)
        return Answer(seconds=time.monotonic() - started, error=error)

    async def _send(self, body: bytes, headers: Mapping[str, str]) -> httpx.Response:
        """Try the host's addresses in turn, each the very one that was checked."""
        target = parse_target(self._url)
        addresses = await resolve(target, allow_private=self._allow_private)
        *others, last = addresses[:_MAX_ADDRESSES]
        seconds = self._seconds / (len(others) + 1)
        for address in others:
            try:
                return await self._ask(target, address, body=body, headers=headers, seconds=seconds)
            except (httpx.ConnectError, httpx.ConnectTimeout):
                continue
        return await self._ask(target, last, body=body, headers=headers, seconds=seconds)

    async def _ask(
        self,
        target: Target,
        address: str,
        *,
        body: bytes,
        headers: Mapping[str, str],
        seconds: float,
    ) -> httpx.Response:
        request = httpx.Request(
            "POST",
            target.at(address),
            content=body,
            headers={"Host": target.authority, "Accept-Encoding": "identity", **headers},
            # The certificate must be the name's, though the connection goes to an address.
            extensions={
                "sni_hostname": target.host.rstrip("."),
                "timeout": httpx.Timeout(self._seconds, connect=seconds).as_dict(),
            },
        )
        response = await (await self._open()).handle_async_request(request)
        try:
            await _drain(response)
        finally:
            await response.aclose()
        return response

    async def _open(self) -> httpx.AsyncHTTPTransport:
        """No proxy of the environment, which would look for the host's address itself."""
        if self._transport is None:
            transport = httpx.AsyncHTTPTransport(verify=self._trust or _usual_trust())
            self._transport = await self._stack.enter_async_context(transport)
        return self._transport


@cache
def _usual_trust() -> ssl.SSLContext:
    return httpx.create_ssl_context()


async def _drain(response: httpx.Response) -> None:
    received = 0
    async for chunk in response.aiter_raw():
        received += len(chunk)
        if received > _MAX_ANSWER_BYTES:
            return


def _answer(response: httpx.Response, seconds: float) -> Answer:
    status = response.status_code
    if status in _SUCCESS:
        return Answer(seconds, status)
    error = f"The target answered {status}."
    if response.has_redirect_location:
        error = f"The target answered {status}; redirects are not followed."
    after = read_retry_after(response.headers.get("Retry-After")) or 0.0
    return Answer(seconds, status, error, min(after, _LONGEST_RETRY_AFTER_SECONDS))


def _described(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
