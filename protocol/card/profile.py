"""What every card has alike, and the controls a card is issued under.

Cards of two users must differ in nothing that cards of one user have in common. So all that a terminal can read, but
number, key, certificate and expiry month, is constant; and controls are kept by TSM and SE, never in a record.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from enum import StrEnum
from typing import Final

from protocol.card.dol import Dol
from protocol.card.months import Month
from protocol.errors import CardDataInvalid

RID: Final = bytes.fromhex("F054415056")
"""ISO/IEC 7816-5: category F, proprietary without registration; then "TAPV"."""
AID: Final = RID + b"EIL\x01"
LABEL: Final = b"TAPVEIL"
MAX_AMOUNT_MINOR: Final = 10**12 - 1
"""The most that an EMV amount, twelve digits, can say."""
MAX_USES: Final = 1000

AIP: Final = bytes.fromhex("3380")
"""Book 3 Annex C1: DDA, cardholder verification, CDA; with the bits left to contactless, on-device verification and
EMV mode. Not SDA, no EXTERNAL AUTHENTICATE, no terminal risk management: nothing is ever approved offline."""

PDOL: Final = Dol.of((0x9F02, 6), (0x5F2A, 2), (0x9F16, 15), (0x9F1C, 8), (0x9F4E, 40), (0x9F37, 4))
"""Amount, currency, merchant, terminal, merchant's name and place, unpredictable number: the phone shows what it
signs before it signs (design §3 PAY). Forty bytes of name and place are what an authorization message has for them."""

CDOL1: Final = Dol.of(
    *((0x9F02, 6), (0x9F03, 6), (0x9F1A, 2), (0x95, 5), (0x5F2A, 2), (0x9A, 3), (0x9C, 1), (0x9F37, 4)),
    *((0x9F35, 1), (0x9F34, 3), (0x9F16, 15), (0x9F1C, 8)),
)
"""Book 2 §8.1.1's minimum, then terminal type, verification results, and merchant and terminal once more,
since the cryptogram is a MAC over these data."""

CDOL2: Final = Dol.of((0x8A, 2), (0x91, 10), (0x95, 5), (0x9F37, 4))
"""Response code and issuer's authentication data (ARPC method 1: eight bytes and the code) for a contact reader."""

DDOL: Final = Dol.of((0x9F37, 4))
"""Book 2 §6.5.1: at least the unpredictable number. Possession proofs rely on these being four bytes."""

CVM_LIST: Final = bytes(8) + bytes.fromhex("1F00")
"""No verification by the terminal, always: the card verifies its holder on the phone and says so in its CVR."""

USAGE_CONTROL: Final = bytes.fromhex("3D00")
"""Book 3 Annex C2: goods and services, at home and abroad, at terminals other than ATMs; no cash."""

ACTION_DENIAL: Final = bytes.fromhex("BC70800000")
"""Offline data authentication not done or failed, data missing, listed card; expired, not yet effective, service not
allowed; cardholder verification failed."""
ACTION_ONLINE: Final = bytes.fromhex("FCF8FCF8F0")
ACTION_DEFAULT: Final = ACTION_ONLINE
"""All that a terminal can report (Book 3 Annex C5). What cannot go online is declined."""

APPLICATION_VERSION: Final = b"\x00\x01"
SEQUENCE_NUMBER: Final = "00"

LIFETIME_MONTHS: Final = 1


class Channel(StrEnum):
    """Where a card may be used (CN-3)."""

    CONTACTLESS = "contactless"
    CONTACT = "contact"


@dataclass(frozen=True, slots=True, kw_only=True)
class CardControls:
    """CN-3: uses, amount per use and in total, validity, channel. Amounts are minor units of the grant's currency."""

    uses: int
    amount_per_use_minor: int
    total_minor: int
    valid_until_s: int
    channel: Channel

    def __post_init__(self) -> None:
        if not 1 <= self.uses <= MAX_USES:
            raise CardDataInvalid("card has no use, or too many")
        if not 1 <= self.amount_per_use_minor <= self.total_minor <= MAX_AMOUNT_MINOR:
            raise CardDataInvalid("card's amounts are not in order")


@dataclass(frozen=True, slots=True, kw_only=True)
class CardProfile:
    """What an issuer chooses once for all of its cards."""

    aid: bytes = AID
    label: bytes = LABEL
    country: int = 158
    """ISO 3166-1 numeric code of the issuer's country."""

    def __post_init__(self) -> None:
        # Book 1 §12.2.1 and Book 3 Annex A: an AID has 5 to 16 bytes, a label 1 to 16, a country code three digits.
        if not (5 <= len(self.aid) <= 16 and 1 <= len(self.label) <= 16 and 0 <= self.country <= 999):
            raise CardDataInvalid("not a card profile")


def common_expiry(issued_on: date) -> Month:
    """The expiry month of each card and certificate issued in one month: the next one, whoever it is for."""
    return Month.of(issued_on).plus(LIFETIME_MONTHS)
