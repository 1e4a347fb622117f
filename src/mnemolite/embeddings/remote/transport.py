"""HTTP to a model server: time-outs, retries with jitter, answers checked for form."""

import random
import threading
from collections.abc import Callable, Sequence
from http import HTTPStatus
from typing import Any, TypeVar

import httpx
import orjson

from mnemolite.embeddings import Kind
from mnemolite.embeddings.remote.protocols import (
    AnswerError,
    KServeProtocol,
    Matrix,
    OpenAIProtocol,
    RemoteProtocol,
    TeiProtocol,
)
from mnemolite.errors import ModelBusyError, ModelUnavailableError, SettingsError
from mnemolite.retry_after import read_retry_after
from mnemolite.settings import EmbeddingSettings

# Nobody waits longer for a search, whatever an import may take.
_QUERY_SECONDS = 10.0
_CONNECT_SECONDS = 5.0
_PROBE_SECONDS = 5.0
_FIRST_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 5.0
_SHOWN_CHARACTERS = 200
_REFUSED = frozenset({401, 403, 404, 405})
_WORTH_ANOTHER_TRY = frozenset({408, 425, 429})
T = TypeVar("T")

PROBE = "Is anybody there?"


class ServerFailureError(Exception):
    """A request failed for good: the server or the text is to blame.

    ``again`` says whether it can be tried again, ``after`` when the server wants that (seconds).
    """

    def __init__(self, detail: str, *, again: bool = False, after: float = 0) -> None:
        super().__init__(detail)
        self.again = again
        self.after = after


class _BusyError(ServerFailureError):
    """The server asks to come back later."""


class Transport:
    """One model server. Safe to use from several threads."""

    def __init__(self, settings: EmbeddingSettings) -> None:
        if settings.url is None:
            raise SettingsError(
                "The provider `remote` needs the address of a model server.",
                field="MNEMO_EMBEDDING_URL",
                remedy="Set it to something like http://gpu-1:8080.",
            )
        self._settings = settings
        self._key = settings.api_key.get_secret_value() if settings.api_key else ""
        self._closing = threading.Event()
        self._client = httpx.Client(
            base_url=settings.url,
            headers={"Authorization": f"Bearer {self._key}"} if self._key else {},
            limits=httpx.Limits(max_connections=None),
        )
        self._protocol: RemoteProtocol = TeiProtocol()

    def open(self) -> Matrix:
        """Settle the protocol and embed a first text; raises what ``ask`` does."""
        self._protocol = self._choose(self._settings)
        return self.ask([PROBE], "document")

    def ask(self, texts: Sequence[str], kind: Kind) -> Matrix:
        """The server's vectors, tried as often as the settings allow.

        Raises ServerFailureError, ModelBusyError, or ModelUnavailableError when the server refuses
        all requests of this kind (a wrong key or model).
        """
        longest = self._settings.timeout_seconds
        seconds = longest if kind == "document" else min(longest, _QUERY_SECONDS)
        return self._retried(lambda: self._post(texts, kind, seconds))

    def answers(self) -> bool:
        """Whether the server embeds a harmless text now."""
        try:
            self._post([PROBE], "query", min(_PROBE_SECONDS, self._settings.timeout_seconds))
        except (ServerFailureError, ModelUnavailableError):
            return False
        return True

    def close(self) -> None:
        """End the connections; calls in flight fail, those that pause before a retry at once."""
        self._closing.set()
        self._client.close()

    def _choose(self, settings: EmbeddingSettings) -> RemoteProtocol:
        if settings.protocol == "openai":
            return OpenAIProtocol(settings.model, str(settings.url))
        if settings.protocol == "tei":
            return TeiProtocol()
        try:
            return KServeProtocol(settings.model, self._fetch)
        except AnswerError as error:
            raise ServerFailureError(f"of the metadata, {error}") from error

    def _fetch(self, path: str) -> Any:
        seconds = self._settings.timeout_seconds
        return self._retried(lambda: self._request("GET", path, timeout=_timeout(seconds)))

    def _post(self, texts: Sequence[str], kind: Kind, seconds: float) -> Matrix:  # noqa: PLR0917
        answer = self._request(
            "POST",
            self._protocol.path,
            content=orjson.dumps(self._protocol.body(texts, kind)),
            headers={"Content-Type": "application/json"},
            timeout=_timeout(seconds),
        )
        try:
            return self._protocol.rows(answer, len(texts))
        except AnswerError as error:
            raise ServerFailureError(f"of its answer, {error}", again=True) from error

    def _request(self, method: str, path: str, **options: Any) -> Any:
        try:
            response = self._client.request(method, path, **options)
        except httpx.TimeoutException as error:
            # A server that is too slow is not made faster by asking it again.
            again = isinstance(error, httpx.ConnectTimeout)
            raise ServerFailureError(f"no answer in time ({_named(error)})", again=again) from error
        except (httpx.HTTPError, RuntimeError) as error:  # RuntimeError: the client was closed
            again = not self._closing.is_set()
            raise ServerFailureError(f"no answer ({_named(error)})", again=again) from error
        if not response.is_success:
            raise self._refusal(response)
        try:
            return orjson.loads(response.content)
        except orjson.JSONDecodeError as error:
            raise ServerFailureError("its answer is not JSON", again=True) from error

    def _refusal(self, response: httpx.Response) -> ServerFailureError | ModelUnavailableError:
        status = response.status_code
        said = " ".join(response.text[:_SHOWN_CHARACTERS].split())
        if self._key:  # some servers repeat the key that they refuse
            said = said.replace(self._key, "[key]")
        detail = f"it answered {status}: {said}"
        if status in _REFUSED:
            return ModelUnavailableError(
                f"The model server {self._client.base_url} refuses: {detail}",
                field="MNEMO_EMBEDDING_API_KEY" if status in (401, 403) else "MNEMO_EMBEDDING_URL",
                remedy="Check the address, the protocol, the model's name and the key.",
            )
        after = read_retry_after(response.headers.get("Retry-After")) or 0.0
        if status == HTTPStatus.TOO_MANY_REQUESTS:
            return _BusyError(detail, again=True, after=after)
        again = status >= HTTPStatus.INTERNAL_SERVER_ERROR or status in _WORTH_ANOTHER_TRY
        return ServerFailureError(detail, again=again, after=after)

    def _retried(self, call: Callable[[], T]) -> T:
        for number in range(self._settings.retries + 1):
            try:
                return call()
            except ServerFailureError as error:
                pause = max(_pause(number), error.after)
                # One that wants to be left alone for longer than a request may last is left alone.
                patient = error.again and pause <= self._settings.timeout_seconds
                if patient and number < self._settings.retries and not self._closing.wait(pause):
                    continue
                if isinstance(error, _BusyError):
                    raise ModelBusyError(
                        f"The model server has too much to do: {error}",
                        retry_after=max(1, round(min(error.after, 3600))),
                    ) from error
                raise
        raise AssertionError("unreachable")


def _timeout(seconds: float) -> httpx.Timeout:
    return httpx.Timeout(seconds, connect=min(seconds, _CONNECT_SECONDS))


def _pause(number: int) -> float:
    """Growing, and different for each caller, so that they do not come back together."""
    longest: float = min(_FIRST_PAUSE_SECONDS * 2**number, _LONGEST_PAUSE_SECONDS)
    return random.uniform(longest / 2, longest)


def _named(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
