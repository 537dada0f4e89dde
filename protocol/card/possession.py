"""S_C, proof that the requester holds a card key, and what makes a card key acceptable (design §3 CARD-3).

The proof is a DDA signature over a digest that names TSM and session. Two lengths keep it apart from a purchase:
its ICC dynamic data is the dynamic number alone, which no CDA check takes, and it signs 32 bytes where INTERNAL
AUTHENTICATE signs the four bytes that our DDOL asks for. An applet must therefore refuse DDOL data of another length.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import gmpy2

from protocol.card.dynamic import encode_number, parse_number, sign_dynamic, verify_dynamic
from protocol.card.rsa import EXPONENT_BYTES, ICC_BITS, PrivateKey, PublicKey
from protocol.errors import CardDataInvalid, CardKeyInvalid, Malformed
from protocol.types import DIGEST_BYTES

if TYPE_CHECKING:
    from protocol.ports import Entropy

NUMBER_BYTES: Final = 8
_SMALL_FACTORS: Final = int(gmpy2.primorial(1 << 12))
"""Product of all primes under 4096: one gcd finds any of them (NIST SP 800-89 §5.3.3 asks for those under 752)."""
_CLOSE_PRIME_STEPS: Final = 64
"""Fermat's method finds the factors at once when they are nearly equal (CVE-2022-26320); step 0 finds squares."""


def sign_possession(key: PrivateKey, digest: bytes, entropy: Entropy) -> bytes:
    """S_C over H("tapveil-card-possession", ID_T, N_T). Raises: Malformed (no such digest); CardKeyInvalid."""
    if len(digest) != DIGEST_BYTES:
        raise Malformed("possession is shown over a 32-byte digest")
    return sign_dynamic(key, encode_number(entropy.bytes(NUMBER_BYTES)), digest, entropy)


def verify_possession(key: PublicKey, digest: bytes, signature: bytes) -> PublicKey:
    """The key, shown to be held by who answers `digest`. Raises: CardKeyInvalid."""
    if len(digest) != DIGEST_BYTES:
        raise CardKeyInvalid("possession is shown over a 32-byte digest")
    try:
        number = parse_number(verify_dynamic(key, signature, digest))
    except CardDataInvalid as exc:
        raise CardKeyInvalid("card key is not shown to be held") from exc
    if len(number) != NUMBER_BYTES:
        raise CardKeyInvalid("dynamic number has another length")
    return key


def verify_card_key(modulus: bytes, exponent: bytes = EXPONENT_BYTES) -> PublicKey:
    """PK_C, if it has the one size and exponent of card keys and none of the cheap weaknesses (TW-G5a).

    A modulus that is weak in ways that cost more to find is the requester's own loss: the SE vouches for the key
    under S_TID, so the weakness repudiates nothing.
    Raises: CardKeyInvalid.
    """
    key = PublicKey.from_bytes(modulus, exponent)
    if len(modulus) != ICC_BITS // 8:
        raise CardKeyInvalid("card key is not of 1408 bits")
    if gmpy2.gcd(key.modulus, _SMALL_FACTORS) != 1:
        raise CardKeyInvalid("modulus has a small factor")
    root = gmpy2.isqrt(key.modulus - 1) + 1
    rest = root * root - key.modulus
    for _ in range(_CLOSE_PRIME_STEPS):
        if gmpy2.is_square(rest):
            raise CardKeyInvalid("modulus is a square or has nearly equal factors")
        root, rest = root + 1, rest + 2 * root + 1
    return key
