"""Sealed columns: XChaCha20-Poly1305 (libsodium), bound to the cell they were written to.

Table, column and primary key are associated data, so a value that somebody moved to another row or column does not
open. An older value put back into its own cell is not noticed: that needs a count kept outside of the database.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from nacl.bindings import (
    crypto_aead_xchacha20poly1305_ietf_decrypt,
    crypto_aead_xchacha20poly1305_ietf_encrypt,
    crypto_aead_xchacha20poly1305_ietf_KEYBYTES,
    crypto_aead_xchacha20poly1305_ietf_NPUBBYTES,
)
from nacl.exceptions import CryptoError
from nacl.utils import random

from protocol.codec import array_head, byte_string, decode, encode
from protocol.errors import Malformed, StorageFault
from protocol.rows import Value

KEY_BYTES: Final = crypto_aead_xchacha20poly1305_ietf_KEYBYTES
NONCE_BYTES: Final = crypto_aead_xchacha20poly1305_ietf_NPUBBYTES
_TAG_BYTES: Final = 16


class SealBroken(Exception):
    """Wrong key, wrong context, or altered bytes; which one can't be told."""


def seal(key: bytes, plaintext: bytes, context: bytes) -> bytes:
    """`plaintext` encrypted and authenticated together with `context`: nonce (24) ‖ ciphertext ‖ tag (16)."""
    nonce = random(NONCE_BYTES)
    return nonce + crypto_aead_xchacha20poly1305_ietf_encrypt(plaintext, context, nonce, key)


def unseal(key: bytes, sealed: bytes, context: bytes) -> bytes:
    """What `seal` was given. Raises: SealBroken."""
    if len(sealed) < NONCE_BYTES + _TAG_BYTES:
        raise SealBroken("too short to be sealed")
    try:
        return crypto_aead_xchacha20poly1305_ietf_decrypt(sealed[NONCE_BYTES:], context, sealed[:NONCE_BYTES], key)
    except CryptoError as exc:
        raise SealBroken("does not open") from exc


class Sealer:
    """Seals and opens cells under one data key."""

    def __init__(self, data_key: bytes) -> None:
        if len(data_key) != KEY_BYTES:
            raise ValueError(f"a data key has {KEY_BYTES} bytes")
        self._key = data_key

    def __repr__(self) -> str:
        return "Sealer()"

    def seal(self, value: Value, *, table: str, column: str, key: tuple[Value, ...]) -> bytes:
        """`value` with its type, for the cell of `column` in the row of `table` whose primary key is `key`."""
        return seal(self._key, _encoded(value), _cell(table, column, key))

    def unseal(self, sealed: bytes, *, table: str, column: str, key: tuple[Value, ...]) -> Value:
        """The value of that cell. Raises: StorageFault if it was altered, moved, or sealed under another key."""
        try:
            plaintext = unseal(self._key, sealed, _cell(table, column, key))
            value: Value = decode(plaintext, max_bytes=len(plaintext))
        except (SealBroken, Malformed) as exc:
            raise StorageFault(f"a sealed {table}.{column} does not open: altered, or another keystore") from exc
        return value


def _cell(table: str, column: str, key: tuple[Value, ...]) -> bytes:
    """Table, column and key as one array."""
    return _column(table, column, len(key)) + b"".join(map(_encoded, key))


@lru_cache(maxsize=256)
def _column(table: str, column: str, width: int) -> bytes:
    """How the array begins, alike for all rows; the key has `width` values."""
    return array_head(2 + width) + encode(table) + encode(column)


def _encoded(value: Value) -> bytes:
    return byte_string(value) if type(value) is bytes else encode(value)
