"""EMV from the terminal's side: TLV, card numbers, certificates, dynamic signatures (EMV Books 2 and 3)."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field

from conformance.wire import need
from cryptography.hazmat.primitives.asymmetric import rsa

EXPONENT = 65537
ICC_BITS, ICC_BYTES = 1408, 176
BLOCK_BYTES = 2 + 20
"""Header, trailer and SHA-1 hash around what a signature carries (Book 2 Annex A2.1)."""


def sha1(data: bytes) -> bytes:
    """The one hash of EMV's RSA (Book 2 Annex B3.1)."""
    return hashlib.sha1(data, usedforsecurity=False).digest()


def luhn(number: str) -> bool:
    """Is the check digit right? (ISO/IEC 7812-1 Annex B.)"""
    doubled = (int(digit) * (2 if place % 2 else 1) for place, digit in enumerate(reversed(number)))
    return sum(value // 10 + value % 10 for value in doubled) % 10 == 0


# --- card keys and possession ----------------------------------------------------------------------------------------
@dataclass(frozen=True)
class CardKey:
    """PK_C with its private exponent and its salt."""

    modulus: int
    private: int = field(repr=False)
    salt: bytes = field(default_factory=lambda: os.urandom(32))

    @classmethod
    def new(cls) -> CardKey:
        numbers = rsa.generate_private_key(public_exponent=EXPONENT, key_size=ICC_BITS).private_numbers()
        return cls(numbers.public_numbers.n, numbers.d)

    @classmethod
    def with_small_factor(cls) -> CardKey:
        """251 · p · q: of the right length, possessed, and factored in no time."""
        numbers = rsa.generate_private_key(public_exponent=EXPONENT, key_size=1400).private_numbers()  # noqa: S505
        phi = 250 * (numbers.p - 1) * (numbers.q - 1)
        return cls(251 * numbers.p * numbers.q, pow(EXPONENT, -1, phi))

    @property
    def public(self) -> bytes:
        """The modulus, as it travels."""
        return self.modulus.to_bytes(ICC_BYTES)

    def apply(self, block: bytes) -> bytes:
        return pow(int.from_bytes(block), self.private, self.modulus).to_bytes(ICC_BYTES)

    def dynamic(self, dynamic_data: bytes, terminal_data: bytes) -> bytes:
        """A dynamic signature (Book 2 section 6.5.1): format 05, SHA-1, the dynamic data, BB to the end."""
        room = ICC_BYTES - BLOCK_BYTES - 3
        inside = b"\x05\x01" + bytes([len(dynamic_data)]) + dynamic_data.ljust(room, b"\xbb")
        return self.apply(b"\x6a" + inside + sha1(inside + terminal_data) + b"\xbc")

    def possession(self, digest: bytes) -> bytes:
        """S_C: the dynamic data is the ICC dynamic number alone."""
        return self.dynamic(b"\x08" + os.urandom(8), digest)


# --- TLV -------------------------------------------------------------------------------------------------------------
def parse(data: bytes) -> list[tuple[int, bytes]]:
    """The data objects of one level, in order (Book 3 Annex B). Raises: BadWire."""
    found = []
    at = 0
    while at < len(data):
        end = at + 1
        if data[at] & 0x1F == 0x1F:
            while data[end] & 0x80:
                end += 1
            end += 1
        tag = int.from_bytes(data[at:end])
        size = data[end]
        end += 1
        if size > 0x80:
            count = size & 0x7F
            size = int.from_bytes(data[end : end + count])
            end += count
        need(end + size <= len(data), "data object is truncated")
        found.append((tag, data[end : end + size]))
        at = end + size
    return found


# --- certificates ----------------------------------------------------------------------------------------------------
def recover(modulus: int, signature: bytes, rest: bytes) -> bytes:
    """What lies inside a signature with message recovery (Book 2 Annex A2.1.3). Raises: BadWire."""
    size = (modulus.bit_length() + 7) // 8
    need(len(signature) == size, "signature is not as long as its key")
    block = pow(int.from_bytes(signature), EXPONENT, modulus).to_bytes(size)
    need(block[0] == 0x6A and block[-1] == 0xBC, "not a signature by this key")
    inside = block[1:-21]
    need(sha1(inside + rest) == block[-21:-1], "signed data was altered")
    return inside


@dataclass(frozen=True)
class Read:
    """A card as a terminal reads and verifies it."""

    modulus: int
    pan: str
    expiry: str
    objects: dict[int, bytes]
    recovered: bytes


def _digits(data: bytes) -> str:
    return data.hex().rstrip("f")


def read_card(emv: dict[str, object], ca: tuple[bytes, int, int, int]) -> Read:
    """Offline data authentication (Book 2 sections 6.2 to 6.4; Book 3 section 10.3). Raises: BadWire."""
    rid, index, ca_modulus, _ = ca
    application, aip, afl = emv["application"], emv["aip"], emv["afl"]
    assert isinstance(application, bytes)
    assert isinstance(aip, bytes)
    assert isinstance(afl, bytes)
    objects, static = _read_records(emv, afl)
    need(application[:5] == rid and objects[0x8F] == bytes([index]), "card is of another certification authority")
    need(objects[0x9F4A] == b"\x82", "AIP is not among the signed data")
    inside = recover(ca_modulus, objects[0x90], objects.get(0x92, b"") + objects[0x9F32])
    issuer, issuer_named = _key_in(inside, 4, 2, objects.get(0x92, b""), objects[0x9F32])
    rest = objects.get(0x9F48, b"") + objects[0x9F47] + static + aip
    card_inside = recover(issuer, objects[0x9F46], rest)
    modulus, named = _key_in(card_inside, 10, 4, objects.get(0x9F48, b""), objects[0x9F47])
    pan = _digits(named)
    need(pan.startswith(_digits(issuer_named)), "card number is not of the certified issuer")
    need(_digits(objects[0x5A]) == pan, "certificate is of another card number")
    return Read(modulus, pan, card_inside[11:13].hex(), objects, inside + card_inside)


def _read_records(emv: dict[str, object], afl: bytes) -> tuple[dict[int, bytes], bytes]:
    """Every data object, and the static data that is signed."""
    records = {(item["sfi"], item["number"]): item["data"] for item in emv["records"]}  # type: ignore[attr-defined]
    need(len(afl) % 4 == 0, "AFL is not of entries of four bytes")
    objects: dict[int, bytes] = {}
    static = b""
    named = 0
    for start in range(0, len(afl), 4):
        file, first, last, signed = afl[start : start + 4]
        for number in range(first, last + 1):
            ((tag, value),) = parse(records[file >> 3, number])
            need(tag == 0x70, "record is not in template 70")
            named += 1
            if number < first + signed:
                static += value
            for inner, content in parse(value):
                need(inner not in objects, "data object occurs twice")
                objects[inner] = content
    need(named == len(records), "there are records that the AFL does not name")
    return objects, static


def _key_in(inside: bytes, name_bytes: int, form: int, remainder: bytes, exponent: bytes) -> tuple[int, bytes]:
    """Format | name | MMYY | serial (3) | 01 01 | key length | exponent length | key, filled with BB."""
    need(inside[0] == form, "certificate is of another kind")
    name, fields = inside[1 : 1 + name_bytes], inside[1 + name_bytes :]
    need(fields[5:7] == b"\x01\x01", "algorithms are not SHA-1 and RSA")
    size, room = fields[7], fields[9:]
    need(fields[8] == len(exponent) and int.from_bytes(exponent) == EXPONENT, "exponent is not 65537")
    need(len(remainder) == max(0, size - len(room)) and not room[size:].strip(b"\xbb"), "lengths do not fit")
    return int.from_bytes(room[:size] + remainder), name
