"""Dynamic signatures by a card's key (EMV Book 2 §6.5 DDA, §6.6 CDA; format 05).

Both carry "ICC dynamic data" inside. Under DDA it is the ICC dynamic number only. Under CDA cryptogram and transaction
hash follow it. Each parser takes exactly its own length, so neither kind passes for the other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from protocol.card import recovery
from protocol.card.rsa import PrivateKey, PublicKey
from protocol.errors import CardDataInvalid

if TYPE_CHECKING:
    from protocol.ports import Entropy

MIN_NUMBER_BYTES: Final = 2
MAX_NUMBER_BYTES: Final = 8
_FORMAT: Final = b"\x05\x01"
"""Signed data format 05, hash algorithm SHA-1 (Book 2 §6.5.1)."""
_CRYPTOGRAM_BYTES: Final = 8


class CombinedData(NamedTuple):
    """ICC dynamic data of CDA (Book 2 §6.6.1)."""

    number: bytes
    information: int
    cryptogram: bytes
    transaction_hash: bytes


def sign_dynamic(key: PrivateKey, dynamic_data: bytes, terminal_data: bytes, entropy: Entropy) -> bytes:
    """Sign ICC dynamic data and the terminal's data (DDOL data, or the unpredictable number) (Book 2 §6.5.1).

    Raises: CardDataInvalid (dynamic data does not fit); CardKeyInvalid (key at fault).
    """
    room = recovery.capacity(key.public) - len(_FORMAT) - 1
    if len(dynamic_data) > room:
        raise CardDataInvalid("dynamic data is too long for the key")
    inside = _FORMAT + bytes([len(dynamic_data)]) + dynamic_data.ljust(room, b"\xbb")
    return recovery.sign(key, inside + terminal_data, entropy)


def verify_dynamic(key: PublicKey, signature: bytes, terminal_data: bytes) -> bytes:
    """The ICC dynamic data that the card signed with this terminal data (Book 2 §6.5.2).

    Raises: CardDataInvalid.
    """
    inside = recovery.recover(key, signature, terminal_data)
    length = inside[2]
    data, filler = inside[3 : 3 + length], inside[3 + length :]
    if inside[:2] != _FORMAT or len(data) != length or filler.strip(b"\xbb"):
        raise CardDataInvalid("not a dynamic signature")
    return data


def _split_number(dynamic_data: bytes) -> tuple[bytes, bytes]:
    size = dynamic_data[0] if dynamic_data else 0
    if not MIN_NUMBER_BYTES <= size <= MAX_NUMBER_BYTES or len(dynamic_data) <= size:
        raise CardDataInvalid("ICC dynamic number is not two to eight bytes")
    return dynamic_data[1 : 1 + size], dynamic_data[1 + size :]


def encode_number(number: bytes) -> bytes:
    """ICC dynamic data of DDA. Raises: CardDataInvalid."""
    if not MIN_NUMBER_BYTES <= len(number) <= MAX_NUMBER_BYTES:
        raise CardDataInvalid("ICC dynamic number is not two to eight bytes")
    return bytes([len(number)]) + number


def parse_number(dynamic_data: bytes) -> bytes:
    """The ICC dynamic number of DDA, and nothing behind it. Raises: CardDataInvalid."""
    number, rest = _split_number(dynamic_data)
    if rest:
        raise CardDataInvalid("more than a dynamic number is signed")
    return number


def parse_combined(dynamic_data: bytes) -> CombinedData:
    """ICC dynamic data of CDA, complete to the byte. Raises: CardDataInvalid, for a DDA signature too."""
    number, rest = _split_number(dynamic_data)
    if len(rest) != 1 + _CRYPTOGRAM_BYTES + recovery.HASH_BYTES:
        raise CardDataInvalid("no cryptogram and transaction hash are signed")
    return CombinedData(number, rest[0], rest[1 : 1 + _CRYPTOGRAM_BYTES], rest[1 + _CRYPTOGRAM_BYTES :])
