"""What every role has: a name, keys, the PKI, and the ways to open what a certified party signed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

from protocol import envelope
from protocol.crypto import PrivateKey
from protocol.engine import Context
from protocol.envelope import Opened, Signer, Stamp, Wire
from protocol.errors import Malformed, UnknownAccount, WrongIssuer, WrongPeer, WrongState
from protocol.pki import Directory, Identity, Use
from protocol.schema import Message
from protocol.types import Role

M = TypeVar("M", bound=Message)


@dataclass(frozen=True, slots=True, kw_only=True)
class PartyKeys:
    """The long-term keys of one institution, each for one use."""

    name: str
    sign: PrivateKey
    seal: PrivateKey

    @property
    def signer(self) -> Signer:
        """Name and signing key."""
        return Signer(name=self.name, key=self.sign)


def alone(wire: Wire) -> bytes:
    """The COSE object of an envelope that belongs to no session.

    A handle is under no signature, so one that says nothing would only make other bytes of the same request.
    Raises: Malformed.
    """
    if wire.session:
        raise Malformed("this call takes no session")
    return wire.cose


def open_certified(
    kind: type[M], data: bytes, directory: Directory, *, role: Role, audience: str, ctx: Context
) -> tuple[Opened[M], Identity]:
    """Open what a party with a certificate for `role` signed; the PKI, not the message, gives the key.

    Raises: UnknownKey, WrongIssuer (another role), and what `envelope.believe` raises.
    """
    sign1 = envelope.peek(kind, data)
    identity = directory.by_thumbprint(sign1.kid)
    if identity.role is not role:
        raise WrongIssuer(f"a {identity.role} signed, a {role} is expected")
    opened = envelope.believe(kind, sign1, identity.key, issuer=identity.name, audience=audience, now_s=ctx.now_s)
    return opened, identity


def expect_peer(ctx: Context, name: str, *roles: Role) -> None:
    """The transport's identity must be the signer's, in one of these roles. Raises: WrongPeer."""
    if ctx.peer is None or ctx.peer.name != name or ctx.peer.role not in roles:
        raise WrongPeer


def expect_state(state: str, *expected: str) -> None:
    """A (state, message) pair that is not in the role's table is refused. Raises: WrongState."""
    if state not in expected:
        raise WrongState(f"state is {state}")


def known_party(directory: Directory, name: str, role: Role) -> Identity:
    """The party of that name, if it has that role. Raises: UnknownAccount, UnknownKey."""
    identity = directory.named(name, Use.SIGN)
    if identity.role is not role:
        raise UnknownAccount(f"{role} expected")
    return identity


__all__ = ["PartyKeys", "Signer", "Stamp", "alone", "expect_peer", "expect_state", "known_party", "open_certified"]
