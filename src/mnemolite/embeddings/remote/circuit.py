"""A circuit breaker: a model server that failed repeatedly is left alone for a while."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import structlog

from mnemolite.errors import ModelBusyError, ModelUnavailableError

log = structlog.get_logger(__name__)

_FAILURES = 3


class Circuit:
    """Closed: calls go through. Open: they fail at once. Half open: one of them tries.

    A call counts as failed when it raises ModelUnavailableError, unless the server is only busy.
    """

    def __init__(self, seconds: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._failures = 0
        self._closed_again = 0.0
        self._tried = False

    @property
    def is_open(self) -> bool:
        """Whether calls are refused or tried one at a time."""
        return self._failures >= _FAILURES

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """Let the block through, or raise ModelUnavailableError; its outcome counts."""
        self._enter()
        try:
            yield
        except ModelBusyError:
            self._succeeded()
            raise
        except ModelUnavailableError:
            self._failed()
            raise
        except BaseException:
            # A fault of the text, or of this program: the server is not to blame.
            self._succeeded()
            raise
        self._succeeded()

    def _enter(self) -> None:
        with self._lock:
            if not self.is_open:
                return
            left = self._closed_again - self._clock()
            if left > 0 or self._tried:
                raise ModelUnavailableError(
                    "The model server failed repeatedly and is left alone for now.",
                    retry_after=max(1, round(left)),
                )
            self._tried = True

    def _failed(self) -> None:
        with self._lock:
            self._failures += 1
            self._tried = False
            if self.is_open:
                self._closed_again = self._clock() + self._seconds
                log.warning("model_server_circuit_open", seconds=self._seconds)

    def _succeeded(self) -> None:
        with self._lock:
            if self.is_open:
                log.info("model_server_circuit_closed")
            self._failures = 0
            self._tried = False
