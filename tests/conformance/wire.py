"""The wire format of proto/payloads.cddl, sections 1 and 2, written from that file alone: CBOR, COSE, claims, HPKE."""

from __future__ import annotations

import hashlib
import os
import time
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import cbor2
from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives import hashes, hpke
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

ES256, HPKE_ALG, A256GCM = -7, -65537, 3
SIGN1, ENCRYPT0 = 18, 16
ALG, CONTENT_TYPE, KID, IV, CLAIMS = 1, 3, 4, 5, 15
ISS, AUD, EXP, IAT, CTI = 1, 3, 4, 6, 7
DAY_S, SKEW_S, GRID_S = 86_400, 60, 60
OBJECT_LIFE_S = 400 * DAY_S
ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
_SUITE = hpke.Suite(hpke.KEM.P256, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM)


class BadWire(Exception):
    """What was received is not what the contract says."""


def need(condition: object, what: str) -> None:
    """Raise unless `condition` holds."""
    if not condition:
        raise BadWire(what)


# --- deterministic CBOR (RFC 8949, section 4.2.1) --------------------------------------------------------------------
def head(major: int, number: int) -> bytes:
    """Initial byte and argument, in the shortest form."""
    if number < 24:
        return bytes([major << 5 | number])
    for code, size in ((24, 1), (25, 2), (26, 4), (27, 8)):
        if number < 1 << 8 * size:
            return bytes([major << 5 | code]) + number.to_bytes(size)
    raise BadWire("number is over 64 bits")


def encode(value: Any) -> bytes:
    """The one encoding of a value."""
    if isinstance(value, bool):
        return b"\xf5" if value else b"\xf4"
    if isinstance(value, int):
        return head(0, value) if value >= 0 else head(1, -1 - value)
    if isinstance(value, bytes):
        return head(2, len(value)) + value
    if isinstance(value, str):
        return head(3, len(value.encode())) + value.encode()
    if isinstance(value, list | tuple):
        return head(4, len(value)) + b"".join(encode(item) for item in value)
    if isinstance(value, dict):
        pairs = sorted((encode(key), encode(item)) for key, item in value.items())
        return head(5, len(pairs)) + b"".join(key + item for key, item in pairs)
    raise BadWire(f"{type(value).__name__} does not travel")


def decode(data: bytes) -> Any:
    """The value that exactly these bytes encode."""
    try:
        value = cbor2.loads(data)
        again = encode(value)
    except (cbor2.CBORDecodeError, ValueError) as exc:
        raise BadWire("not CBOR of the allowed types") from exc
    need(again == data, "not the deterministic encoding")
    return value


def sha256(*parts: bytes) -> bytes:
    """SHA-256 of the concatenation."""
    return hashlib.sha256(b"".join(parts)).digest()


def hash_of(value: Any) -> bytes:
    """H(x) of the contract."""
    return sha256(encode(value))


# --- keys ------------------------------------------------------------------------------------------------------------
def point_of(key: ec.EllipticCurvePublicKey) -> bytes:
    """The uncompressed point."""
    return key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)


def public_of(point: bytes) -> ec.EllipticCurvePublicKey:
    """The key of an uncompressed point."""
    return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point)


def thumbprint(point: bytes) -> bytes:
    """RFC 9679: the map of kty, crv, x, y in the order 1, -1, -2, -3."""
    pairs = [(1, 2), (-1, 1), (-2, point[1:33]), (-3, point[33:])]
    return sha256(head(5, 4) + b"".join(encode(label) + encode(value) for label, value in pairs))


@dataclass(frozen=True)
class Key:
    """A private key on P-256, for signing or for HPKE."""

    native: ec.EllipticCurvePrivateKey

    @classmethod
    def new(cls) -> Key:
        return cls(ec.generate_private_key(ec.SECP256R1()))

    @cached_property
    def point(self) -> bytes:
        return point_of(self.native.public_key())

    @cached_property
    def kid(self) -> bytes:
        return thumbprint(self.point)


@dataclass(frozen=True)
class Signer:
    """A name and the key that signs for it."""

    name: str
    key: Key


def es256(key: Key, data: bytes) -> bytes:
    """r | s."""
    r, s = decode_dss_signature(key.native.sign(data, ec.ECDSA(hashes.SHA256())))
    return r.to_bytes(32) + s.to_bytes(32)


def check_es256(point: bytes, signature: bytes, data: bytes) -> None:
    """Raises: BadWire."""
    r, s = int.from_bytes(signature[:32]), int.from_bytes(signature[32:])
    try:
        public_of(point).verify(encode_dss_signature(r, s), data, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature as exc:
        raise BadWire("signature does not verify") from exc


# --- context ---------------------------------------------------------------------------------------------------------
def media_type(name: str) -> str:
    return f"application/vnd.tapveil.{name}+cbor"


def context(name: str, digest: bytes = b"") -> bytes:
    """external_aad."""
    return encode(["tapveil-v1", name, digest])


def envelope_digest(cose: bytes, session: bytes = b"") -> bytes:
    """What a reply names, and what a repeat is known by."""
    return hash_of([cose, session])


# --- COSE_Sign1 ------------------------------------------------------------------------------------------------------
def wallet_time() -> int:
    """Now, on the wallets' grid."""
    now_s = int(time.time())
    return now_s - now_s % GRID_S


def sign(
    signer: Signer, name: str, payload: dict[str, Any] | bytes, *, audience: str, issuer: str | None = None,
    iat: int | None = None, exp: int | None = None, cti: bytes | None = None, kid: bytes | None = None,
    digest: bytes = b"", alg: int = ES256, media: str | None = None, bound_name: str | None = None,
    more_header: dict[int, Any] | None = None, more_claims: dict[int, Any] | None = None,
    unprotected: dict[int, Any] | None = None,
) -> bytes:  # fmt: skip
    """A COSE_Sign1 of a message. What a test wants to be wrong, it names; all else is right."""
    iat = wallet_time() if iat is None else iat
    claims = {
        ISS: signer.name if issuer is None else issuer,
        AUD: audience,
        EXP: iat + 3600 if exp is None else exp,
        IAT: iat,
        CTI: os.urandom(16) if cti is None else cti,
        **(more_claims or {}),
    }
    header = {
        ALG: alg,
        CONTENT_TYPE: media_type(name) if media is None else media,
        KID: signer.key.kid if kid is None else kid,
        CLAIMS: claims,
        **(more_header or {}),
    }
    body = payload if isinstance(payload, bytes) else encode(payload)
    protected = encode(header)
    aad = context(name if bound_name is None else bound_name, digest)
    signature = es256(signer.key, encode(["Signature1", protected, aad, body]))
    return head(6, SIGN1) + encode([protected, unprotected or {}, body, signature])


@dataclass(frozen=True)
class Signed:
    """A verified COSE_Sign1: its payload, its claims, and its bytes."""

    payload: dict[str, Any]
    claims: dict[int, Any]
    wire: bytes

    def __getitem__(self, name: str) -> Any:
        return self.payload[name]


def verify(
    data: bytes, point: bytes, name: str, *, issuer: str, audience: str, digest: bytes = b"", life_s: int = DAY_S
) -> Signed:
    """Everything that section 1 asks a receiver to check of a COSE_Sign1. Raises: BadWire."""
    need(data[:1] == head(6, SIGN1), "not a COSE_Sign1")
    parts = decode(data[1:])
    need(isinstance(parts, list) and len(parts) == 4 and parts[1] == {}, "not four parts with an empty header")
    protected, _, body, signature = parts
    need(all(isinstance(part, bytes) for part in (protected, body, signature)), "parts are not byte strings")
    header = decode(protected)
    need(
        set(header) == {ALG, CONTENT_TYPE, KID, CLAIMS} and header[ALG] == ES256, "header is another than the policy's"
    )
    need(header[CONTENT_TYPE] == media_type(name), f"content type {header[CONTENT_TYPE]}, want {name}")
    need(header[KID] == thumbprint(point), "kid is not the signer's thumbprint")
    need(len(signature) == 64, "signature is not 64 bytes")
    check_es256(point, signature, encode(["Signature1", protected, context(name, digest), body]))
    claims = header[CLAIMS]
    need(set(claims) == {ISS, AUD, EXP, IAT, CTI}, "claims are not exactly iss, aud, exp, iat, cti")
    need((claims[ISS], claims[AUD]) == (issuer, audience), f"from {claims[ISS]} to {claims[AUD]}")
    need(isinstance(claims[CTI], bytes) and len(claims[CTI]) == 16, "cti is not 16 bytes")
    now_s = time.time()
    need(0 < claims[EXP] - claims[IAT] <= life_s, "lifetime is too long, or none")
    need(claims[IAT] <= now_s + SKEW_S and claims[EXP] >= now_s - SKEW_S, "not valid now")
    return Signed(decode(body), claims, data)


# --- COSE_Encrypt0 ---------------------------------------------------------------------------------------------------
def _enc_structure(protected: bytes, name: str, digest: bytes) -> bytes:
    return encode(["Encrypt0", protected, context(name, digest)])


def seal(point: bytes, name: str, plaintext: bytes, digest: bytes = b"") -> bytes:
    """E_X(m): HPKE, with the enc-structure as info."""
    protected = encode({ALG: HPKE_ALG, CONTENT_TYPE: media_type(name)})
    ciphertext = _SUITE.encrypt(plaintext, public_of(point), info=_enc_structure(protected, name, digest))
    return head(6, ENCRYPT0) + encode([protected, {}, ciphertext])


def unseal(key: Key, data: bytes, name: str, digest: bytes = b"") -> bytes:
    """Raises: BadWire."""
    protected, unprotected, ciphertext = _open_encrypt0(data, HPKE_ALG, name)
    need(unprotected == {}, "unprotected header is not empty")
    try:
        return _SUITE.decrypt(ciphertext, key.native, info=_enc_structure(protected, name, digest))
    except InvalidTag as exc:
        raise BadWire("HPKE object does not open") from exc


def encrypt(key: bytes, name: str, plaintext: bytes, digest: bytes = b"") -> bytes:
    """{m}K: ciphertext and tag, with the enc-structure as additional data and the IV in the unprotected header."""
    protected = encode({ALG: A256GCM, CONTENT_TYPE: media_type(name)})
    iv = os.urandom(12)
    ciphertext = AESGCM(key).encrypt(iv, plaintext, _enc_structure(protected, name, digest))
    return head(6, ENCRYPT0) + encode([protected, {IV: iv}, ciphertext])


def decrypt(key: bytes, data: bytes, name: str, digest: bytes = b"") -> bytes:
    """Raises: BadWire."""
    protected, unprotected, ciphertext = _open_encrypt0(data, A256GCM, name)
    need(list(unprotected) == [IV] and len(unprotected[IV]) == 12, "unprotected header is not exactly the IV")
    try:
        return AESGCM(key).decrypt(unprotected[IV], ciphertext, _enc_structure(protected, name, digest))
    except InvalidTag as exc:
        raise BadWire("does not open under the key") from exc


def _open_encrypt0(data: bytes, alg: int, name: str) -> tuple[bytes, dict[int, bytes], bytes]:
    need(data[:1] == head(6, ENCRYPT0), "not a COSE_Encrypt0")
    parts = decode(data[1:])
    need(isinstance(parts, list) and len(parts) == 3 and isinstance(parts[1], dict), "not three parts")
    need(decode(parts[0]) == {ALG: alg, CONTENT_TYPE: media_type(name)}, "header is another than the policy's")
    return parts[0], parts[1], parts[2]


def pack(*parts: bytes) -> bytes:
    """Several objects under one encryption."""
    return encode(list(parts))
