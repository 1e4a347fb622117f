"""A least-recently-used cache of vectors, bounded in bytes and safe to share between threads."""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Sequence

from mnemolite.embeddings import Kind, Vectors

# What an entry costs beside its numbers: key, array object, dictionary slot, list links.
_ENTRY_BYTES = 320


class VectorCache:
    """Vectors by space, kind and text. A size of 0 turns it off."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._entries: OrderedDict[bytes, Vectors] = OrderedDict()
        self._lock = threading.Lock()
        self._counts = {"hits": 0, "misses": 0, "evictions": 0, "bytes": 0}

    @staticmethod
    def key(text: str, *, space: str, kind: Kind) -> bytes:
        """The key of a text in a space, which is given by its digest."""
        return hashlib.sha256(f"{space}\0{kind}\0{text}".encode()).digest()

    def get(self, key: bytes) -> Vectors | None:
        """The cached vector, read-only, or None."""
        return self.get_many([key])[0]

    def get_many(self, keys: Sequence[bytes]) -> list[Vectors | None]:
        """For each key the cached vector, read-only, or None."""
        if not self._max_bytes:
            return [None] * len(keys)
        with self._lock:
            return [self._get(key) for key in keys]

    def put(self, key: bytes, vector: Vectors) -> None:
        """Keep a copy of a vector, dropping the least recently used ones beyond the limit."""
        self.put_many([key], [vector])

    def put_many(self, keys: Sequence[bytes], vectors: Sequence[Vectors]) -> None:
        """Keep copies of some vectors."""
        copies = [vector.copy() for vector in vectors if self._size(vector) <= self._max_bytes]
        if len(copies) < len(vectors):
            return
        with self._lock:
            for key, copy in zip(keys, copies, strict=True):
                copy.setflags(write=False)
                self._put(key, copy)

    def _get(self, key: bytes) -> Vectors | None:
        vector = self._entries.get(key)
        if vector is None:
            self._counts["misses"] += 1
            return None
        self._counts["hits"] += 1
        self._entries.move_to_end(key)
        return vector

    def _put(self, key: bytes, vector: Vectors) -> None:
        if key not in self._entries:
            self._counts["bytes"] += self._size(vector)
        self._entries[key] = vector
        self._entries.move_to_end(key)
        while self._counts["bytes"] > self._max_bytes:
            _, dropped = self._entries.popitem(last=False)
            self._counts["bytes"] -= self._size(dropped)
            self._counts["evictions"] += 1

    @staticmethod
    def _size(vector: Vectors) -> int:
        return vector.nbytes + _ENTRY_BYTES

    def stats(self) -> dict[str, int]:
        """Hits, misses, evictions, and the bytes in use."""
        with self._lock:
            return dict(self._counts)
