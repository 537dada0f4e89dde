"""What a step may ask of the world: time and randomness. Production binds the system's; a simulator binds a seed."""

from __future__ import annotations

from typing import Protocol


class Clock(Protocol):
    """Wall-clock time."""

    def now_s(self) -> int:
        """Unix time in whole seconds."""


class Entropy(Protocol):
    """Cryptographic randomness."""

    def bytes(self, n: int, /) -> bytes:
        """`n` random bytes."""
