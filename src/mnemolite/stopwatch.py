"""A stopwatch: how long each part of one piece of work took."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Stopwatch:
    """Runs from when it is made; parts may overlap, and one timed again adds up."""

    def __init__(self) -> None:
        self._started = time.perf_counter()
        self._parts: dict[str, float] = {}

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Time what the block does under that name."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self._parts[name] = self._parts.get(name, 0.0) + time.perf_counter() - started

    def milliseconds(self) -> dict[str, float]:
        """Each part in the order of its end, and ``total`` until now."""
        parts = self._parts | {"total": time.perf_counter() - self._started}
        return {name: round(seconds * 1000, 3) for name, seconds in parts.items()}
