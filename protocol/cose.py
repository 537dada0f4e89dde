"""COSE_Sign1 and COSE_Encrypt0 (RFC 9052) with CWT claims in the header (RFC 9597), bound to their context.

Every signature covers message name, issuer, audience, times, nonce, and — for a reply — the digest of the request.
A `Sign1` is parsed but not believed; only `verify` turns it into a `Verified`.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import lru_cache
from operator import itemgetter
from typing import Any, Final

from protocol import codec
from protocol.crypto import IV_BYTES, P256, PrivateKey, PublicKey
from protocol.errors import (
    Expired,
    LifetimeTooLong,
    Malformed,
    NotYetValid,
    WrongAudience,
    WrongIssuer,
    WrongMessage,
)
from protocol.ports import Entropy
from protocol.types import MAX_LIFETIME_S, MAX_SKEW_S

SIGN1_TAG: Final = b"\xd2"  # tag 18
ENCRYPT0_TAG: Final = b"\xd0"  # tag 16
_SIGN1_KINDS: Final[list[type]] = [bytes, dict, bytes, bytes]
_ENCRYPT0_KINDS: Final[list[type]] = [bytes, dict, bytes]
"""The parts of either: protected header, unprotected header, content; and the signature."""
CTI_BYTES: Final = 16
MAX_IDENTIFIER: Final = 64
_ALG, _CONTENT_TYPE, _KID, _IV, _CLAIMS = 1, 3, 4, 5, 15
_ISS, _AUD, _EXP, _IAT, _CTI = 1, 3, 4, 6, 7
_LABELS: Final = (_ISS, _AUD, _EXP, _IAT, _CTI)
_AT_EXP, _AT_IAT, _AT_CTI = (codec.encode(label) for label in _LABELS[2:])
_LABEL_SET: Final = frozenset(_LABELS)
_claims_of: Final = itemgetter(*_LABELS)
_TAIL: Final = struct.Struct(f">2sI2sI2s{CTI_BYTES}s")
"""How a header ends: exp and iat as numbers of four bytes, cti; each behind its label and the head of its value."""
_TAIL_BYTES: Final = _TAIL.size
_TAIL_HEADS: Final = (_AT_EXP + b"\x1a", _AT_IAT + b"\x1a", _AT_CTI + codec.byte_string(bytes(CTI_BYTES))[:1])
_LONG_FORM: Final = 1 << 16
"""Lower numbers have a shorter form."""
_SIGNATURE1: Final = b"\x84" + codec.encode("Signature1")
"""How the signed array of four begins (RFC 9052 §4.4)."""
_MAX_TIME: Final = 1 << 40
_MAX_HEADER: Final = 1024
_PREFIX, _SUFFIX = "application/vnd.tapveil.", "+cbor"


@dataclass(frozen=True, slots=True, kw_only=True)
class Claims:
    """CWT claims of a message. Times are Unix seconds."""

    issuer: str
    audience: str
    issued_at_s: int
    expires_at_s: int
    nonce: bytes

    def plain(self) -> dict[int, Any]:
        """The CWT claim set."""
        values = (self.issuer, self.audience, self.expires_at_s, self.issued_at_s, self.nonce)
        return dict(zip(_LABELS, values, strict=True))

    @classmethod
    def parse(cls, plain: Any) -> Claims:
        """Raises: Malformed."""
        if type(plain) is not dict or plain.keys() != _LABEL_SET:
            raise Malformed("claims are not exactly iss, aud, exp, iat, cti")
        issuer, audience, expires_at_s, issued_at_s, nonce = _claims_of(plain)
        if not (type(issuer) is str is type(audience) and max(len(issuer), len(audience)) <= MAX_IDENTIFIER):
            raise Malformed("iss or aud is not an identifier")
        if not (type(expires_at_s) is int is type(issued_at_s)):
            raise Malformed("exp or iat is not a time")
        if not (0 <= expires_at_s < _MAX_TIME and 0 <= issued_at_s < _MAX_TIME):
            raise Malformed("exp or iat is not a time")
        if type(nonce) is not bytes or len(nonce) != CTI_BYTES:
            raise Malformed("cti is not 16 bytes")
        return cls(
            issuer=issuer, audience=audience, issued_at_s=issued_at_s, expires_at_s=expires_at_s, nonce=nonce
        )  # fmt: skip

    def check(self, *, issuer: str, audience: str, now_s: int, max_lifetime_s: int = MAX_LIFETIME_S) -> None:
        """Raises: WrongIssuer, WrongAudience, LifetimeTooLong, NotYetValid, Expired."""
        if self.issuer != issuer:
            raise WrongIssuer
        if self.audience != audience:
            raise WrongAudience
        if not 0 < self.expires_at_s - self.issued_at_s <= max_lifetime_s:
            raise LifetimeTooLong
        if self.issued_at_s > now_s + MAX_SKEW_S:
            raise NotYetValid
        if self.expires_at_s < now_s - MAX_SKEW_S:
            raise Expired


@dataclass(frozen=True, slots=True, kw_only=True)
class Sign1:
    """A COSE_Sign1 that parsed; nothing in it is believed yet. `wire` is what was received."""

    name: str
    kid: bytes
    claims: Claims
    payload: bytes
    protected: bytes
    signature: bytes
    wire: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """A Sign1 whose signature verified under `key`, in its context. Claims are signed but not yet checked."""

    claims: Claims
    payload: bytes
    key: PublicKey
    wire: bytes


def _context(name: str, request_digest: bytes) -> bytes:
    return _context_start(name) + codec.byte_string(request_digest)


@lru_cache(maxsize=256)
def _context_start(name: str) -> bytes:
    """The array of protocol, message and request up to its last item."""
    return codec.array_head(3) + codec.text("tapveil-v1") + codec.text(name)


def content_type(name: str) -> str:
    """The media type of message `name`."""
    return f"{_PREFIX}{name}{_SUFFIX}"


def sign(key: PrivateKey, *, name: str, claims: Claims, payload: bytes, request_digest: bytes = b"") -> bytes:
    """COSE_Sign1 over `payload`. `request_digest` is empty for requests and forwarded objects."""
    protected = _protected(name, key.public.thumbprint, claims)
    signature = P256.sign(key, _to_be_signed(protected, _context(name, request_digest), payload))
    return _sign1(protected, payload, signature)


def _sign1(protected: bytes, payload: bytes, signature: bytes) -> bytes:
    """The tagged array, its unprotected header empty. (cbor2 takes three times as long over the empty map.)"""
    head, between = SIGN1_TAG + b"\x84", b"\xa0"
    parts = (head, codec.byte_string(protected), between, codec.byte_string(payload), codec.byte_string(signature))
    return b"".join(parts)


def _protected(name: str, kid: bytes, claims: Claims) -> bytes:
    """The protected header of a COSE_Sign1: what each request of one sender has alike is encoded once."""
    return b"".join((
        _names(name, kid, claims.issuer, claims.audience),
        _AT_EXP, codec.encode(claims.expires_at_s), _AT_IAT, codec.encode(claims.issued_at_s),
        _AT_CTI, codec.byte_string(claims.nonce),
    ))  # fmt: skip


@lru_cache(maxsize=1024)
def _names(name: str, kid: bytes, issuer: str, audience: str) -> bytes:
    """The header up to the audience. Labels ascend, so the claims stand last in it, and the times last in them."""
    header = codec.encode({_ALG: P256.signature_alg, _CONTENT_TYPE: content_type(name), _KID: kid, _CLAIMS: 0})
    claims = Claims(issuer=issuer, audience=audience, issued_at_s=0, expires_at_s=0, nonce=b"").plain()
    return header[:-1] + codec.encode(claims)[:-6]  # three labels, each with a value of one byte


def parse_sign1(data: bytes, *, max_bytes: int) -> Sign1:
    """Raises: Oversize, Malformed, WrongMessage (another tag or content type scheme)."""
    protected, unprotected, payload, signature = _parts(data, SIGN1_TAG, _SIGN1_KINDS, max_bytes)
    if unprotected != {}:
        raise Malformed("unprotected header is not empty")
    if _sign1(protected, payload, signature) != data:
        raise Malformed("not the deterministic encoding")
    name, kid, claims = _header_parts(protected)
    return Sign1(
        name=name,
        kid=kid,
        claims=claims,
        payload=payload,
        protected=protected,
        signature=signature,
        wire=data,
    )


def _header_parts(protected: bytes) -> tuple[str, bytes, Claims]:
    """Message name, `kid` and claims of a protected header. Raises: Malformed, WrongMessage, Oversize.

    A sender's headers to one receiver differ in their last bytes only, times and nonce, as every encoder must put them.
    What stands before is looked at once. A header that ends otherwise is looked at whole.
    """
    at = len(protected) - _TAIL_BYTES
    at_exp, until, at_iat, since, at_cti, nonce = _TAIL.unpack(protected[at:] if at > 0 else bytes(_TAIL_BYTES))
    if (at_exp, at_iat, at_cti) != _TAIL_HEADS or until < _LONG_FORM or since < _LONG_FORM:
        return _whole_header(protected)
    name, kid, issuer, audience = _names_in(protected[:at])
    return name, kid, Claims(issuer=issuer, audience=audience, issued_at_s=since, expires_at_s=until, nonce=nonce)


@lru_cache(maxsize=1024)
def _names_in(start: bytes) -> tuple[str, bytes, str, str]:
    """Message name, `kid`, issuer and audience of headers that begin so, each followed by times and a nonce."""
    tail = _TAIL.pack(_TAIL_HEADS[0], _LONG_FORM, _TAIL_HEADS[1], _LONG_FORM, _TAIL_HEADS[2], bytes(CTI_BYTES))
    name, kid, claims = _whole_header(start + tail)
    return name, kid, claims.issuer, claims.audience


def _whole_header(protected: bytes) -> tuple[str, bytes, Claims]:
    header = _labeled(codec.read(protected, max_bytes=_MAX_HEADER), {_ALG, _CONTENT_TYPE, _KID, _CLAIMS})
    name, kid = _name(header[_CONTENT_TYPE]), header[_KID]
    if type(kid) is not bytes:
        raise Malformed("kid is not a byte string")
    claims = Claims.parse(header[_CLAIMS])
    if _protected(name, kid, claims) != protected:  # which is strict: no other header says the same
        raise Malformed("alg is not the suite's, or the header is not in the deterministic encoding")
    return name, kid, claims


def verify(sign1: Sign1, key: PublicKey, *, name: str, request_digest: bytes = b"") -> Verified:
    """The same object, believed. Key, name and context are the receiver's, never the message's.

    Raises: WrongMessage, SignatureInvalid, Malformed (its `kid` names another key).
    """
    if sign1.name != name:
        raise WrongMessage(f"got {sign1.name}, want {name}")
    data = _to_be_signed(sign1.protected, _context(name, request_digest), sign1.payload)
    P256.verify(key, sign1.signature, data)
    if sign1.kid != key.thumbprint:
        raise Malformed("kid is not the thumbprint of the signing key")
    return Verified(claims=sign1.claims, payload=sign1.payload, key=key, wire=sign1.wire)


def seal(key: PublicKey, *, name: str, plaintext: bytes, request_digest: bytes = b"") -> bytes:
    """COSE_Encrypt0 by HPKE to `key`; the context goes into HPKE's `info`."""
    protected = codec.encode({_ALG: P256.sealing_alg, _CONTENT_TYPE: content_type(name)})
    ciphertext = P256.seal(key, plaintext, _encryption_context(protected, name, request_digest))
    return ENCRYPT0_TAG + codec.encode([protected, {}, ciphertext])


def unseal(key: PrivateKey, data: bytes, *, name: str, max_bytes: int, request_digest: bytes = b"") -> bytes:
    """Raises: Oversize, Malformed, WrongMessage, DecryptionFailed."""
    protected, unprotected, ciphertext = _parse_encrypt0(data, P256.sealing_alg, name, max_bytes)
    if unprotected != {}:
        raise Malformed("unprotected header is not empty")
    return P256.unseal(key, ciphertext, _encryption_context(protected, name, request_digest))


def encrypt(key: bytes, entropy: Entropy, *, name: str, plaintext: bytes, request_digest: bytes = b"") -> bytes:
    """COSE_Encrypt0 under the shared `key` (32 bytes), with a random 12-byte IV in its unprotected header."""
    protected = codec.encode({_ALG: P256.aead_alg, _CONTENT_TYPE: content_type(name)})
    sealed = P256.encrypt(key, plaintext, _encryption_context(protected, name, request_digest), entropy)
    return ENCRYPT0_TAG + codec.encode([protected, {_IV: sealed[:IV_BYTES]}, sealed[IV_BYTES:]])


def decrypt(key: bytes, data: bytes, *, name: str, max_bytes: int, request_digest: bytes = b"") -> bytes:
    """Raises: Oversize, Malformed, WrongMessage, DecryptionFailed."""
    protected, unprotected, ciphertext = _parse_encrypt0(data, P256.aead_alg, name, max_bytes)
    if type(unprotected) is not dict or unprotected.keys() != {_IV}:
        raise Malformed("unprotected header is not exactly the IV")
    iv = unprotected[_IV]
    if type(iv) is not bytes or len(iv) != IV_BYTES:
        raise Malformed("IV is not 12 bytes")
    return P256.decrypt(key, iv + ciphertext, _encryption_context(protected, name, request_digest))


def _to_be_signed(protected: bytes, external_aad: bytes, payload: bytes) -> bytes:
    parts = (_SIGNATURE1, codec.byte_string(protected), codec.byte_string(external_aad), codec.byte_string(payload))
    return b"".join(parts)


def _encryption_context(protected: bytes, name: str, request_digest: bytes) -> bytes:
    return codec.encode(["Encrypt0", protected, _context(name, request_digest)])  # RFC 9052 §5.3


def _parse_encrypt0(data: bytes, alg: int, name: str, max_bytes: int) -> tuple[bytes, Any, bytes]:
    protected, unprotected, ciphertext = _parse(data, ENCRYPT0_TAG, _ENCRYPT0_KINDS, max_bytes)
    header = _header(protected, {_ALG, _CONTENT_TYPE})
    if _name(header[_CONTENT_TYPE]) != name:
        raise WrongMessage(f"sealed as another message than {name}")
    if header[_ALG] != alg:
        raise Malformed("alg is not the policy's")
    return protected, unprotected, ciphertext


def _parse(data: bytes, tag: bytes, kinds: list[type], max_bytes: int) -> list[Any]:
    parts = _parts(data, tag, kinds, max_bytes)
    if codec.encode(parts) != data[1:]:
        raise Malformed("not the deterministic encoding")
    return parts


def _parts(data: bytes, tag: bytes, kinds: list[type], max_bytes: int) -> list[Any]:
    """The parts of a tagged COSE array: byte strings, but for the unprotected header in second place."""
    if data[:1] != tag:
        raise WrongMessage("not the COSE form this call takes")
    parts = codec.read(data[1:], max_bytes=max_bytes)
    if type(parts) is not list or len(parts) != len(kinds):
        raise Malformed("not a COSE array of this form")
    if [*map(type, parts)] != kinds:
        raise Malformed("COSE parts are not byte strings")
    return parts


def _header(protected: bytes, labels: set[int]) -> dict[int, Any]:
    return _labeled(codec.decode(protected, max_bytes=_MAX_HEADER), labels)


def _labeled(header: Any, labels: set[int]) -> dict[int, Any]:
    if type(header) is not dict or header.keys() != labels:
        raise Malformed("protected header has other labels than the policy's")
    return header


def _name(media_type: Any) -> str:
    if type(media_type) is not str:
        raise WrongMessage("content type is not of this protocol")
    return _name_in(media_type)


@lru_cache(maxsize=256)
def _name_in(media_type: str) -> str:
    if not (media_type.startswith(_PREFIX) and media_type.endswith(_SUFFIX)):
        raise WrongMessage("content type is not of this protocol")
    return media_type[len(_PREFIX) : -len(_SUFFIX)]
