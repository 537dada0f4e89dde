"""Issuer application data (9F10): what the card itself says of the cardholder, under ARQC and SDAD.

    byte 1      format and cryptogram version, 01: this layout; the MAC of ADR-0024
    byte 2      derivation key index, 01
    bytes 3-6   card verification results, below
    bytes 7-10  number of the cardholder's opening: random, so that it tells nothing of other openings

The TSM decides on these and not on what a terminal reports (design §3 PAY). All cards' data have this one length.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntFlag
from functools import lru_cache
from typing import Final

from protocol.errors import CardDataInvalid

FORMAT: Final = 1
KEY_INDEX: Final = 1
OPENING_BYTES: Final = 4
ISSUER_DATA_BYTES: Final = 6 + OPENING_BYTES


class Cvr(IntFlag):
    """Card verification results, four bytes."""

    ARQC = 0x80000000
    """The first GENERATE AC answered ARQC; without it AAC."""
    COMPLETED = 0x40000000
    """This is the second GENERATE AC."""
    ISSUER_AUTHENTICATED = 0x20000000
    """The second GENERATE AC brought a right ARPC."""
    DEVICE_VERIFIED = 0x00800000
    """The cardholder entered the PIN on the phone for this very amount, currency, merchant and terminal."""
    CONTACT = 0x00400000
    """Over the contact interface; without it contactless."""
    RETRY = 0x00200000
    """A repeated tap of the same opening, whose first one was torn."""
    CONSENT_MISMATCH = 0x00008000
    """CDOL1 data differ from what the cardholder consented to (the PDOL data)."""
    VERIFICATION_CONTRADICTED = 0x00004000
    """The terminal claims a cardholder verification that this card does not do (9F34)."""
    TERMINAL_DECLINED = 0x00002000
    """The terminal asked for an AAC."""


ALL: Final = sum(Cvr)
_HEAD: Final = bytes((FORMAT, KEY_INDEX))


@lru_cache(maxsize=64)
def _results(data: bytes) -> Cvr:
    bits = int.from_bytes(data, "big")
    if bits & ~ALL:
        raise CardDataInvalid("card verification results have reserved bits set")
    return Cvr(bits)


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuerData:
    """9F10, parsed."""

    cvr: Cvr
    opening: bytes

    @classmethod
    def from_bytes(cls, data: bytes) -> IssuerData:
        """Raises: CardDataInvalid: length, format, key index, or a bit that no card of ours sets."""
        if len(data) != ISSUER_DATA_BYTES or not data.startswith(_HEAD):
            raise CardDataInvalid("issuer application data has another format")
        return cls(cvr=_results(data[2:6]), opening=data[6:])

    def to_bytes(self) -> bytes:
        """The value of 9F10."""
        return _HEAD + int(self.cvr).to_bytes(4, "big") + self.opening
