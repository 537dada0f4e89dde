"""Card keys are made ahead of need: one takes some 50 ms, and a tap must not wait for it."""

from __future__ import annotations

import queue
import threading
from typing import Final

from protocol.card.rsa import ICC_BITS, PrivateKey, generate_key

KEYS_AHEAD: Final = 8


class CardKeyPool:
    """A pool that a thread refills; who asks for more than it holds waits for the making."""

    def __init__(self, size: int = KEYS_AHEAD) -> None:
        self._ready: queue.Queue[PrivateKey] = queue.Queue(maxsize=size)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._fill, name="card-keys", daemon=True)
        self._thread.start()

    def take(self, number: int) -> tuple[PrivateKey, ...]:
        """`number` fresh keys."""
        keys = []
        for _ in range(number):
            try:
                keys.append(self._ready.get_nowait())
            except queue.Empty:
                keys.append(generate_key(ICC_BITS))
        return tuple(keys)

    def close(self) -> None:
        """Make no more."""
        self._stop.set()

    def _fill(self) -> None:
        while not self._stop.is_set():
            key = generate_key(ICC_BITS)
            while not self._stop.is_set():
                try:
                    self._ready.put(key, timeout=0.2)
                    break
                except queue.Full:
                    continue
