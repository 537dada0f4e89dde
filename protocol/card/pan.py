"""Card numbers: 19 digits, a random body, nothing sequential (design §3 CARD).

All of a number but its issuer prefix and check digit is random, so numbers of one user have nothing in common that
numbers of two users have not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from protocol.errors import CardDataInvalid

if TYPE_CHECKING:
    from protocol.ports import Entropy

DIGITS: Final = 19
"""The longest number of ISO/IEC 7812-1, and the one with most room for chance."""
BCD_BYTES: Final = 10
DEFAULT_IIN: Final = "999910"
"""A range that cannot meet a real card: ISO/IEC 7812-1 gives a leading 9 to national bodies, named by the next three
digits, an ISO 3166-1 numeric country code; 900 to 999 are the codes left to users, which no country has."""
MIN_IIN_DIGITS: Final = 3
MAX_IIN_DIGITS: Final = 8
_SPARE_BYTES: Final = 16
_SINGLE: Final = bytes.maketrans(b"0123456789", bytes(range(10)))
_DOUBLED: Final = bytes.maketrans(b"0123456789", bytes((0, 2, 4, 6, 8, 1, 3, 5, 7, 9)))
"""A digit's share of the Luhn sum: itself, or the digits of its double added up."""


def check_digit(body: str) -> str:
    """The digit that completes `body` (ISO/IEC 7812-1 Annex B, Luhn)."""
    digits = body.encode()
    total = sum(digits[-1::-2].translate(_DOUBLED)) + sum(digits[-2::-2].translate(_SINGLE))
    return str(-total % 10)


def _is_digits(text: str) -> bool:
    return text.isascii() and text.isdecimal()


def parse_iin(iin: str) -> str:
    """An issuer prefix that a certificate can name (Book 2 §6.3: 3 to 8 digits). Raises: CardDataInvalid."""
    if not (_is_digits(iin) and MIN_IIN_DIGITS <= len(iin) <= MAX_IIN_DIGITS):
        raise CardDataInvalid("not an issuer identification number")
    return iin


def generate_pan(entropy: Entropy, *, iin: str = DEFAULT_IIN) -> str:
    """A new number under `iin`. The caller keeps UNIQUE(PAN) and draws again on a clash.

    128 bits more are drawn than the body needs, which leaves a bias under 2⁻¹²⁸ (FIPS 186-5 A.2.1).
    Raises: CardDataInvalid (prefix).
    """
    room = DIGITS - 1 - len(parse_iin(iin))
    body = int.from_bytes(entropy.bytes(8 + _SPARE_BYTES), "big") % 10**room
    number = f"{iin}{body:0{room}d}"
    return number + check_digit(number)


def parse_pan(text: str, *, iin: str = DEFAULT_IIN) -> str:
    """A number of the range, with its check digit right. Raises: CardDataInvalid, without the number."""
    if len(text) != DIGITS or not _is_digits(text):
        raise CardDataInvalid("card number is not 19 digits")
    if not text.startswith(parse_iin(iin)):
        raise CardDataInvalid("card number is of another range")
    if check_digit(text[:-1]) != text[-1]:
        raise CardDataInvalid("card number's check digit is wrong")
    return text


def mask_pan(pan: str) -> str:
    """First six and last four digits, the most a log, a receipt or a merchant's record shows (TW-S1)."""
    return f"{pan[:6]}{'*' * (len(pan) - 10)}{pan[-4:]}"


def encode_pan(pan: str) -> bytes:
    """Ten bytes of compressed numeric, filled with F on the right: tag 5A, and the PAN in a certificate."""
    return bytes.fromhex(pan.ljust(2 * BCD_BYTES, "F"))


def decode_pan(data: bytes) -> str:
    """Back from compressed numeric; range and check digit are `parse_pan`'s. Raises: CardDataInvalid."""
    digits = data.hex().rstrip("f")
    if len(data) != BCD_BYTES or len(digits) != DIGITS or not _is_digits(digits):
        raise CardDataInvalid("card number is not 19 digits filled with F")
    return digits


def encode_iin(iin: str) -> bytes:
    """Four bytes of compressed numeric: the issuer identifier of a certificate. Raises: CardDataInvalid."""
    return bytes.fromhex(parse_iin(iin).ljust(MAX_IIN_DIGITS, "F"))


def decode_iin(data: bytes) -> str:
    """Back from a certificate's issuer identifier. Raises: CardDataInvalid."""
    return parse_iin(data[: MAX_IIN_DIGITS // 2].hex().rstrip("f"))
