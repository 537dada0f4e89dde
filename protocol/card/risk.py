"""What the terminal finds and decides before it asks for a cryptogram: processing restrictions, terminal risk
management, terminal action analysis (EMV Book 3 §10.4, §10.6, §10.7).

Findings are bits of the terminal verification results. Denial codes of card and terminal turn them into a decline.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from enum import IntFlag
from typing import Final

from protocol.card.combined import CryptogramType
from protocol.card.outcome import TVR_BYTES
from protocol.card.tap import parse_digits
from protocol.card.terminal import ACTION_CODE_BYTES, Terminal
from protocol.errors import CardDataInvalid

APPLICATION_VERSION: Final = b"\x00\x01"
"""9F09 of this kernel, which 9F08 of a card is compared with."""


class Tvr(IntFlag):
    """Terminal verification results, tag 95: those bits that this terminal can find (Book 3 Annex C5)."""

    AUTHENTICATION_NOT_PERFORMED = 0x8000000000
    CARD_DATA_MISSING = 0x2000000000
    CDA_FAILED = 0x0400000000
    VERSIONS_DIFFER = 0x0080000000
    EXPIRED = 0x0040000000
    NOT_YET_EFFECTIVE = 0x0020000000
    SERVICE_NOT_ALLOWED = 0x0010000000
    VERIFICATION_FAILED = 0x0000800000
    VERIFICATION_UNRECOGNIZED = 0x0000400000
    PIN_PAD_MISSING = 0x0000100000
    FLOOR_LIMIT_EXCEEDED = 0x0000008000


NOTHING: Final = Tvr(0)


class Usage(IntFlag):
    """Application usage control, tag 9F07, first byte: the bits for a purchase at a counter (Book 3 Annex C2)."""

    DOMESTIC_GOODS = 0x20
    INTERNATIONAL_GOODS = 0x10
    DOMESTIC_SERVICES = 0x08
    INTERNATIONAL_SERVICES = 0x04
    OTHER_THAN_ATM = 0x01


def encode_tvr(tvr: Tvr) -> bytes:
    """The value of tag 95."""
    return int(tvr).to_bytes(TVR_BYTES, "big")


def restrict(terminal: Terminal, day: date, data: Mapping[int, bytes]) -> Tvr:
    """Processing restrictions: version, usage control, dates. `data` are the records' data objects, 5F24 among them.

    Raises: CardDataInvalid (a field of wrong length, or a date that is none).
    """
    found = NOTHING
    # §10.4.1: a card without a version is taken to be of the terminal's.
    if data.get(0x9F08, APPLICATION_VERSION) != APPLICATION_VERSION:
        found |= Tvr.VERSIONS_DIFFER
    if 0x9F07 in data and not _service_allowed(terminal, data[0x9F07], country=data.get(0x5F28)):
        found |= Tvr.SERVICE_NOT_ALLOWED
    # §10.4.3: the effective date is optional, the expiration date is not.
    if 0x5F25 in data and parse_date(data[0x5F25]) > day:
        found |= Tvr.NOT_YET_EFFECTIVE
    if parse_date(data[0x5F24]) < day:
        found |= Tvr.EXPIRED
    return found


def _service_allowed(terminal: Terminal, control: bytes, *, country: bytes | None) -> bool:
    if len(control) != 2:
        raise CardDataInvalid("application usage control is two bytes")
    usage = control[0]
    if not usage & Usage.OTHER_THAN_ATM:
        return False
    # §10.4.2: home or abroad is asked only where the card names its country. Which of goods and services are sold is
    # not known to the terminal, and either will do.
    if country is None:
        return True
    if country == terminal.country_code:
        return bool(usage & (Usage.DOMESTIC_GOODS | Usage.DOMESTIC_SERVICES))
    return bool(usage & (Usage.INTERNATIONAL_GOODS | Usage.INTERNATIONAL_SERVICES))


def parse_date(data: bytes) -> date:
    """A date of format n 6, YYMMDD; years from 50 are of the last century (Book 4 §6.7.3). Raises: CardDataInvalid."""
    if len(data) != 3:
        raise CardDataInvalid("date is three bytes")
    digits = parse_digits(data)
    year = digits // 10_000
    try:
        return date(2000 + year if year < 50 else 1900 + year, digits // 100 % 100, digits % 100)
    except ValueError as exc:
        raise CardDataInvalid("not a date") from exc


def manage_risk() -> Tvr:
    """Terminal risk management (§10.6) with a floor limit of 0: every amount reaches it, so every sale goes online,
    and there is no offline transaction whose random selection or velocity would need a check."""
    return Tvr.FLOOR_LIMIT_EXCEEDED


def analyze(terminal: Terminal, tvr: Tvr, data: Mapping[int, bytes]) -> CryptogramType:
    """Terminal action analysis (§10.7): which cryptogram to ask for, AAC or ARQC.

    A card without action codes denies nothing and wants all else online. What neither card nor terminal wants online
    would be asked a TC for; nothing is accepted offline here, so that is an AAC as well.
    Raises: CardDataInvalid (an action code of wrong length).
    """
    denial = data.get(0x9F0E, bytes(ACTION_CODE_BYTES))
    online = data.get(0x9F0F, b"\xff" * ACTION_CODE_BYTES)
    if _matches(tvr, terminal.denial) or _matches(tvr, denial):
        return CryptogramType.AAC
    if _matches(tvr, terminal.online) or _matches(tvr, online):
        return CryptogramType.ARQC
    return CryptogramType.AAC


def _matches(tvr: Tvr, code: bytes) -> bool:
    if len(code) != ACTION_CODE_BYTES:
        raise CardDataInvalid("action codes have five bytes")
    return bool(int.from_bytes(code, "big") & tvr)
