"""A merchant's terminal and one sale on it: configuration, and the data elements that both give to a card."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import Final

from protocol.card import profile
from protocol.card.oda import CaKey
from protocol.card.selection import MAX_AID_BYTES, MIN_AID_BYTES
from protocol.card.tap import Tap, amount_bytes, currency_code
from protocol.errors import CardDataInvalid

MERCHANT_CHARACTERS: Final = 15
TERMINAL_CHARACTERS: Final = 8
NAME_CHARACTERS: Final = 40
UNPREDICTABLE_BYTES: Final = 4
ACTION_CODE_BYTES: Final = 5
PURCHASE: Final = b"\x00"
"""9C: goods and services (ISO 8583 processing code). A refund is the TSM's and needs no card."""

DENIAL: Final = bytes.fromhex("AC70800000")
"""Terminal action code: data authentication not done or failed, card data missing; application expired, not yet
effective or not for this service; cardholder verification failed (Book 3 Annex C5)."""
ONLINE: Final = bytes.fromhex("FCF8FCF8F0")
"""Terminal action code: whatever a terminal can find. The floor limit of 0 is among it, so all else goes online."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Terminal:
    """What a merchant's terminal is set up with.

    `merchant_identifier`, `terminal` and `merchant_name` (9F16, 9F1C, 9F4E) are the registered ones, as the TSM
    compares them; `country` is ISO 3166-1 numeric; `terminal_type` is 9F35 (Book 4 Annex A1). `applications` are the
    names or beginnings of names that are accepted, `ca_keys` the keys for their providers. There is no default action
    code: it is for approving what cannot go online, which is never done here.
    """

    merchant_identifier: str
    terminal: str
    merchant_name: str
    ca_keys: tuple[CaKey, ...]
    applications: tuple[bytes, ...] = (profile.AID,)
    country: int = 158
    terminal_type: int = 0x22
    other_interface: bool = False
    """Is there a contact or stripe reader to send the customer to?"""
    denial: bytes = DENIAL
    online: bytes = ONLINE

    def __post_init__(self) -> None:
        for text, most in (
            (self.merchant_identifier, MERCHANT_CHARACTERS),
            (self.terminal, TERMINAL_CHARACTERS),
            (self.merchant_name, NAME_CHARACTERS),
        ):
            if not (1 <= len(text) <= most and text.isascii() and text.isprintable()):
                raise CardDataInvalid("a terminal's texts are printable, and of the length that cards ask for")
        if not self.applications or any(not MIN_AID_BYTES <= len(aid) <= MAX_AID_BYTES for aid in self.applications):
            raise CardDataInvalid("a terminal accepts applications by 5 to 16 bytes of their names")
        if not (0 <= self.country <= 999 and 0 <= self.terminal_type <= 0xFF):
            raise CardDataInvalid("not a country or terminal type")
        if len(self.denial) != ACTION_CODE_BYTES or len(self.online) != ACTION_CODE_BYTES:
            raise CardDataInvalid("action codes have five bytes")

    @property
    def country_code(self) -> bytes:
        """9F1A."""
        return bytes.fromhex(f"{self.country:04d}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sale:
    """One purchase to be paid. Amount in minor units; `date` is the terminal's; `unpredictable` is four fresh bytes of
    the caller's generator, never used for a second tap."""

    amount_minor: int
    currency: str
    date: date
    unpredictable: bytes

    def __post_init__(self) -> None:
        amount_bytes(self.amount_minor)
        currency_code(self.currency)
        if len(self.unpredictable) != UNPREDICTABLE_BYTES:
            raise CardDataInvalid("unpredictable number is four bytes")


def terminal_data(terminal: Terminal, sale: Sale) -> dict[int, bytes]:
    """The data elements that a card may ask for before its records are read, by tag."""
    tap = Tap(
        amount_minor=sale.amount_minor,
        currency=sale.currency,
        merchant=terminal.merchant_identifier,
        terminal=terminal.terminal,
        merchant_name=terminal.merchant_name,
        unpredictable=sale.unpredictable,
    )
    return tap.values() | {
        0x9A: bytes.fromhex(f"{sale.date:%y%m%d}"),
        0x9C: PURCHASE,
        0x9F03: amount_bytes(0),
        0x9F1A: terminal.country_code,
        0x9F35: bytes([terminal.terminal_type]),
    }
