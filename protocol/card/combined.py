"""What GENERATE AC's answer is bound to: the cryptogram's input, and CDA's transaction hash and signed data.

The card composes with these functions, and terminal and TSM check with the same ones (EMV Book 2 §6.6 and §8.1).
"""

from __future__ import annotations

import hmac
from enum import IntEnum
from typing import Final

from protocol.card import recovery, tlv
from protocol.card.dynamic import CombinedData, encode_number, parse_combined, verify_dynamic
from protocol.card.rsa import PublicKey
from protocol.errors import CardDataInvalid

_INFORMATION: Final = tlv.tag_bytes(0x9F27) + tlv.length_bytes(1)
_ATC: Final = tlv.tag_bytes(0x9F36) + tlv.length_bytes(2)


class CryptogramType(IntEnum):
    """Bits 8 and 7 of GENERATE AC's P1, and of the cryptogram information data 9F27 (Book 3 §6.5.5)."""

    AAC = 0x00
    """Declined."""
    TC = 0x40
    """Approved."""
    ARQC = 0x80
    """To be decided online."""


def cryptogram_input(cdol_data: bytes, *, aip: bytes, atc: int, issuer_data: bytes) -> bytes:
    """What the application cryptogram is a MAC over: all the terminal said, then what the card says (Book 2 §8.1.1)."""
    return cdol_data + aip + atc.to_bytes(2, "big") + issuer_data


def transaction_hash(
    pdol_data: bytes, cdol_data: tuple[bytes, ...], *, information: int, atc: int, issuer_data: bytes
) -> bytes:
    """20 bytes over all that passed between terminal and card (Book 2 §6.6.1).

    `cdol_data` is CDOL1's data, for the second GENERATE AC CDOL2's after it. The card's answer goes in as it stands in
    the response, without the signature: 9F27, 9F36, 9F10.
    """
    answer = b"%b%c%b%b%b" % (_INFORMATION, information, _ATC, atc.to_bytes(2, "big"), tlv.encode(0x9F10, issuer_data))
    return recovery.digest(pdol_data + b"".join(cdol_data) + answer)


def encode_combined(data: CombinedData) -> bytes:
    """ICC dynamic data of CDA, which `dynamic.parse_combined` parses (Book 2 §6.6.1). Raises: CardDataInvalid."""
    return encode_number(data.number) + bytes([data.information]) + data.cryptogram + data.transaction_hash


def verify_combined(
    key: PublicKey, signature: bytes, *, unpredictable: bytes, transaction_hash: bytes, information: int
) -> CombinedData:
    """What the card signed, once it is shown to be over this very transaction (Book 2 §6.6.2).

    `information` is 9F27 of the answer and `transaction_hash` the caller's own computation. The cryptogram comes out
    of the signature; there is no other place to take it from.
    Raises: CardDataInvalid.
    """
    combined = parse_combined(verify_dynamic(key, signature, unpredictable))
    if combined.information != information:
        raise CardDataInvalid("answer says another cryptogram than the signature")
    if not hmac.compare_digest(combined.transaction_hash, transaction_hash):
        raise CardDataInvalid("signature is over another transaction")
    return combined
