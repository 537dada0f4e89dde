"""A card in the same process: the third link of a lane, for scripts, measurements and tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol


class LocalCard(Protocol):
    """What answers (`protocol.card.applet.Applet`)."""

    def process(self, command: bytes, /) -> bytes:
        """A response APDU to any bytes."""

    def reset(self) -> None:
        """The field was lost."""


class LocalLink:
    """One stay of a card in the field."""

    def __init__(self, card: LocalCard) -> None:
        self._card = card

    def transmit(self, command: bytes, /) -> bytes:
        """The card's answer to a command APDU."""
        return self._card.process(command)

    def close(self) -> None:
        """Let the card go."""
        self._card.reset()


class LocalReader:
    """Finds a new card of `insert` whenever one is waited for."""

    def __init__(self, insert: Callable[[], LocalCard]) -> None:
        self._insert = insert

    def wait_for_card(self, timeout_s: float, /) -> LocalLink:
        """A card, at once."""
        return LocalLink(self._insert())

    def close(self) -> None:
        """Nothing is held between two cards."""
