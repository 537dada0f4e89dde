"""What a tap is to the card: what the terminal says it is for, and the port through which the cardholder's consent,
the card that is used and its counter come. The applet keeps nothing of these itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from protocol.card import profile
from protocol.card.rsa import PrivateKey
from protocol.errors import CardDataInvalid

CURRENCIES = {"TWD": 901, "CNY": 156, "EUR": 978, "GBP": 826, "JPY": 392, "USD": 840}
"""ISO 4217: alphabetic → numeric code, of the currencies that grants are made in."""
_CODES = {alphabetic: bytes.fromhex(f"{numeric:04d}") for alphabetic, numeric in CURRENCIES.items()}
_ALPHABETIC = {numeric: alphabetic for alphabetic, numeric in CURRENCIES.items()}


def currency_code(currency: str) -> bytes:
    """Two bytes of 5F2A. Raises: CardDataInvalid for a currency that no card here is of."""
    if currency not in _CODES:
        raise CardDataInvalid("no such currency here")
    return _CODES[currency]


def amount_bytes(amount_minor: int) -> bytes:
    """Six bytes of 9F02: twelve digits. Raises: CardDataInvalid when the amount has more."""
    if not 0 <= amount_minor <= profile.MAX_AMOUNT_MINOR:
        raise CardDataInvalid("amount has more than twelve digits")
    return bytes.fromhex(f"{amount_minor:012d}")


def parse_digits(data: bytes) -> int:
    """The number in a field of format n. Raises: CardDataInvalid when a nibble is no digit."""
    text = data.hex()
    if not text.isdecimal():
        raise CardDataInvalid("not digits")
    return int(text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tap:
    """The PDOL data: amount (minor units), currency, merchant, terminal, merchant's name, unpredictable number.

    All but the number is what the cardholder consents to; an identical tap is one whose consent is equal.
    """

    amount_minor: int
    currency: str
    merchant: str
    terminal: str
    merchant_name: str
    unpredictable: bytes

    @classmethod
    def from_pdol(cls, data: bytes) -> Tap:
        """Raises: CardDataInvalid: length, digits, currency, or text that is not printable ASCII."""
        values = profile.PDOL.split(data)
        numeric = parse_digits(values[0x5F2A])
        if numeric not in _ALPHABETIC:
            raise CardDataInvalid("no such currency here")
        return cls(
            amount_minor=parse_digits(values[0x9F02]), currency=_ALPHABETIC[numeric], merchant=_text(values[0x9F16]),
            terminal=_text(values[0x9F1C]), merchant_name=_text(values[0x9F4E]), unpredictable=values[0x9F37],
        )  # fmt: skip

    def values(self) -> dict[int, bytes]:
        """The same as data elements, for `profile.PDOL.build`."""
        return {
            0x9F02: amount_bytes(self.amount_minor), 0x5F2A: currency_code(self.currency),
            0x9F16: self.merchant.encode(), 0x9F1C: self.terminal.encode(), 0x9F4E: self.merchant_name.encode(),
            0x9F37: self.unpredictable,
        }  # fmt: skip

    @property
    def consent(self) -> tuple[int, str, str, str, str]:
        """What the cardholder agrees to: amount, currency, merchant, terminal, name."""
        return (self.amount_minor, self.currency, self.merchant, self.terminal, self.merchant_name)


def _text(data: bytes) -> str:
    # A data object list fills texts up with zeros on the right (Book 3 §5.4).
    text = data.rstrip(b"\x00").decode("latin-1")
    if not text.isascii() or not text.isprintable():
        raise CardDataInvalid("not a printable text")
    return text


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedCard:
    """The card that answers this tap, with the counter of this transaction. `opening` is the consent's number."""

    aid: bytes
    aip: bytes
    afl: bytes
    records: Mapping[tuple[int, int], bytes] = field(repr=False)
    key: PrivateKey
    k_ac: bytes = field(repr=False)
    atc: int
    opening: bytes
    device_verified: bool
    retry: bool


class NotOpen(Exception):
    """The cardholder did not open a card, or not for this: other amount, currency, merchant, or nothing to pay with."""


class SeePhone(Exception):
    """The amount needs a verification on the phone; an identical tap afterwards is answered."""


class CardHolder(Protocol):
    """The cardholder's side of the applet (in the SE: `protocol.roles.se.field`). Effects last before they return."""

    def is_open(self) -> bool:
        """Did the cardholder open a card, and is there still time?"""

    def offer(self, tap: Tap) -> LoadedCard:
        """The card for this tap, with its next counter. Raises: NotOpen, SeePhone."""

    def spend(self, card: LoadedCard) -> None:
        """The card's records are about to be read: it serves no other opening from here on. Raises: NotOpen.

        Once for each card offered; its counter is raised, and nobody else gets it.
        """
