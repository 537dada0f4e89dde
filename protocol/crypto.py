"""The cipher suite: ES256, HPKE (P-256, HKDF-SHA256, AES-256-GCM), AES-256-GCM, SHA-256 (TW-G1, TW-G2).

Everything cryptographic on the wire goes through one `Suite` value, so that another (CN-12) can stand beside it.
Keys are bytes-backed values; the `repr` of a private key shows its public half only.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives import hashes, hpke
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from protocol.errors import DecryptionFailed, Malformed, SignatureInvalid
from protocol.ports import Entropy
from protocol.types import KEY_BYTES, PUBLIC_KEY_BYTES

_CURVE: Final = ec.SECP256R1()
_ORDER: Final = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
_VERIFY: Final = ec.ECDSA(hashes.SHA256())
_SIGN: Final = ec.ECDSA(hashes.SHA256(), deterministic_signing=True)
_HPKE: Final = hpke.Suite(hpke.KEM.P256, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM)
_SCALAR_BYTES: Final = 32
IV_BYTES: Final = 12


def sha256(*parts: bytes) -> bytes:
    """SHA-256 of the concatenation. Callers that hash several fields encode them first (`codec.encode`)."""
    return hashlib.sha256(b"".join(parts)).digest()


def same(left: bytes, right: bytes) -> bool:
    """Equality in constant time."""
    return hmac.compare_digest(left, right)


def mac(key: bytes, *parts: bytes) -> bytes:
    """HMAC-SHA-256 over the concatenation."""
    return hmac.digest(key, b"".join(parts), "sha256")


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A P-256 public key: an uncompressed point, checked to be on the curve when it is parsed."""

    encoded: bytes

    @classmethod
    def from_bytes(cls, encoded: bytes) -> PublicKey:
        """Raises: Malformed if the bytes are not an uncompressed point on P-256."""
        _point(encoded)
        return cls(encoded)

    @property
    def thumbprint(self) -> bytes:
        """COSE key thumbprint (RFC 9679), SHA-256: the `kid` of this key."""
        return _thumbprint(self.encoded)


@lru_cache(maxsize=4096)
def _thumbprint(encoded: bytes) -> bytes:
    return sha256(b"\xa4\x01\x02\x20\x01\x21\x58\x20", encoded[1:33], b"\x22\x58\x20", encoded[33:])


@lru_cache(maxsize=4096)
def _point(encoded: bytes) -> ec.EllipticCurvePublicKey:
    if len(encoded) != PUBLIC_KEY_BYTES or encoded[0] != 4:
        raise Malformed("not an uncompressed P-256 point")
    try:
        return ec.EllipticCurvePublicKey.from_encoded_point(_CURVE, encoded)
    except ValueError as exc:
        raise Malformed("not a point on P-256") from exc


@dataclass(frozen=True, slots=True, eq=False)
class PrivateKey:
    """A P-256 private key, for signing or for HPKE, never for both (design §3)."""

    _key: ec.EllipticCurvePrivateKey = field(repr=False)
    public: PublicKey

    @classmethod
    def generate(cls, entropy: Entropy) -> PrivateKey:
        """A new key; 48 random bytes reduced modulo the order leave no usable bias (FIPS 186-5 A.2.1)."""
        return cls._of(int.from_bytes(entropy.bytes(48)) % (_ORDER - 1) + 1)

    @classmethod
    def from_bytes(cls, scalar: bytes) -> PrivateKey:
        """Raises: Malformed if the scalar is not 32 bytes in 1 … n-1."""
        number = int.from_bytes(scalar)
        if len(scalar) != _SCALAR_BYTES or not 0 < number < _ORDER:
            raise Malformed("not a P-256 scalar")
        return cls._of(number)

    @classmethod
    def _of(cls, number: int) -> PrivateKey:
        key = ec.derive_private_key(number, _CURVE)
        encoded = key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        return cls(key, PublicKey(encoded))

    def to_bytes(self) -> bytes:
        """The scalar, for sealed storage only."""
        return self._key.private_numbers().private_value.to_bytes(_SCALAR_BYTES)

    def native(self) -> ec.EllipticCurvePrivateKey:
        """The library's key object, for X.509 and TPM structures."""
        return self._key


@dataclass(frozen=True, slots=True)
class Suite:
    """One set of algorithms and their COSE identifiers."""

    name: str
    signature_alg: int
    sealing_alg: int
    aead_alg: int
    sign: Callable[[PrivateKey, bytes], bytes]
    verify: Callable[[PublicKey, bytes, bytes], None]
    seal: Callable[[PublicKey, bytes, bytes], bytes]
    unseal: Callable[[PrivateKey, bytes, bytes], bytes]
    encrypt: Callable[[bytes, bytes, bytes, Entropy], bytes]
    decrypt: Callable[[bytes, bytes, bytes], bytes]


def _sign(key: PrivateKey, data: bytes) -> bytes:
    r, s = decode_dss_signature(key.native().sign(data, _SIGN))
    return r.to_bytes(_SCALAR_BYTES) + s.to_bytes(_SCALAR_BYTES)


def _verify(key: PublicKey, signature: bytes, data: bytes) -> None:
    if len(signature) != 2 * _SCALAR_BYTES:
        raise SignatureInvalid("wrong signature length")
    r, s = int.from_bytes(signature[:_SCALAR_BYTES]), int.from_bytes(signature[_SCALAR_BYTES:])
    try:
        _point(key.encoded).verify(encode_dss_signature(r, s), data, _VERIFY)
    except InvalidSignature as exc:
        raise SignatureInvalid from exc


def _seal(key: PublicKey, plaintext: bytes, info: bytes) -> bytes:
    return _HPKE.encrypt(plaintext, _point(key.encoded), info=info)


def _unseal(key: PrivateKey, ciphertext: bytes, info: bytes) -> bytes:
    try:
        return _HPKE.decrypt(ciphertext, key.native(), info=info)
    except InvalidTag as exc:
        raise DecryptionFailed from exc


def _encrypt(key: bytes, plaintext: bytes, aad: bytes, entropy: Entropy) -> bytes:
    iv = entropy.bytes(IV_BYTES)
    return iv + AESGCM(key).encrypt(iv, plaintext, aad)


def _decrypt(key: bytes, ciphertext: bytes, aad: bytes) -> bytes:
    try:
        return AESGCM(key).decrypt(ciphertext[:IV_BYTES], ciphertext[IV_BYTES:], aad)
    except (InvalidTag, ValueError) as exc:  # ValueError: an IV shorter than AES-GCM takes
        raise DecryptionFailed from exc


P256: Final = Suite(
    name="tapveil-p256",
    signature_alg=-7,  # ES256, RFC 9053 §2.1
    sealing_alg=-65537,  # private use: no registered number for HPKE P-256 with AES-256-GCM is final
    aead_alg=3,  # A256GCM, RFC 9053 §4.1
    sign=_sign,
    verify=_verify,
    seal=_seal,
    unseal=_unseal,
    encrypt=_encrypt,
    decrypt=_decrypt,
)


def new_key(entropy: Entropy) -> bytes:
    """A fresh 256-bit shared key."""
    return entropy.bytes(KEY_BYTES)
