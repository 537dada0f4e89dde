"""The secure element as a value, and what all its commands share: the one wallet key it obeys."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, Protocol, TypeVar, cast

from protocol import envelope
from protocol.card.oda import CaKey
from protocol.card.rsa import PrivateKey as CardPrivateKey
from protocol.crypto import PrivateKey, PublicKey
from protocol.engine import REQUESTS, Context, F, Incoming, StatelessStep, Step
from protocol.envelope import Opened, Signer, Stamp, Wire
from protocol.errors import PaymentClosed, UnknownAccount
from protocol.messages.attest import Challenge, Evidence
from protocol.messages.se import MAX_CARRIED
from protocol.pki import Directory, Identity
from protocol.ports import Entropy
from protocol.roles.party import alone, expect_state, known_party
from protocol.roles.se.tables import OWNERS, Owner
from protocol.roles.se.working import WorkingMemory
from protocol.rows import Key, Rows
from protocol.schema import Message
from protocol.types import Purpose, Role

M = TypeVar("M", bound=Message)
C = TypeVar("C", bound=Message)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What the trusted platform measured: PCR 10 (SHA-256), and the application's digest if one is installed."""

    pcr10: bytes
    software_digest: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Quoted:
    """Evidence over a fresh measurement, with what was measured."""

    evidence: Evidence
    measured: Measured


class TrustedPlatform(Protocol):
    """The MTM and its agents (paper §2.3): it reads what it measures itself and signs no value of others' choice."""

    @property
    def attestation_key(self) -> PublicKey:
        """The key that signs quotes and nothing else."""

    @property
    def attestation_certificate(self) -> bytes:
        """X.509 (DER): names the trust class."""

    def measure(self) -> Measured:
        """Start the application engine anew: measure the platform, then the application at its fixed place."""

    def quote(
        self, *, purpose: Purpose, bank: str, user: str, software: str, n_am: bytes, n_b: bytes, requested_key: bytes
    ) -> Quoted:
        """Measure, then quote over H(purpose, ID_B, ID_U, software id, N_AM, N_B, PK_req)."""


class CardKeySource(Protocol):
    """Where card keys come from: made ahead of need, since making one takes tens of milliseconds."""

    def take(self, number: int) -> tuple[CardPrivateKey, ...]:
        """`number` fresh RSA-1408 keys, each given out once."""


class PinHash(Protocol):
    """Slow hashes of PINs (Argon2id)."""

    def hash(self, pin: str) -> bytes:
        """To be stored; salted."""

    def matches(self, stored: bytes, pin: str) -> bool:
        """In constant time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SecureElement:
    """One SE: its name and key, the wallet key it obeys, and the CA certificate (DER) it trusts."""

    name: str
    key: PrivateKey
    wallet_key: PublicKey
    root: bytes
    directory: Directory
    platform: TrustedPlatform
    card_keys: CardKeySource
    pins: PinHash
    emv_ca: tuple[CaKey, ...]
    """The EMV certification authorities whose cards this SE takes."""
    working: WorkingMemory = field(default_factory=WorkingMemory)

    @property
    def signer(self) -> Signer:
        """ID_SE and SK_SE."""
        return Signer(name=self.name, key=self.key)

    def command(self, kind: type[M], wire: Wire, ctx: Context) -> Opened[M]:
        """A typed command, if the enrolled wallet key signed it. Raises what `envelope.open_signed` raises."""
        return envelope.open_signed(
            kind, alone(wire), self.wallet_key, issuer=self.name, audience=self.name, now_s=ctx.now_s
        )

    def bank(self, name: str) -> Identity:
        """The certified bank of that name."""
        return known_party(self.directory, name, Role.BANK)

    def tsm(self, name: str) -> Identity:
        """The certified TSM of that name."""
        return known_party(self.directory, name, Role.TSM)

    def challenge(self, data: bytes, asked: bytes, bank: Identity, now_s: int) -> bytes:
        """N_B, as the bank signed it for this phone's request `asked`."""
        opened = envelope.open_signed(
            Challenge, data, bank.key, issuer=bank.name, audience=self.name, now_s=now_s, request_digest=asked
        )
        return opened.message.n_b


class _Commanded(Generic[C, F]):
    """What commands share: opened under the wallet key; every reply is signed with SK_SE, for the wallet only."""

    command: ClassVar[type[Message]]

    def __init__(self, se: SecureElement) -> None:
        self._se = se

    @abstractmethod
    def look(self, command: C, ctx: Context) -> F:
        """What the command is about: the rows it names, and the peer's answer that it brings, opened."""

    def seal(self, facts: Any, reply: Message, stamp: Stamp, ctx: Context) -> Wire:
        signed = envelope.sign(self._se.signer, reply, audience=self._se.name, stamp=stamp, request_digest=ctx.digest)
        return Wire(cose=signed)


class SeStep(_Commanded[C, F], Step[F]):
    """A command that changes what the SE keeps."""

    max_bytes = MAX_CARRIED + 8192

    def open(self, wire: Wire, ctx: Context) -> Incoming[F]:
        """The wallet's commands are no evidence: only the claims are kept, by which a repeat is recognized.

        A repeat is answered from its record. What it was about has moved on, by its own effect, and is not looked at.
        """
        opened = self._se.command(self.command, wire, ctx)
        repeat = ctx.read(Key(REQUESTS, (ctx.digest,))).get(REQUESTS, ctx.digest) is not None
        facts: Any = None if repeat else self.look(cast("C", opened.message), ctx)
        return Incoming(facts=facts, key=opened.key, claims=opened.claims)


class SeQuery(_Commanded[C, F], StatelessStep[F]):
    """A command that changes nothing."""

    def open(self, wire: Wire, ctx: Context) -> Incoming[F]:
        opened = self._se.command(self.command, wire, ctx)
        return Incoming(facts=self.look(cast("C", opened.message), ctx), key=opened.key, claims=opened.claims)


def owner_of(ctx: Context, bank: str) -> Owner:
    """The user as this bank knows them. Raises: UnknownAccount."""
    row = ctx.read(Key(OWNERS, (bank,))).get(OWNERS, bank)
    if row is None:
        raise UnknownAccount
    return row


def expect_open(rows: Rows, bank: str) -> None:
    """Nothing is signed for payment until the last launch was good, by the bank and by the SE's own copy of the PCR.

    Raises: PaymentClosed, WrongState.
    """
    owner = rows.get(OWNERS, bank)
    assert owner is not None
    expect_state(owner.state, "ENROLLED")
    if not owner.open:
        raise PaymentClosed


def fresh(ctx: Context) -> Stamp:
    """A stamp for what leaves the phone: on the wallet's coarse time grid."""
    return Stamp.wallet(ctx.now_s, ctx.entropy)


def nonce(entropy: Entropy) -> bytes:
    """32 random bytes."""
    return entropy.bytes(32)
