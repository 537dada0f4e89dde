"""S_C, proof that the requester holds a card key, and what makes a card key acceptable (design §3 CARD-3).

The proof is a DDA signature over a digest that names TSM and session. Two lengths keep it apart from a purchase:
its ICC dynamic data is the dynamic number alone, which no CDA check takes, and it signs 32 bytes where INTERNAL
AUTHENTICATE signs the four bytes that our DDOL asks for. An applet must therefore refuse DDOL data of another length.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

import gmpy2

from protocol.card.dynamic import encode_number, parse_number, sign_dynamic, verify_dynamic
from protocol.card.rsa import EXPONENT_BYTES, ICC_BITS, PrivateKey, PublicKey
from protocol.errors import CardDataInvalid, CardKeyInvalid, Malformed
from protocol.types import DIGEST_BYTES

if TYPE_CHECKING:
    from protocol.ports import Entropy

NUMBER_BYTES: Final = 8
_SMALL_FACTORS: Final = gmpy2.primorial(1 << 12)
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


def verify_card_keys(moduli: Iterable[bytes], exponent: bytes = EXPONENT_BYTES) -> tuple[PublicKey, ...]:
    """Each PK_C, if all have the one size and exponent of card keys and none of the cheap weaknesses (TW-G5a).

    A modulus that is weak in ways that cost more to find is the requester's own loss: the SE vouches for the key
    under S_TID, so the weakness repudiates nothing.
    Raises: CardKeyInvalid.
    """
    keys = []
    for modulus in moduli:
        if len(modulus) != ICC_BITS // 8:
            raise CardKeyInvalid("card key is not of 1408 bits")
        keys.append(PublicKey.from_bytes(modulus, exponent))
    # A factor of any modulus is one of their product, which a single gcd then sees.
    product = gmpy2.mpz(1)
    for key in keys:
        product = product * key.modulus % _SMALL_FACTORS
    if gmpy2.gcd(product, _SMALL_FACTORS) != 1:
        raise CardKeyInvalid("modulus has a small factor")
    for key in keys:
        _check_distance(key.modulus)
    return tuple(keys)


def _check_distance(modulus: gmpy2.mpz) -> None:
    # root² - modulus is to be a square. Squares are 0 or 1 modulo 4, so root is odd if the modulus is 1 modulo 4, and
    # even if it is 3: every other step is known to fail.
    root = gmpy2.isqrt(modulus - 1) + 1
    root += (root ^ modulus >> 1 ^ 1) & 1
    rest, growth = root * root - modulus, 4 * root + 4
    for _ in range(0, _CLOSE_PRIME_STEPS, 2):
        if gmpy2.is_square(rest):
            raise CardKeyInvalid("modulus is a square or has nearly equal factors")
        rest, growth = rest + growth, growth + 8
