"""RSA as EMV uses it: bare, over blocks that `recovery` formats (EMV Book 2 Annex B2.1).

Sizes. CA 1984 bits. ICC 1408 bits, under the 205 bytes that leave room for a CDA signature in a GENERATE AC answer.
Issuer 1976 bits, or 1408: an ICC certificate is as long as the issuer's modulus and, with its two-byte tag, its length
and the record's template, takes seven bytes more; a record holds 254, so 247 bytes is the longest issuer key whose
certificates a card can carry.

Exponent 65537, and no other, though EMV allows 3. Three would save four bytes of records (0.3 ms of air time) and
50 µs a verification here; it would also make any later slip in a format check a forgery (cube roots), where
65537 leaves only a failed check.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import gmpy2
from cryptography.hazmat.primitives.asymmetric import rsa

from protocol.errors import CardKeyInvalid, Malformed

if TYPE_CHECKING:
    from protocol.ports import Entropy

CA_BITS: Final = 1984
ISSUER_BITS: Final = 1976
SHORT_ISSUER_BITS: Final = 1408
ICC_BITS: Final = 1408
EXPONENT: Final = 65537
_EXPONENT: Final = gmpy2.mpz(EXPONENT)
EXPONENT_BYTES: Final = b"\x01\x00\x01"
MIN_MODULUS_BYTES: Final = 176
MAX_MODULUS_BYTES: Final = 248
"""Book 2 Annex B2.1: no modulus over 248 bytes. Below 1408 bits nothing is made or accepted here."""
BLINDED: Final = 32
"""Blocks under one blinding value and its squares, as many as OpenSSL takes."""
_KEY_FORMAT: Final = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class PublicKey:
    """A modulus, big-endian and as the number it is used as; the exponent is always 65537."""

    encoded: bytes
    modulus: gmpy2.mpz = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "modulus", gmpy2.mpz.from_bytes(self.encoded))

    @classmethod
    def from_bytes(cls, modulus: bytes, exponent: bytes = EXPONENT_BYTES) -> PublicKey:
        """Parse what a certificate or a message carries. Raises: CardKeyInvalid."""
        if exponent != EXPONENT_BYTES:
            raise CardKeyInvalid("exponent is not 65537")
        if not MIN_MODULUS_BYTES <= len(modulus) <= MAX_MODULUS_BYTES:
            raise CardKeyInvalid("modulus has no size that EMV cards use here")
        # A clear top bit would make the key shorter than it says; an even modulus has the factor 2.
        if not modulus[0] & 0x80 or not modulus[-1] & 1:
            raise CardKeyInvalid("modulus is even, or shorter than its bytes")
        return cls(encoded=modulus)

    @property
    def size_bytes(self) -> int:
        """Length of the modulus, and of each signature."""
        return len(self.encoded)

    def to_bytes(self) -> bytes:
        """The modulus, big-endian."""
        return self.encoded

    def apply(self, signature: bytes) -> bytes:
        """Public operation: what was signed (Book 2 Annex A2.1.3).

        Raises: CardKeyInvalid when the signature is not exactly one residue of this key. Values over the modulus
        are refused, else each signature would have a second form.
        """
        size_bytes, number = len(self.encoded), gmpy2.mpz.from_bytes(signature)
        if len(signature) != size_bytes or number >= self.modulus:
            raise CardKeyInvalid("signature does not have the key's size")
        block: bytes = gmpy2.powmod(number, _EXPONENT, self.modulus).to_bytes(size_bytes)
        return block


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class PrivateKey:
    """A key pair with its CRT values. Shows its size only (TW-G5b)."""

    public: PublicKey
    p: int
    q: int
    d_p: int
    d_q: int
    q_inverse: int

    def __repr__(self) -> str:
        return f"PrivateKey({8 * self.public.size_bytes} bits)"

    @classmethod
    def from_primes(cls, p: int, q: int) -> PrivateKey:
        """The key of two primes. Raises: CardKeyInvalid when they make none of an EMV size."""
        try:
            d_p = int(gmpy2.invert(EXPONENT, p - 1))
            d_q = int(gmpy2.invert(EXPONENT, q - 1))
            q_inverse = int(gmpy2.invert(q, p))
        except ZeroDivisionError as exc:
            raise CardKeyInvalid("numbers make no key with exponent 65537") from exc
        modulus = p * q
        public = PublicKey.from_bytes(modulus.to_bytes((modulus.bit_length() + 7) // 8, "big"))
        return cls(public=public, p=p, q=q, d_p=d_p, d_q=d_q, q_inverse=q_inverse)

    @classmethod
    def from_bytes(cls, data: bytes) -> PrivateKey:
        """Back from `to_bytes`. A damaged key that still parses signs nothing: `apply` checks every result.

        Raises: Malformed; CardKeyInvalid.
        """
        half = (len(data) - 1) // 2
        if len(data) % 2 == 0 or len(data) > 1 + MAX_MODULUS_BYTES or data[0] != _KEY_FORMAT:
            raise Malformed("not a private card key")
        return cls.from_primes(int.from_bytes(data[1 : 1 + half], "big"), int.from_bytes(data[1 + half :], "big"))

    def to_bytes(self) -> bytes:
        """Format byte and both primes at equal length. To be sealed by the caller before it is stored."""
        half = (max(self.p, self.q).bit_length() + 7) // 8
        return bytes([_KEY_FORMAT]) + self.p.to_bytes(half, "big") + self.q.to_bytes(half, "big")

    def apply(self, block: bytes, entropy: Entropy) -> bytes:
        """Private operation on one block. Raises: as `apply_all`."""
        (signature,) = self.apply_all((block,), entropy)
        return signature

    def apply_all(self, blocks: Sequence[bytes], entropy: Entropy) -> list[bytes]:
        """Private operation: block → signature of each (Book 2 Annex A2.1.2), blinded, by CRT, and checked.

        Blinding hides the block from timing. One value is drawn for `BLINDED` blocks and squared from each to the
        next, which costs a tenth of another value and tells as little (Brumley and Boneh, 2003, §7; OpenSSL does so).
        The check withholds the results of a faulty computation, one of which would otherwise give a factor of the
        modulus away (Boneh, DeMillo and Lipton, 1997). It is made on the product of all (Bellare, Garay and Rabin,
        1998): one at fault makes that wrong, and the faults of two would have to be each other's inverse. That is in
        nobody's choice here, where signer and verifier are one.
        Raises: CardKeyInvalid (key damaged, computation at fault, or block over the modulus, which never comes back).
        """
        modulus, size_bytes = self.public.modulus, self.public.size_bytes
        results, of_blocks, of_results = [], gmpy2.mpz(1), gmpy2.mpz(1)
        blind = unblind = of_blocks
        for place, block in enumerate(blocks):
            if place % BLINDED:
                blind, unblind = blind * blind % modulus, unblind * unblind % modulus
            else:
                blind, unblind = self._blinding(entropy)
            number = int.from_bytes(block, "big")
            if number >= modulus:
                raise CardKeyInvalid("block is over the modulus")
            result = self._crt(number * blind % modulus) * unblind % modulus
            of_blocks, of_results = of_blocks * number % modulus, of_results * result % modulus
            results.append(result)
        if gmpy2.powmod(of_results, EXPONENT, modulus) != of_blocks % modulus:
            raise CardKeyInvalid("private operation failed its check; nothing is released")
        return [int(result).to_bytes(size_bytes, "big") for result in results]

    def _blinding(self, entropy: Entropy) -> tuple[gmpy2.mpz, gmpy2.mpz]:
        """What a number is multiplied with before the private operation, and its result after it."""
        modulus = self.public.modulus
        drawn = int.from_bytes(entropy.bytes(self.public.size_bytes + 8), "big") % modulus
        try:
            return gmpy2.powmod(drawn, EXPONENT, modulus), gmpy2.invert(drawn, modulus)
        except ZeroDivisionError as exc:
            raise CardKeyInvalid("blinding value has no inverse") from exc

    def _crt(self, number: gmpy2.mpz) -> gmpy2.mpz:
        # Garner's recombination; powmod_sec's running time depends on sizes only.
        at_p = gmpy2.powmod_sec(number % self.p, self.d_p, self.p)
        at_q = gmpy2.powmod_sec(number % self.q, self.d_q, self.q)
        return at_q + self.q * (self.q_inverse * (at_p - at_q) % self.p)


def generate_key(bits: int) -> PrivateKey:
    """A new key pair, 35 to 55 ms. The primes come from the cryptographic library's own generator and randomness.

    Raises: CardKeyInvalid when `bits` is no size used here.
    """
    if bits not in (CA_BITS, ISSUER_BITS, ICC_BITS):
        raise CardKeyInvalid("no EMV key here has this size")
    numbers = rsa.generate_private_key(public_exponent=EXPONENT, key_size=bits).private_numbers()
    return PrivateKey.from_primes(numbers.p, numbers.q)
