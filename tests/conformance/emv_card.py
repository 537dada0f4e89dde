"""An EMV card of its own: data object lists, application cryptogram, combined signature (EMV Books 2 and 3).

The layout of issuer application data (9F10) is this project's (design §3 PAY): version 01, key index 01, card
verification results (4), number of the opening (4).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from conformance.emv import CardKey, parse, sha1
from conformance.wire import need
from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
from cryptography.hazmat.primitives.ciphers import Cipher, modes

ARQC, TC, AAC = 0x80, 0x40, 0x00
NUMERIC = {0x9F02, 0x9F03, 0x9F1A, 0x5F2A, 0x9A, 0x9C, 0x9F35}
"""Format n: filled up and cut on the left; all else on the right (Book 3 section 5.4)."""

CVR_ARQC = 0x80000000
CVR_COMPLETED = 0x40000000
CVR_ISSUER_AUTHENTICATED = 0x20000000
CVR_DEVICE_VERIFIED = 0x00800000
CVR_CONTACT = 0x00400000
CVR_RETRY = 0x00200000
CVR_CONSENT_MISMATCH = 0x00008000
CVR_CONTRADICTED = 0x00004000
CVR_TERMINAL_DECLINED = 0x00002000

Values = dict[int, bytes]


# --- TLV and data object lists ---------------------------------------------------------------------------------------
def tlv(tag: int, value: bytes) -> bytes:
    """One data object, lengths up to 255 (Book 3 Annex B)."""
    name = tag.to_bytes((tag.bit_length() + 7) // 8 or 1)
    size = bytes([len(value)]) if len(value) < 0x80 else bytes([0x81, len(value)])
    return name + size + value


def parse_dol(data: bytes) -> list[tuple[int, int]]:
    """Tags and lengths in order."""
    found = []
    at = 0
    while at < len(data):
        size = 2 if data[at] & 0x1F == 0x1F else 1
        found.append((int.from_bytes(data[at : at + size]), data[at + size]))
        at += size + 1
    return found


def fill_dol(dol: bytes, values: Mapping[int, bytes]) -> bytes:
    """The data that a list asks for; zeros where there is none (Book 3 section 5.4)."""
    parts = []
    for tag, size in parse_dol(dol):
        value = values.get(tag, b"")
        if tag in NUMERIC:
            parts.append(value.rjust(size, b"\0")[-size:])
        else:
            parts.append(value[:size].ljust(size, b"\0"))
    return b"".join(parts)


def split_dol(dol: bytes, data: bytes) -> Values:
    """The other way. Raises: BadWire."""
    found: Values = {}
    at = 0
    for tag, size in parse_dol(dol):
        found[tag] = data[at : at + size]
        at += size
    need(at == len(data), "data are not what the list asks for")
    return found


# --- cryptograms (Book 2 section 8, Annex A1) ------------------------------------------------------------------------
def _encipher(key: bytes, blocks: bytes) -> bytes:
    encryptor = Cipher(TripleDES(key + key[:8]), modes.ECB()).encryptor()  # noqa: S305
    return encryptor.update(blocks) + encryptor.finalize()


def _decipher(key: bytes, block: bytes) -> bytes:
    decryptor = Cipher(TripleDES(key * 3), modes.ECB()).decryptor()  # noqa: S305
    return decryptor.update(block) + decryptor.finalize()


def session_key(k_ac: bytes, atc: int) -> bytes:
    """Common session key derivation (Annex A1.3.1)."""
    counter = atc.to_bytes(2)
    return _encipher(k_ac, counter + b"\xf0" + bytes(5)) + _encipher(k_ac, counter + b"\x0f" + bytes(5))


def mac(key: bytes, data: bytes) -> bytes:
    """Eight bytes of ISO/IEC 9797-1 algorithm 3, padding method 2 (Annex A1.2.1): the last block under both halves."""
    padded = data + b"\x80"
    padded += bytes(-len(padded) % 8)
    left, right = key[:8], key[8:]
    chain = bytes(8)
    for at in range(0, len(padded), 8):
        mixed = bytes(a ^ b for a, b in zip(chain, padded[at : at + 8], strict=True))
        chain = _encipher(left * 2, mixed)
    return _encipher(left * 2, _decipher(right, chain))


def cryptogram(k_ac: bytes, cdol_data: bytes, *, aip: bytes, atc: int, issuer_data: bytes) -> bytes:
    """The MAC over all CDOL1 data, AIP, ATC, issuer application data (design §7)."""
    return mac(session_key(k_ac, atc), cdol_data + aip + atc.to_bytes(2) + issuer_data)


def arpc(k_ac: bytes, atc: int, ac: bytes, code: bytes) -> bytes:
    """Method 1 (Book 2 section 8.2.1)."""
    return _encipher(session_key(k_ac, atc), bytes(a ^ b for a, b in zip(ac, code.ljust(8, b"\0"), strict=True)))


# --- what the card signs ---------------------------------------------------------------------------------------------
def issuer_data(cvr: int, opening: bytes) -> bytes:
    """9F10."""
    return b"\x01\x01" + cvr.to_bytes(4) + opening


def transaction_hash(pdol_data: bytes, cdol_data: Iterable[bytes], answer: Iterable[tuple[int, bytes]]) -> bytes:
    """All that was said, and the answer's data objects in their order but the signature (Book 2 section 6.6.1)."""
    return sha1(pdol_data + b"".join(cdol_data) + b"".join(tlv(tag, value) for tag, value in answer))


def combined_data(number: bytes, information: int, ac: bytes, digest: bytes) -> bytes:
    """ICC dynamic data under CDA (Book 2 table 19)."""
    return bytes([len(number)]) + number + bytes([information]) + ac + digest


@dataclass
class PlayedCard:
    """A card as it was issued, with its private key: the phone's SE as far as a terminal can see it."""

    key: CardKey
    issued: dict[str, Any]
    atc: int = 0

    @property
    def pan(self) -> str:
        return str(self.issued["pan"])

    @property
    def k_ac(self) -> bytes:
        return bytes(self.issued["k_ac"])

    @property
    def controls(self) -> dict[str, Any]:
        return dict(self.issued["controls"])

    @property
    def emv(self) -> dict[str, Any]:
        return dict(self.issued["emv"])

    @property
    def pdol(self) -> bytes:
        """9F38, out of the FCI."""
        ((_, template),) = parse(self.emv["fci"])
        return dict(parse(dict(parse(template))[0xA5]))[0x9F38]

    @property
    def cdol1(self) -> bytes:
        """8C, out of the records."""
        for record in self.emv["records"]:
            ((_, value),) = parse(record["data"])
            found = dict(parse(value))
            if 0x8C in found:
                return found[0x8C]
        raise AssertionError("card has no CDOL1")

    def pay(
        self, values: Values, *, cvr: int = CVR_ARQC, opening: bytes | None = None, atc: int | None = None,
        information: int = ARQC, shown: Values | None = None, said: Values | None = None,
        pdol_data: bytes | None = None, cdol_data: bytes | None = None, own: bytes | None = None,
        key: CardKey | None = None, k_ac: bytes | None = None, ac: bytes | None = None,
        unpredictable: bytes | None = None, digest: bytes | None = None, dynamic: bytes | None = None,
        **fields: Any,
    ) -> dict[str, Any]:  # fmt: skip
        """An `emv-purchase` of one tap: what the terminal would forward.

        `values` are the terminal's data elements, `shown` and `said` what differs of them in PDOL and CDOL1 data, `own`
        is 9F10. What a test wants to be wrong, it names: what the card computes with, or (`fields`) what is forwarded.
        """
        self.atc = self.atc + 1 if atc is None else atc
        opening = os.urandom(4) if opening is None else opening
        own = issuer_data(cvr, opening) if own is None else own
        shown_data = fill_dol(self.pdol, {**values, **(shown or {})}) if pdol_data is None else pdol_data
        said_data = fill_dol(self.cdol1, {**values, **(said or {})}) if cdol_data is None else cdol_data
        if ac is None:
            ac = cryptogram(k_ac or self.k_ac, said_data, aip=self.emv["aip"], atc=self.atc, issuer_data=own)
        answer = [(0x9F27, bytes([information])), (0x9F36, self.atc.to_bytes(2)), (0x9F10, own)]
        if digest is None:
            digest = transaction_hash(shown_data, [said_data], answer)
        if dynamic is None:
            dynamic = combined_data(os.urandom(8), information, ac, digest)
        signature = (key or self.key).dynamic(dynamic, values[0x9F37] if unpredictable is None else unpredictable)
        purchase = {
            "sale": os.urandom(16), "application": self.emv["application"], "aip": self.emv["aip"],
            "afl": self.emv["afl"], "records": self.emv["records"], "pdol_data": shown_data, "cdol_data": said_data,
            "information": information, "atc": self.atc, "issuer_data": own, "signature": signature,
        }  # fmt: skip
        return {**purchase, **fields}
