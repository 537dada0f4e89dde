"""The system's clock and randomness, bound to the ports of the protocol."""

from __future__ import annotations

import secrets
import time


class SystemClock:
    """Wall-clock time."""

    def now_s(self) -> int:
        return int(time.time())


class SystemEntropy:
    """The operating system's randomness."""

    def bytes(self, n: int, /) -> bytes:
        return secrets.token_bytes(n)
