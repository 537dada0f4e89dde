"""Card master keys: kAC of each card out of one issuer master key (EMV Book 2 Annex A1.4.2, option B).

Two-key Triple DES, the block cipher that EMV's common key derivation is defined for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
from cryptography.hazmat.primitives.ciphers import Cipher, modes

from protocol.errors import CardDataInvalid, CardKeyInvalid

if TYPE_CHECKING:
    from protocol.ports import Entropy

KEY_BYTES: Final = 16
# Single blocks of derivation input, never a message: chaining has nothing to chain.
_SINGLE_BLOCKS: Final = modes.ECB()  # noqa: S305
_MIN_PAN_DIGITS: Final = 17
_MAX_PAN_DIGITS: Final = 19
_DECIMALIZED: Final = str.maketrans("abcdef", "012345")
_NO_LETTERS: Final = str.maketrans("", "", "abcdef")
_NO_DIGITS: Final = str.maketrans("", "", "0123456789")
_DERIVATION_DIGITS: Final = 16
_COMPLEMENT: Final = bytes(range(255, -1, -1))
_WEAK_HALVES: Final = frozenset(
    bytes.fromhex(half)
    for half in (
        # Weak, then semi-weak in pairs (NIST SP 800-67 Rev. 2 §3.3.2).
        *("0101010101010101", "FEFEFEFEFEFEFEFE", "E0E0E0E0F1F1F1F1", "1F1F1F1F0E0E0E0E"),
        *("011F011F010E010E", "1F011F010E010E01", "01E001E001F101F1", "E001E001F101F101"),
        *("01FE01FE01FE01FE", "FE01FE01FE01FE01", "1FE01FE00EF10EF1", "E01FE01FF10EF10E"),
        *("1FFE1FFE0EFE0EFE", "FE1FFE1FFE0EFE0E", "E0FEE0FEF1FEF1FE", "FEE0FEE0FEF1FEF1"),
    )
)


_ODD: Final = bytes(byte & 0xFE | 1 ^ (byte >> 1).bit_count() & 1 for byte in range(256))


def odd_parity(key: bytes) -> bytes:
    """The key with each byte's lowest bit set for odd parity, as DES keys are written."""
    return key.translate(_ODD)


def check_key(key: bytes) -> bytes:
    """A double-length key that is one: two different halves, neither weak. Raises: CardKeyInvalid (TW-G5a)."""
    if len(key) != KEY_BYTES:
        raise CardKeyInvalid("key is not of 16 bytes")
    halves = {odd_parity(key[:8]), odd_parity(key[8:])}
    if len(halves) == 1 or halves & _WEAK_HALVES:
        raise CardKeyInvalid("key is weak")
    return key


def generate_master_key(entropy: Entropy) -> bytes:
    """A new issuer master key IMK-AC. Raises: CardKeyInvalid when entropy gives a weak one (a chance of 2⁻⁵¹)."""
    return check_key(odd_parity(entropy.bytes(KEY_BYTES)))


def encrypt_blocks(key: bytes, blocks: bytes) -> bytes:
    """Two-key Triple DES on independent blocks, key order K1, K2, K1."""
    encryptor = Cipher(TripleDES(key + key[:8]), _SINGLE_BLOCKS).encryptor()
    return encryptor.update(blocks) + encryptor.finalize()


def _decimal_digits(pan: str, sequence: str) -> str:
    # Annex A1.4.2 step 2: hash PAN and sequence number, keep 16 decimal digits; where the hash has fewer, its letters
    # follow, in order, as 0 to 5.
    digits = pan + sequence
    packed = bytes.fromhex(digits if len(digits) % 2 == 0 else "0" + digits)
    hexadecimal = hashlib.sha1(packed).hexdigest()  # noqa: S324 - the derivation's own, no collision matters
    decimal = hexadecimal.translate(_NO_LETTERS)
    if len(decimal) < _DERIVATION_DIGITS:
        decimal += hexadecimal.translate(_NO_DIGITS).translate(_DECIMALIZED)
    return decimal[:_DERIVATION_DIGITS]


def _diversify(pan: str, sequence: str) -> bytes:
    # Annex A1.4.1 steps 1 and 2: 16 digits for the left half, their complement for the right.
    if not (pan.isascii() and pan.isdecimal() and _MIN_PAN_DIGITS <= len(pan) <= _MAX_PAN_DIGITS):
        raise CardDataInvalid("option B takes numbers of 17 to 19 digits")
    block = bytes.fromhex(_decimal_digits(pan, sequence))
    return block + block.translate(_COMPLEMENT)


def derive_card_keys(master: bytes, pans: Iterable[str], *, sequence: str = "00") -> tuple[bytes, ...]:
    """kAC of each card, with odd parity (Annex A1.4.2; for 17 to 19 digits, as ours are).

    Raises: CardKeyInvalid (master key); CardDataInvalid (number that option B is not for).
    """
    check_key(master)
    keys = odd_parity(encrypt_blocks(master, b"".join(_diversify(pan, sequence) for pan in pans)))
    return tuple(keys[start : start + KEY_BYTES] for start in range(0, len(keys), KEY_BYTES))


def derive_card_key(master: bytes, pan: str, *, sequence: str = "00") -> bytes:
    """kAC of one card. Raises: as `derive_card_keys`."""
    (key,) = derive_card_keys(master, (pan,), sequence=sequence)
    return key
