"""A card in a real reader: the merchant's link over PC/SC. Needs pyscard, the extra `pcsc`."""

from __future__ import annotations

from types import ModuleType
from typing import Final

from protocol.card import apdu
from protocol.card.outcome import CardLost
from protocol.errors import SettingsInvalid, Unavailable

_GET_RESPONSE: Final = bytes.fromhex("00C00000")
_MORE_DATA: Final = 0x61
_WRONG_LE: Final = 0x6C
_CASE_2_BYTES: Final = apdu.HEADER_BYTES + 1
_MAX_PARTS: Final = 4
"""T=0 hands a long answer out in parts; of 256 bytes there are never more than a few."""


class PcscLink:
    """One card in the reader of this name, held alone until closed.

    `transmit` takes a command APDU and returns a response APDU. Under T=0 it does what that protocol leaves to the
    terminal (EMV Book 1 §9.3.1): no Le beside data, and GET RESPONSE. A contactless card is always T=1 to PC/SC.
    """

    def __init__(self, reader: str) -> None:
        """Raises: SettingsInvalid (no pyscard, no such reader); Unavailable (no PC/SC service); CardLost (no card)."""
        self._scard = scard = _import_scard()
        self._card: int | None = None
        status, self._context = scard.SCardEstablishContext(scard.SCARD_SCOPE_USER)
        if status != scard.SCARD_S_SUCCESS:
            raise Unavailable("no PC/SC service: install and start pcscd")
        try:
            self._card, protocol = self._connect(reader)
        except (SettingsInvalid, Unavailable, CardLost):
            self.close()
            raise
        self._is_t0 = protocol == scard.SCARD_PROTOCOL_T0
        self._pci = scard.SCARD_PCI_T0 if self._is_t0 else scard.SCARD_PCI_T1

    def _connect(self, reader: str) -> tuple[int, int]:
        scard = self._scard
        status, names = scard.SCardListReaders(self._context, [])
        found = names if status == scard.SCARD_S_SUCCESS else []
        if reader not in found:
            there = ", ".join(repr(name) for name in found) or "none"
            raise SettingsInvalid(f"no PC/SC reader {reader!r}: connect it or name one that is there ({there})")
        status, card, protocol = scard.SCardConnect(
            self._context, reader, scard.SCARD_SHARE_EXCLUSIVE, scard.SCARD_PROTOCOL_T0 | scard.SCARD_PROTOCOL_T1
        )
        if status == scard.SCARD_E_SHARING_VIOLATION:
            raise Unavailable("another program holds the card: close it")
        if status != scard.SCARD_S_SUCCESS:
            raise CardLost("no card in the reader")
        return card, protocol

    def transmit(self, command: bytes) -> bytes:
        """The card's answer. Raises: CardLost when card, reader or service is gone."""
        if not self._is_t0:
            return self._exchange(command)
        has_data_and_le = len(command) > _CASE_2_BYTES and len(command) == _CASE_2_BYTES + command[4] + 1
        answer = self._exchange(command[:-1] if has_data_and_le else command)
        if len(answer) == 2 and answer[0] == _WRONG_LE:
            answer = self._exchange(command[: apdu.HEADER_BYTES] + answer[1:])
        for _ in range(_MAX_PARTS):
            if answer[-2] != _MORE_DATA:
                break
            answer = answer[:-2] + self._exchange(_GET_RESPONSE + answer[-1:])
        return answer

    def _exchange(self, command: bytes) -> bytes:
        scard = self._scard
        if self._card is None:
            raise CardLost("link is closed")
        status, answer = scard.SCardTransmit(self._card, self._pci, list(command))
        if status != scard.SCARD_S_SUCCESS or len(answer) < 2:
            raise CardLost("card left the reader")
        return bytes(answer)

    def close(self) -> None:
        """Power the card off and let go of reader and service. Twice is once."""
        if self._card is not None:
            self._scard.SCardDisconnect(self._card, self._scard.SCARD_UNPOWER_CARD)
            self._card = None
        if self._context is not None:
            self._scard.SCardReleaseContext(self._context)
            self._context = None

    def __enter__(self) -> PcscLink:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _import_scard() -> ModuleType:
    # Only who reads cards in a reader needs it, so it is no dependency and is not looked for before.
    try:
        from smartcard import scard
    except ImportError as exc:
        raise SettingsInvalid(
            "a PC/SC reader needs pyscard: install swig, libpcsclite-dev and a C compiler, then tapveil[pcsc]"
        ) from exc
    module: ModuleType = scard
    return module
