"""Messages as they travel: sign inside, encrypt outside (design §2).

`Wire` is the envelope as received; `Opened[M]` is a message whose signature, context and claims were all checked.
Steps take only the latter, so nothing unverified can reach them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

from protocol import codec, cose
from protocol.crypto import PrivateKey, PublicKey, sha256
from protocol.errors import Malformed, Oversize
from protocol.ports import Entropy
from protocol.schema import Message
from protocol.types import MAX_LIFETIME_S

M = TypeVar("M", bound=Message)

OVERHEAD_BYTES: Final = 1024
"""Room for COSE headers, tags and signatures around a payload, per layer."""
REQUEST_LIFETIME_S: Final = 3600
REPLY_LIFETIME_S: Final = 3600
OBJECT_LIFETIME_S: Final = 400 * 24 * 3600
"""Bound on the life of objects that outlive their message: certificates and promises."""
_PAIR: Final = codec.array_head(2)
WALLET_TIME_GRID_S: Final = 60
"""A wallet rounds `iat` down to this grid, so that its clock's offset does not tell phones apart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wire:
    """An unopened envelope: a COSE object, and the handle by which the receiver finds the session's key."""

    cose: bytes
    session: bytes = b""

    @property
    def digest(self) -> bytes:
        """SHA-256 that replies are bound to and that repeats are recognized by."""
        return sha256(_PAIR, codec.byte_string(self.cose), codec.byte_string(self.session))


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened(Generic[M]):
    """A message that was verified under `key` in its context, with its claims checked."""

    message: M
    claims: cose.Claims
    key: PublicKey
    wire: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Signer:
    """A name and the key that signs for it."""

    name: str
    key: PrivateKey


@dataclass(frozen=True, slots=True, kw_only=True)
class Stamp:
    """Time and nonce of a message. A stored stamp makes the very same signature again."""

    issued_at_s: int
    nonce: bytes
    encoded: tuple[object, bytes] | None = field(default=None, repr=False, compare=False)
    """A message with its encoding, where it was just made to be stored: the very same object is not encoded again."""

    def payload_of(self, message: Message) -> bytes:
        """The message's encoding."""
        if self.encoded is not None and self.encoded[0] is message:
            return self.encoded[1]
        return message.to_bytes()

    @classmethod
    def fresh(cls, now_s: int, entropy: Entropy) -> Stamp:
        """Now, with a new nonce."""
        return cls(issued_at_s=now_s, nonce=entropy.bytes(cose.CTI_BYTES))

    @classmethod
    def wallet(cls, now_s: int, entropy: Entropy) -> Stamp:
        """As `fresh`, on the coarse grid that wallets use."""
        return cls.fresh(now_s - now_s % WALLET_TIME_GRID_S, entropy)

    def derive(self, label: str) -> Stamp:
        """The stamp of an object inside the message that has this stamp."""
        return Stamp(issued_at_s=self.issued_at_s, nonce=sha256(self.nonce, label.encode())[: cose.CTI_BYTES])


def sign(
    signer: Signer,
    message: Message,
    *,
    audience: str,
    stamp: Stamp,
    lifetime_s: int = REQUEST_LIFETIME_S,
    request_digest: bytes = b"",
) -> bytes:
    """COSE_Sign1 of a message. A reply names the digest of its request; requests and forwarded objects do not."""
    claims = cose.Claims(
        issuer=signer.name,
        audience=audience,
        issued_at_s=stamp.issued_at_s,
        expires_at_s=stamp.issued_at_s + lifetime_s,
        nonce=stamp.nonce,
    )
    return cose.sign(
        signer.key, name=message.NAME, claims=claims, payload=stamp.payload_of(message), request_digest=request_digest
    )


def peek(kind: type[Message], data: bytes) -> cose.Sign1:
    """Parse without believing, to learn which key is claimed. Raises: Oversize, Malformed, WrongMessage."""
    return cose.parse_sign1(data, max_bytes=kind.MAX_BYTES + OVERHEAD_BYTES)


def believe(
    kind: type[M],
    sign1: cose.Sign1,
    key: PublicKey,
    *,
    issuer: str,
    audience: str,
    now_s: int,
    request_digest: bytes = b"",
    max_lifetime_s: int = MAX_LIFETIME_S,
) -> Opened[M]:
    """Verify under the receiver's choice of key and context, then parse the payload.

    Raises: WrongMessage, SignatureInvalid, the errors of `Claims.check`, Malformed, Oversize.
    """
    verified = cose.verify(sign1, key, name=kind.NAME, request_digest=request_digest)
    verified.claims.check(issuer=issuer, audience=audience, now_s=now_s, max_lifetime_s=max_lifetime_s)
    message = kind.from_bytes(verified.payload)
    return Opened(message=message, claims=verified.claims, key=key, wire=verified.wire)


def open_signed(
    kind: type[M],
    data: bytes,
    key: PublicKey,
    *,
    issuer: str,
    audience: str,
    now_s: int,
    request_digest: bytes = b"",
    max_lifetime_s: int = MAX_LIFETIME_S,
) -> Opened[M]:
    """`peek` and `believe` where the key is known beforehand."""
    return believe(
        kind,
        peek(kind, data),
        key,
        issuer=issuer,
        audience=audience,
        now_s=now_s,
        request_digest=request_digest,
        max_lifetime_s=max_lifetime_s,
    )


def pack(parts: list[bytes]) -> bytes:
    """Several objects under one encryption (AID-3, AID-4, CARD-3): a CBOR array of byte strings."""
    return codec.encode(parts)


def unpack(data: bytes, *, low: int, high: int, max_bytes: int) -> list[bytes]:
    """Raises: Malformed if this is not `low` … `high` byte strings; Oversize."""
    parts = codec.decode(data, max_bytes=max_bytes)
    if type(parts) is not list or any(type(part) is not bytes for part in parts) or len(parts) < low:
        raise Malformed("not a list of objects")
    if len(parts) > high:
        raise Oversize(f"{len(parts)} objects, at most {high}")
    return parts
