"""A request that is made but not sent: a test sends it as it is, or with one thing wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from conformance.bundle import Tested
from conformance.payloads import PAYLOADS
from conformance.wire import Key, Signed, Signer, decrypt, envelope_digest, sign, unseal, verify

R = TypeVar("R")
Open = Callable[[bytes, bytes], R]
"""Opens a reply: its `cose`, and the digest of the request."""


class Post(Protocol):
    """A way to one party: `calls.Connection` over gRPC, `bridge.Line` to parties of ours in one process."""

    def call(self, rpc: str, cose: bytes, session: bytes = b"", /) -> bytes:
        """The reply's `cose`. Raises: Refusal."""


def as_it_is(signed: bytes) -> bytes:
    """Form S."""
    return signed


@dataclass(frozen=True)
class Draft(Generic[R]):
    """One request: what is signed, by whom, how it is wrapped, and how its reply is opened."""

    rpc: str
    to: Post
    audience: str
    signer: Signer
    name: str
    payload: dict[str, Any]
    open: Open[R]
    wrap: Callable[[bytes], bytes] = as_it_is
    session: bytes = b""

    def signed(self, *, fields: dict[str, Any] | None = None, payload: Any = None, **changes: Any) -> bytes:
        """The COSE_Sign1. `fields` replace fields of the payload, `payload` all of it; the rest is `wire.sign`'s."""
        body = {**self.payload, **(fields or {})} if payload is None else payload
        arguments = {"audience": self.audience, "name": self.name, "signer": self.signer, **changes}
        return sign(arguments.pop("signer"), arguments.pop("name"), body, **arguments)

    def cose(self, **changes: Any) -> bytes:
        """The request's `cose`."""
        return self.wrap(self.signed(**changes))

    def post(self, cose: bytes, session: bytes | None = None) -> R:
        """Send these bytes. Raises: Refusal; BadWire if the reply is not as the contract says."""
        handle = self.session if session is None else session
        return self.open(self.to.call(self.rpc, cose, handle), envelope_digest(cose, handle))

    def send(self, **changes: Any) -> R:
        """Make, send, and open the reply."""
        return self.post(self.cose(**changes))


def checked(signed: Signed, name: str) -> Signed:
    """The payload has exactly the fields of `name`. Raises: BadWire."""
    PAYLOADS[name](signed.payload)
    return signed


def signed_reply(party: Tested, name: str, audience: str) -> Open[Signed]:
    """Form S."""

    def open_reply(cose: bytes, digest: bytes) -> Signed:
        return checked(verify(cose, party.sign, name, issuer=party.name, audience=audience, digest=digest), name)

    return open_reply


def sealed_reply(party: Tested, name: str, audience: str, key: Key) -> Open[Signed]:
    """Form E(S)."""
    inner = signed_reply(party, name, audience)
    return lambda cose, digest: inner(unseal(key, cose, name, digest), digest)


def keyed_reply(party: Tested, name: str, audience: str, key: bytes) -> Open[Signed]:
    """Form {S}K."""
    inner = signed_reply(party, name, audience)
    return lambda cose, digest: inner(decrypt(key, cose, name, digest), digest)
