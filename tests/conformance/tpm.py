"""What a phone's MTM makes: the Measurement List and a TPM 2.0 quote (TPM 2.0 Library, Part 2; Linux IMA, ima-ng)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from conformance.bundle import Measured
from conformance.wire import Key, es256, hash_of, sha256

MAGIC = 0xFF544347
ST_QUOTE, ST_CERTIFY = 0x8018, 0x8017
SHA1, SHA256, NULL, ECDSA, ECC, P256 = 0x0004, 0x000B, 0x0010, 0x0018, 0x0023, 0x0003
ENDORSEMENT = 0x4000000B
# fixedTPM, fixedParent, sensitiveDataOrigin, userWithAuth, noDA, restricted, sign
KEY_ATTRIBUTES = 0x00050472
BANK_10 = (SHA256, bytes.fromhex("000400"))
"""The policy's selection: PCR 10 of the SHA-256 bank, in a bit map of three bytes."""


def u16(number: int) -> bytes:
    return number.to_bytes(2)


def sized(data: bytes) -> bytes:
    """A TPM2B structure."""
    return u16(len(data)) + data


# --- the Measurement List --------------------------------------------------------------------------------------------
def template(entry: Measured) -> bytes:
    """Template data of ima-ng: each field after its length in four little-endian bytes."""
    digest = b"sha256:\0" + entry.digest
    name = entry.path.encode() + b"\0"
    return len(digest).to_bytes(4, "little") + digest + len(name).to_bytes(4, "little") + name


def line(entry: Measured) -> bytes:
    """One line of the ASCII list."""
    column = hashlib.sha1(template(entry), usedforsecurity=False).hexdigest()
    return f"10 {column} ima-ng sha256:{entry.digest.hex()} {entry.path}\n".encode()


def listing(entries: Iterable[Measured]) -> bytes:
    """The list as it travels."""
    return b"".join(line(entry) for entry in entries)


def replay(entries: Iterable[Measured]) -> bytes:
    """PCR 10 of the SHA-256 bank after these events."""
    pcr = bytes(32)
    for entry in entries:
        pcr = sha256(pcr, sha256(template(entry)))
    return pcr


# --- the quote -------------------------------------------------------------------------------------------------------
def qualified_name(point: bytes) -> bytes:
    """The key as a primary object of the endorsement hierarchy."""
    public = (
        u16(ECC) + u16(SHA256) + KEY_ATTRIBUTES.to_bytes(4) + sized(b"") + u16(NULL) + u16(ECDSA) + u16(SHA256)
        + u16(P256) + u16(NULL) + sized(point[1:33]) + sized(point[33:])
    )  # fmt: skip
    name = u16(SHA256) + sha256(public)
    return u16(SHA256) + sha256(ENDORSEMENT.to_bytes(4), name)


@dataclass(frozen=True)
class Forgery:
    """What is wrong with a quote, if anything is."""

    magic: int = MAGIC
    kind: int = ST_QUOTE
    selection: tuple[tuple[int, bytes], ...] = (BANK_10,)
    trailing: bytes = b""
    signer_named: bytes = b""
    digest: bytes = b""
    flip_signature: bool = False


def quote(key: Key, qualifying: bytes, pcr10: bytes, forged: Forgery | None = None) -> bytes:
    """TPM2B_ATTEST | TPMT_SIGNATURE."""
    how = forged or Forgery()
    selection = len(how.selection).to_bytes(4) + b"".join(
        u16(algorithm) + bytes([len(bitmap)]) + bitmap for algorithm, bitmap in how.selection
    )
    clock = (1_000_000).to_bytes(8) + (1).to_bytes(4) + (0).to_bytes(4) + b"\x01"
    attest = (
        how.magic.to_bytes(4) + u16(how.kind) + sized(qualified_name(how.signer_named or key.point))
        + sized(qualifying) + clock + (1).to_bytes(8) + selection + sized(how.digest or sha256(pcr10)) + how.trailing
    )  # fmt: skip
    raw = es256(key, attest)
    if how.flip_signature:
        raw = raw[:-1] + bytes([raw[-1] ^ 1])
    return sized(attest) + u16(ECDSA) + u16(SHA256) + sized(raw[:32]) + sized(raw[32:])


def qualifying(
    *, purpose: str, bank: str, user: str, software: str, n_am: bytes, n_b: bytes, requested_key: bytes
) -> bytes:
    """H(quote-input)."""
    return hash_of([purpose, bank, user, software, n_am, n_b, requested_key])
