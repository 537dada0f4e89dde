"""Opens captured envelopes with every key of the environment and verifies each signature that is inside.

"Every message signed" is checked here on the bytes that crossed the wire.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from parties.checker.keys import KeyRing
from parties.server.capture import Captured
from protocol import codec, cose
from protocol.crypto import PublicKey
from protocol.envelope import Wire
from protocol.errors import ProtocolError
from protocol.messages.trace import TraceRequest
from protocol.schema import MESSAGES

MAX_BYTES: Final = 16 * 1024 * 1024
_PREFIX, _SUFFIX = "application/vnd.tapveil.", "+cbor"
ONCE: Final = {"release-request": "key", "reference-request": "key", "service-request": "pk_tid"}
"""Messages that are certified by the key they carry: which field holds it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedObject:
    """A COSE_Sign1 found on the wire: what it is, whose key signed it, and whether the signature verified."""

    message: str
    signer: str
    verified: bool
    depth: int
    claims: cose.Claims
    payload: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedExchange:
    """One exchange with all that could be opened in request and reply."""

    captured: Captured
    request: tuple[SignedObject, ...]
    reply: tuple[SignedObject, ...]

    @property
    def signed(self) -> bool:
        """Is the request signed, and the reply too where there is one, and does every signature verify?"""
        sides = [self.request] + ([self.reply] if self.captured.code == "OK" else [])
        return all(side and all(found.verified for found in side) for side in sides)


def open_exchange(captured: Captured, ring: KeyRing) -> OpenedExchange:
    """What is inside one captured exchange."""
    request = tuple(_signed(captured.request, b"", ring))
    reply: tuple[SignedObject, ...] = ()
    if captured.code == "OK":
        reply = tuple(_signed(captured.reply, captured.request.digest, ring))
    return OpenedExchange(captured=captured, request=request, reply=reply)


def _signed(wire: Wire, digest: bytes, ring: KeyRing) -> Iterator[SignedObject]:
    yield from _open(wire.cose, digest, ring, 0)


def _open(data: bytes, digest: bytes, ring: KeyRing, depth: int) -> Iterator[SignedObject]:
    if data[:1] == cose.SIGN1_TAG:
        yield from _verify(data, digest, ring, depth)
    elif data[:1] == cose.ENCRYPT0_TAG:
        plaintext = decrypt_any(data, digest, ring)
        for part in () if plaintext is None else parts_of(plaintext):
            yield from _open(part, digest, ring, depth + 1)


def _verify(data: bytes, digest: bytes, ring: KeyRing, depth: int) -> Iterator[SignedObject]:
    try:
        sign1 = cose.parse_sign1(data, max_bytes=MAX_BYTES)
        payload = codec.decode(sign1.payload, max_bytes=MAX_BYTES)
    except ProtocolError:
        return
    signer, key = _key(sign1, payload, ring)
    verified = key is not None and any(_holds(sign1, key, context) for context in (digest, b""))
    yield SignedObject(
        message=sign1.name, signer=signer, verified=verified, depth=depth, claims=sign1.claims, payload=payload
    )
    if sign1.name.startswith("se-") or sign1.name not in MESSAGES:
        return  # what the wallet carries to and from the SE is judged in the exchange it belongs to
    for name, value in payload.items():
        if type(value) is bytes:  # forwarded objects inside the message
            yield from _open(value, _context(sign1.name, name, payload, digest), ring, depth + 1)


def _context(message: str, name: str, payload: dict[str, Any], digest: bytes) -> bytes:
    """The request that a forwarded object may be the answer to: the message's own, but for a receipt in evidence."""
    if (message, name) == (TraceRequest.NAME, "receipt"):
        return Wire(cose=payload["authorization"]).digest
    return digest


def _key(sign1: cose.Sign1, payload: dict[str, Any], ring: KeyRing) -> tuple[str, PublicKey | None]:
    if sign1.kid in ring.public:
        return ring.public[sign1.kid]
    if sign1.name in ONCE:
        return "once", PublicKey.from_bytes(payload[ONCE[sign1.name]])
    return "unknown", None


def _holds(sign1: cose.Sign1, key: PublicKey, digest: bytes) -> bool:
    try:
        cose.verify(sign1, key, name=sign1.name, request_digest=digest)
    except ProtocolError:
        return False
    return True


def decrypt_any(data: bytes, digest: bytes, ring: KeyRing) -> bytes | None:
    """The plaintext, under whichever key opens it in its context."""
    try:
        protected = codec.decode(codec.decode(data[1:], max_bytes=MAX_BYTES)[0], max_bytes=1024)
        name = protected[3].removeprefix(_PREFIX).removesuffix(_SUFFIX)
    except (ProtocolError, KeyError, TypeError, AttributeError, IndexError):
        return None
    for context in (digest, b"") if digest else (b"",):
        for private in ring.private:
            try:
                return cose.unseal(private, data, name=name, max_bytes=MAX_BYTES, request_digest=context)
            except ProtocolError:
                continue
        for shared in ring.shared:
            try:
                return cose.decrypt(shared, data, name=name, max_bytes=MAX_BYTES, request_digest=context)
            except ProtocolError:
                continue
    return None


def parts_of(plaintext: bytes) -> list[bytes]:
    """A signed or sealed object, or several of them with plain attachments."""
    if plaintext[:1] in (cose.SIGN1_TAG, cose.ENCRYPT0_TAG):
        return [plaintext]
    try:
        parts = codec.decode(plaintext, max_bytes=MAX_BYTES)
    except ProtocolError:
        return []
    return [part for part in parts if type(part) is bytes] if type(parts) is list else []
