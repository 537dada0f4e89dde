"""A duplicate of a request that is still in progress waits for it, and then finds its answer."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class InFlight:
    """One lock a request digest, kept while somebody holds or awaits it."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._held: dict[bytes, tuple[threading.Lock, int]] = {}

    @contextmanager
    def one(self, digest: bytes) -> Iterator[None]:
        """Only one thread at a time works on a digest."""
        with self._guard:
            lock, waiting = self._held.get(digest, (threading.Lock(), 0))
            self._held[digest] = (lock, waiting + 1)
        try:
            with lock:
                yield
        finally:
            with self._guard:
                lock, waiting = self._held[digest]
                if waiting == 1:
                    del self._held[digest]
                else:
                    self._held[digest] = (lock, waiting - 1)

    def __len__(self) -> int:
        return len(self._held)
