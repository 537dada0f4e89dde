"""What can't be spared: the cryptography of one authorization, and of one signed message, with nothing around it.

One authorization: one P-256 verification (the terminal's request), one P-256 signature (the answer), two RSA public
recoveries (the card's certificate under the issuer's 1976-bit key, the card's dynamic signature under its own 1408-bit
key), one cryptogram (session key and MAC), one response cryptogram. The issuer's own certificate is the same on all
cards, so it is verified once a month, and is not in it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import gmpy2
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from parties.bench.clocks import used_us
from protocol import cose
from protocol.card.cryptogram import compute_cryptogram, compute_response, derive_session_key
from protocol.card.keys import KEY_BYTES
from protocol.card.rsa import EXPONENT, ICC_BITS, ISSUER_BITS, PublicKey, generate_key
from protocol.crypto import PrivateKey
from protocol.ports import Entropy

REQUEST_BYTES: Final = 1_250
"""As long as the signed bytes of one authorization are."""
MAC_BYTES: Final = 87
"""CDOL1's data, AIP, ATC and 9F10."""
_ALGORITHM: Final = ec.ECDSA(hashes.SHA256(), deterministic_signing=True)
"""As the protocol signs; with a random nonce it takes somewhat longer here."""


class Floor:
    """The yardstick. Keys, signatures and inputs are ready beforehand."""

    def __init__(
        self, entropy: Entropy, public: Callable[[Any, Any, Any], Any] = gmpy2.powmod,
        number: Callable[[int], Any] = gmpy2.mpz,
    ) -> None:  # fmt: skip
        """`public` is the RSA public operation on numbers of the kind that `number` makes."""
        self._public = public
        self._key = PrivateKey.generate(entropy).native()
        self._verifying = self._key.public_key()
        self._request = entropy.bytes(REQUEST_BYTES)
        self._signature = self._key.sign(self._request, _ALGORITHM)
        keys = [generate_key(bits).public for bits in (ISSUER_BITS, ICC_BITS)]
        self._rsa = [[number(part) for part in _operands(key, entropy)] for key in keys]
        self._k_ac, self._data, self._cryptogram = (entropy.bytes(n) for n in (KEY_BYTES, MAC_BYTES, 8))

    def once(self) -> None:
        """All of it, once."""
        self._verifying.verify(self._signature, self._request, _ALGORITHM)
        for number, exponent, modulus in self._rsa:
            self._public(number, exponent, modulus)
        session_key = derive_session_key(self._k_ac, atc=1)
        compute_cryptogram(session_key, self._data)
        compute_response(session_key, self._cryptogram, b"00")
        self._key.sign(self._request, _ALGORITHM)

    def used_us(self) -> float:
        """Processor time of it, once."""
        return used_us(self.once)


def _operands(key: PublicKey, entropy: Entropy) -> tuple[int, int, int]:
    modulus = int(key.modulus)
    return int.from_bytes(entropy.bytes(key.size_bytes), "big") % modulus, EXPONENT, modulus


class Cose:
    """Our COSE_Sign1 beside a bare signature and its verification over the same bytes."""

    NAME: Final = "authorization"

    def __init__(self, entropy: Entropy) -> None:
        self._key = PrivateKey.generate(entropy)
        self._native = self._key.native()
        self._public = self._native.public_key()
        self._payload = entropy.bytes(REQUEST_BYTES)
        self._claims = cose.Claims(
            issuer="shop-1", audience="tsm-1", issued_at_s=1_800_000_000, expires_at_s=1_800_003_600,
            nonce=entropy.bytes(cose.CTI_BYTES),
        )  # fmt: skip

    def signed(self) -> None:
        """Sign, parse and verify."""
        data = cose.sign(self._key, name=self.NAME, claims=self._claims, payload=self._payload)
        cose.verify(cose.parse_sign1(data, max_bytes=2 * REQUEST_BYTES), self._key.public, name=self.NAME)

    def raw(self) -> None:
        """Sign and verify."""
        signature = self._native.sign(self._payload, _ALGORITHM)
        self._public.verify(signature, self._payload, _ALGORITHM)
