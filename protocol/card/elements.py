"""Names of EMV's data elements, and how much of each may be shown (EMV Book 3 Annex A; Contactless Book B)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import Final


class Show(Enum):
    """How a value is printed."""

    HEX = auto()
    TEXT = auto()
    DIGITS = auto()
    PAN = auto()
    """First six and last four digits (TW-S1)."""
    LIST = auto()
    """A data object list: tags and lengths."""
    SIZE = auto()
    """Its length only: names of people, stripe data, certificates and signatures, and all that has no name here."""


@dataclass(frozen=True, slots=True)
class Element:
    """A data element's name and form."""

    name: str
    show: Show = Show.HEX


ELEMENTS: Final[dict[int, Element]] = {
    0x42: Element("Issuer identification number", Show.SIZE),
    0x4F: Element("Application identifier"),
    0x50: Element("Application label", Show.TEXT),
    0x56: Element("Track 1 data", Show.SIZE),
    0x57: Element("Track 2 equivalent data", Show.SIZE),
    0x5A: Element("Application PAN", Show.PAN),
    0x61: Element("Application template"),
    0x6F: Element("File control information"),
    0x70: Element("Record"),
    0x77: Element("Response, format 2"),
    0x80: Element("Response, format 1"),
    0x82: Element("Application interchange profile"),
    0x83: Element("Command template"),
    0x84: Element("Dedicated file name"),
    0x87: Element("Application priority indicator"),
    0x88: Element("Short file identifier"),
    0x8A: Element("Authorization response code", Show.TEXT),
    0x8C: Element("CDOL1", Show.LIST),
    0x8D: Element("CDOL2", Show.LIST),
    0x8E: Element("Cardholder verification method list"),
    0x8F: Element("CA public key index"),
    0x90: Element("Issuer public key certificate", Show.SIZE),
    0x91: Element("Issuer authentication data"),
    0x92: Element("Issuer public key remainder", Show.SIZE),
    0x94: Element("Application file locator"),
    0x95: Element("Terminal verification results"),
    0x9A: Element("Transaction date", Show.DIGITS),
    0x9C: Element("Transaction type", Show.DIGITS),
    0xA5: Element("Proprietary template"),
    0x5F20: Element("Cardholder name", Show.SIZE),
    0x5F24: Element("Application expiration date", Show.DIGITS),
    0x5F25: Element("Application effective date", Show.DIGITS),
    0x5F28: Element("Issuer country code", Show.DIGITS),
    0x5F2A: Element("Transaction currency code", Show.DIGITS),
    0x5F2D: Element("Language preference", Show.TEXT),
    0x5F34: Element("PAN sequence number", Show.DIGITS),
    0x9F02: Element("Amount, authorized", Show.DIGITS),
    0x9F03: Element("Amount, other", Show.DIGITS),
    0x9F07: Element("Application usage control"),
    0x9F08: Element("Application version number, card"),
    0x9F0D: Element("Issuer action code, default"),
    0x9F0E: Element("Issuer action code, denial"),
    0x9F0F: Element("Issuer action code, online"),
    0x9F10: Element("Issuer application data"),
    0x9F16: Element("Merchant identifier", Show.TEXT),
    0x9F17: Element("PIN try counter"),
    0x9F1A: Element("Terminal country code", Show.DIGITS),
    0x9F1C: Element("Terminal identification", Show.TEXT),
    0x9F1F: Element("Track 1 discretionary data", Show.SIZE),
    0x9F20: Element("Track 2 discretionary data", Show.SIZE),
    0x9F26: Element("Application cryptogram"),
    0x9F27: Element("Cryptogram information data"),
    0x9F2A: Element("Kernel identifier"),
    0x9F32: Element("Issuer public key exponent", Show.SIZE),
    0x9F34: Element("Cardholder verification results"),
    0x9F35: Element("Terminal type", Show.DIGITS),
    0x9F36: Element("Application transaction counter"),
    0x9F37: Element("Unpredictable number"),
    0x9F38: Element("PDOL", Show.LIST),
    0x9F42: Element("Application currency code", Show.DIGITS),
    0x9F46: Element("ICC public key certificate", Show.SIZE),
    0x9F47: Element("ICC public key exponent", Show.SIZE),
    0x9F48: Element("ICC public key remainder", Show.SIZE),
    0x9F49: Element("DDOL", Show.LIST),
    0x9F4A: Element("Static data authentication tag list"),
    0x9F4B: Element("Signed dynamic application data", Show.SIZE),
    0x9F4E: Element("Merchant name and location", Show.TEXT),
    0xBF0C: Element("Issuer discretionary data"),
}
UNKNOWN: Final = Element("Unknown", Show.SIZE)
