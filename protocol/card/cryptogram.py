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
_CHAINED: Final = modes.CBC(bytes(BLOCK_BYTES))


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
    # Algorithm 3 is DES-CBC under the first half, and the last block under both; DES is Triple DES with one key thrice.
    encryptor = Cipher(TripleDES(session_key[:8] * 3), _CHAINED).encryptor()
    chained = encryptor.update(padded[:-BLOCK_BYTES]) + encryptor.finalize()
    last = int.from_bytes(chained[-BLOCK_BYTES:], "big") ^ int.from_bytes(padded[-BLOCK_BYTES:], "big")
    return encrypt_blocks(session_key, last.to_bytes(BLOCK_BYTES, "big"))


def compute_response(session_key: bytes, cryptogram: bytes, response_code: bytes) -> bytes:
    """ARPC by method 1: the cryptogram, with the response code over its first two bytes, enciphered (Book 2 §8.2.1).

    `response_code` is 8A, two bytes. Eight bytes come back.
    """
    first, second = response_code
    return encrypt_blocks(session_key, bytes((cryptogram[0] ^ first, cryptogram[1] ^ second)) + cryptogram[2:])
