"""EMV's signature with message recovery, which all its certificates and dynamic signatures are (Book 2 Annex A2.1).

A message is split: the first N − 22 bytes lie inside the signature, the rest travels beside it, and a SHA-1 hash
covers both. X = 6A ‖ first part ‖ hash ‖ BC.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from protocol.card.rsa import PrivateKey, PublicKey
from protocol.errors import CardDataInvalid, CardKeyInvalid

if TYPE_CHECKING:
    from protocol.ports import Entropy

HEADER: Final = 0x6A
TRAILER: Final = 0xBC
HASH_BYTES: Final = 20
OVERHEAD_BYTES: Final = HASH_BYTES + 2
SHA1_RSA: Final = b"\x01\x01"
"""Hash algorithm and public key algorithm indicators (Book 2 Annex B2.1, B3.1): the only pair that EMV defines."""


def digest(message: bytes) -> bytes:
    """SHA-1, the one hash that EMV has for RSA (Book 2 Annex B3.1).

    A chosen-prefix collision needs all that stands before the colliding blocks. In a card's certificate the issuer
    draws number and serial, some 60 bits, only after it has received the key that would have to collide.
    """
    return hashlib.sha1(message).digest()  # noqa: S324


def capacity(key: PublicKey) -> int:
    """How many bytes a signature of this key carries inside."""
    return key.size_bytes - OVERHEAD_BYTES


def sign(key: PrivateKey, message: bytes, entropy: Entropy) -> bytes:
    """Sign; the first `capacity` bytes of `message` can be recovered, so it is at least that long.

    Raises: CardDataInvalid (message too short); CardKeyInvalid (key at fault).
    """
    return key.apply(_format(key.public, message), entropy)


def sign_all(key: PrivateKey, messages: Iterable[bytes], entropy: Entropy) -> list[bytes]:
    """Sign each, one private operation right after the other. Raises: as `sign`."""
    return key.apply_all([_format(key.public, message) for message in messages], entropy)


def _format(key: PublicKey, message: bytes) -> bytes:
    room = capacity(key)
    if len(message) < room:
        raise CardDataInvalid("message does not fill the signature")
    return bytes([HEADER]) + message[:room] + digest(message) + bytes([TRAILER])


def recover(key: PublicKey, signature: bytes, rest: bytes) -> bytes:
    """The part of the message inside `signature`, once it and `rest` are shown to be what `key` signed.

    Raises: CardDataInvalid.
    """
    try:
        block = key.apply(signature)
    except CardKeyInvalid as exc:
        raise CardDataInvalid("signature does not have the key's size") from exc
    if block[0] != HEADER or block[-1] != TRAILER:
        raise CardDataInvalid("not a signature by this key")
    inside = block[1 : -1 - HASH_BYTES]
    if digest(inside + rest) != block[-1 - HASH_BYTES : -1]:
        raise CardDataInvalid("signed data was altered")
    return inside
