"""How the wallet talks: flows that yield calls. Who runs them (sockets, a test, a simulator) they do not know.

A flow is a generator that yields a `Call` and is sent an `Exchanged`. A driver that stores each request before
sending it can start a flow again after a crash and answer the finished calls from its journal; so a flow reads what
was really sent from `Exchanged.sent`, never from the call it made.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Final, TypeAlias, TypeVar

from protocol import envelope
from protocol.crypto import PrivateKey, PublicKey
from protocol.envelope import Signer, Stamp, Wire
from protocol.pki import Directory
from protocol.ports import Clock, Entropy
from protocol.schema import Message

M = TypeVar("M", bound=Message)
N = TypeVar("N", bound=Message)
T = TypeVar("T")
SECURE_ELEMENT: Final = "se"


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """Send `wire` to `peer` (a party's name, or `se` for the phone's own SE)."""

    peer: str
    rpc: str
    wire: Wire


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchanged:
    """What was really sent, and what came back."""

    sent: Wire
    reply: Wire


Flow: TypeAlias = Generator[Call, Exchanged, T]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wallet:
    """The app in the phone: it commands the SE with its wallet key and carries sealed messages."""

    secure_element: str
    secure_element_key: PublicKey
    key: PrivateKey
    directory: Directory
    clock: Clock
    entropy: Entropy

    @property
    def signer(self) -> Signer:
        """The wallet key, enrolled from the TEE, speaks for the phone of this SE."""
        return Signer(name=self.secure_element, key=self.key)

    def stamp(self) -> Stamp:
        """A stamp on the wallet's coarse time grid."""
        return Stamp.wallet(self.clock.now_s(), self.entropy)

    def command(self, rpc: str, message: Message, reply: type[M]) -> Flow[M]:
        """One typed command to the SE, and its verified answer."""
        _, answer = yield from self.exchange(rpc, message, reply)
        return answer

    def exchange(self, rpc: str, message: N, reply: type[M]) -> Flow[tuple[N, M]]:
        """One typed command as it was really sent, and its verified answer."""
        exchanged = yield from self.ask(rpc, message)
        sent = type(message).from_bytes(envelope.peek(type(message), exchanged.sent.cose).payload)
        return sent, self.answer(exchanged, reply)

    def ask(self, rpc: str, message: Message) -> Flow[Exchanged]:
        """One typed command to the SE, and what came back; nothing of it is believed yet."""
        signed = envelope.sign(self.signer, message, audience=self.secure_element, stamp=self.stamp())
        return (yield Call(peer=SECURE_ELEMENT, rpc=f"SecureElement.{rpc}", wire=Wire(cose=signed)))

    def answer(self, exchanged: Exchanged, reply: type[M]) -> M:
        """The SE's verified answer to what was sent. Raises: as `envelope.open_signed`."""
        return envelope.open_signed(
            reply, exchanged.reply.cose, self.secure_element_key, issuer=self.secure_element,
            audience=self.secure_element, now_s=self.clock.now_s(), request_digest=exchanged.sent.digest,
        ).message  # fmt: skip
