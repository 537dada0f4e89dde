"""Application cryptograms: the session key of one transaction, and the MAC under it.

EMV Book 2 §8.1, Annex A1.2 and A1.3.
"""

from __future__ import annotations

from typing import Final

from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
from cryptography.hazmat.primitives.ciphers import Cipher, modes

from protocol.card.keys import encrypt_blocks, odd_parity

BLOCK_BYTES: Final = 8
CRYPTOGRAM_BYTES: Final = 8


def derive_session_key(card_key: bytes, *, atc: int) -> bytes:
    """The AC session key for one value of the transaction counter (Annex A1.3.1, common session key derivation)."""
    counter = atc.to_bytes(2, "big")
    left = counter + b"\xf0" + bytes(5)
    right = counter + b"\x0f" + bytes(5)
    return odd_parity(encrypt_blocks(card_key, left + right))


def compute_cryptogram(session_key: bytes, data: bytes) -> bytes:
    """Eight bytes of ISO/IEC 9797-1 MAC algorithm 3 with padding method 2 (Annex A1.2.1, s = 8)."""
    padded = data + b"\x80"
    padded += bytes(-len(padded) % BLOCK_BYTES)
    first, second = session_key[:8], session_key[8:]
    # Algorithm 3 is DES-CBC under the first half, and the last block under both; DES is Triple DES with one key thrice.
    chain = _cbc(first * 3, bytes(BLOCK_BYTES), padded[:-BLOCK_BYTES])[-BLOCK_BYTES:] or bytes(BLOCK_BYTES)
    return _cbc(first + second + first, chain, padded[-BLOCK_BYTES:])


def compute_response(session_key: bytes, cryptogram: bytes, response_code: bytes) -> bytes:
    """ARPC by method 1: the cryptogram, with the response code over its first two bytes, enciphered (Book 2 §8.2.1).

    `response_code` is 8A, two bytes. Eight bytes come back.
    """
    mixed = bytes(a ^ b for a, b in zip(cryptogram, response_code + bytes(6), strict=True))
    return encrypt_blocks(session_key, mixed)


def _cbc(key: bytes, start: bytes, blocks: bytes) -> bytes:
    encryptor = Cipher(TripleDES(key), modes.CBC(start)).encryptor()
    return encryptor.update(blocks) + encryptor.finalize()
