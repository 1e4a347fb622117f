"""An HTTP address that takes JSON and answers JSON: tries again while there is time."""

import asyncio
import random
import time
from dataclasses import dataclass

import httpx
import orjson
from pydantic import SecretStr

from mnemolite.errors import RerankingError, RerankingTimeoutError
from mnemolite.retry_after import read_retry_after

_TRIES = 3
# The first wait is up to this long and the next one up to twice that, drawn at random, so that
# clients which failed together do not come back together.
_FIRST_WAIT_SECONDS = 0.1
_WORTH_ANOTHER_TRY = frozenset({429, 500, 502, 503, 504})
# Two hundred scores are some kilobytes; whoever sends more is no reranker.
_MAX_ANSWER_BYTES = 4 * 1024 * 1024
_SHOWN_CHARACTERS = 200


@dataclass(frozen=True, slots=True)
class _Failure:
    reason: str
    final: bool = False
    wait_seconds: float | None = None


class Endpoint:
    """One address with its own connections."""

    def __init__(self, url: httpx.URL, *, key: SecretStr | None, seconds: float) -> None:
        headers = {"Content-Type": "application/json"}
        if key is not None:
            headers["Authorization"] = f"Bearer {key.get_secret_value()}"
        self._client = httpx.AsyncClient(headers=headers)
        self._url = url
        self._seconds = seconds

    async def post(self, payload: object) -> object:
        """Send the payload and return the answer, both JSON.

        A refused connection, 429 and 5xx are tried again, no sooner than ``Retry-After`` says, if
        that leaves time before the end of ``seconds``. Raises RerankingError.
        """
        end = time.monotonic() + self._seconds
        body = orjson.dumps(payload)
        for number in range(1, _TRIES + 1):
            outcome = await self._try(body, end - time.monotonic())
            if isinstance(outcome, bytes):
                return _parse(outcome)
            reason, wait = outcome.reason, outcome.wait_seconds
            if wait is None:
                wait = random.uniform(0, _FIRST_WAIT_SECONDS * 2 ** (number - 1))
            if outcome.final or number == _TRIES or time.monotonic() + wait >= end:
                break
            await asyncio.sleep(wait)
        raise RerankingError(f"{reason} (tries: {number})")

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def _try(self, body: bytes, seconds: float) -> bytes | _Failure:
        timeout = httpx.Timeout(seconds)
        try:
            async with self._client.stream(
                "POST", self._url, content=body, timeout=timeout
            ) as response:
                answer = await _read(response)
        except httpx.TimeoutException as error:
            raise RerankingTimeoutError(
                f"The reranker did not answer within {self._seconds:g} s."
            ) from error
        except httpx.HTTPError as error:
            # The message of an HTTPError can hold the address but never a header.
            return _Failure(f"The reranker cannot be reached: {_describe(error)}")
        except RuntimeError as error:  # the client has been closed
            return _Failure(f"The reranker cannot be asked: {error}", final=True)
        if response.status_code == httpx.codes.OK:
            return answer
        return _refusal(response, answer)


async def _read(response: httpx.Response) -> bytes:
    answer = bytearray()
    async for chunk in response.aiter_bytes():
        answer += chunk
        if len(answer) > _MAX_ANSWER_BYTES:
            raise RerankingError(f"The reranker sent more than {_MAX_ANSWER_BYTES} bytes.")
    return bytes(answer)


def _refusal(response: httpx.Response, answer: bytes) -> _Failure:
    said = " ".join(answer[:_SHOWN_CHARACTERS].decode(errors="replace").split())
    return _Failure(
        f"The reranker answered {response.status_code}: {said}",
        final=response.status_code not in _WORTH_ANOTHER_TRY,
        wait_seconds=read_retry_after(response.headers.get("retry-after")),
    )


def _describe(error: httpx.HTTPError) -> str:
    return str(error) or type(error).__name__


def _parse(answer: bytes) -> object:
    try:
        return orjson.loads(answer)
    except orjson.JSONDecodeError as error:
        raise RerankingError(f"The reranker's answer is not JSON: {error}.") from error
