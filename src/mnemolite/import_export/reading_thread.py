"""A thread of its own for a source that may keep its reader waiting."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from queue import SimpleQueue
from threading import Thread
from typing import Any, Protocol, TypeVar

T = TypeVar("T")

_Call = tuple[Future[Any], Callable[[], Any]]


class Caller(Protocol):
    """Has a function called by the thread."""

    def __call__(self, function: Callable[[], T]) -> Awaitable[T]: ...


@contextmanager
def reading_thread(close: Callable[[], None]) -> Iterator[Caller]:
    """A thread that makes calls, one after the other, and at the end calls ``close``.

    It ends with the program even while it waits for a pipe, and takes no place from the threads
    that others share while it waits for a slow client.
    """
    calls: SimpleQueue[_Call | None] = SimpleQueue()

    def submit(function: Callable[[], T]) -> Awaitable[T]:
        future: Future[T] = Future()
        calls.put((future, function))
        return asyncio.wrap_future(future)

    Thread(target=_work, args=(calls, close), name="reader", daemon=True).start()
    try:
        yield submit
    finally:
        calls.put(None)


def _work(calls: "SimpleQueue[_Call | None]", close: Callable[[], None]) -> None:
    while (call := calls.get()) is not None:
        future, function = call
        if not future.set_running_or_notify_cancel():
            continue
        try:
            future.set_result(function())
        except BaseException as error:  # noqa: BLE001 (the top of a thread)
            # Whatever it is, it belongs to who awaits the call.
            future.set_exception(error)
    close()
