"""What a reader finds before a card is chosen: directories and the application's file control information.

Both directories name the one application here: PSE for contact readers (EMV Book 1 §12.2), PPSE for contactless ones
(EMV Contactless Book B §3.3.1). All of it is constant for an issuer's profile, so that none of it tells cards apart.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Final

from protocol.card import afl, profile, tlv

if TYPE_CHECKING:
    from protocol.card.profile import CardProfile

PSE: Final = b"1PAY.SYS.DDF01"
PPSE: Final = b"2PAY.SYS.DDF01"
DIRECTORY_FILE: Final = 1
"""Short identifier of the file that PSE's directory record is in; 1 to 10 by Book 1 §12.2.2."""
PRIORITY: Final = b"\x01"
"""First choice, to be selected without asking the cardholder (Book 1 §12.2.3)."""


@lru_cache(maxsize=8)
def application_information(card_profile: CardProfile) -> bytes:
    """6F of the application: name, label, priority, and the PDOL (Book 1 §11.3.4)."""
    proprietary = tlv.encode_all(((0x50, card_profile.label), (0x87, PRIORITY), (0x9F38, profile.PDOL.to_bytes())))
    return _information(card_profile.aid, proprietary)


def pse_information() -> bytes:
    """6F of the payment system environment: where its directory is (Book 1 §11.3.4)."""
    return _information(PSE, tlv.encode(0x88, bytes([DIRECTORY_FILE])))


def ppse_information(card_profile: CardProfile) -> bytes:
    """6F of the proximity environment, which holds the directory entry itself (Contactless Book B §3.3.1)."""
    return _information(PPSE, tlv.encode(0xBF0C, _entry(card_profile)))


def directory_record(card_profile: CardProfile) -> bytes:
    """The one record of PSE's directory (Book 1 §12.2.3)."""
    return tlv.encode(afl.RECORD_TEMPLATE, _entry(card_profile))


def _information(name: bytes, proprietary: bytes) -> bytes:
    return tlv.encode(0x6F, tlv.encode_all(((0x84, name), (0xA5, proprietary))))


def _entry(card_profile: CardProfile) -> bytes:
    return tlv.encode(0x61, tlv.encode_all(((0x4F, card_profile.aid), (0x50, card_profile.label), (0x87, PRIORITY))))
