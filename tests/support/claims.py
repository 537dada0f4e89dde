"""Claims in a world: the TSM's desk that makes and sends them, and claims of an attacker's own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from support.world import World

from protocol import cose, envelope
from protocol.engine import Peer
from protocol.envelope import Stamp, Wire
from protocol.errors import ProtocolError, Unavailable
from protocol.messages.claim import Claim, ClaimAccepted
from protocol.pki import Use
from protocol.roles.bank.tables import GRANTS, Grant
from protocol.roles.tsm.claims import claims_under_way, due_claims, make_claim, send_claim
from protocol.roles.tsm.party import Tsm
from protocol.roles.tsm.tables import CLAIMS, TID_LIST, ClaimRow, TidEntry
from protocol.rows import MemoryStore
from protocol.types import Role

TSM = "tsm-1"
PERIOD_S = 24 * 3600
TRANCHE = 10_000


@dataclass
class Desk:
    """The TSM's claims, one by one; `faults` are met one call after the other, "lost" is an answer that never comes."""

    world: World
    faults: list[ProtocolError | str | None] = field(default_factory=list)
    alter: Callable[[Wire, Wire], Wire] = lambda request, answer: answer
    sent: list[Wire] = field(default_factory=list)

    @property
    def tsm(self) -> Tsm:
        value: Tsm = self.world.parties[TSM].value
        return value

    @property
    def store(self) -> MemoryStore:
        return self.world.parties[TSM].store

    def call(self, peer: str, rpc: str, request: Wire) -> Wire:
        self.sent.append(request)
        fault = self.faults.pop(0) if self.faults else None
        if isinstance(fault, ProtocolError):
            raise fault
        answer = self.world.deliver(peer, rpc, request, Peer(role=Role.TSM, name=TSM))
        if fault == "lost":
            raise Unavailable
        return self.alter(request, answer)

    def make(self, *, early: bool = False, again: bool = False) -> list[ClaimRow]:
        """Store what is due."""
        made = []
        now_s = self.world.clock.now_s()
        for history in due_claims(self.tsm, self.store, now_s, early=early, again=again):
            row = make_claim(self.tsm, self.store, history, now_s, self.world.entropy)
            assert row is not None
            made.append(row)
        return made

    def send(self) -> list[ClaimRow]:
        """Send what waits."""
        now_s = self.world.clock.now_s()
        return [
            send_claim(self.tsm, self.store, self, row, now_s, self.world.entropy)
            for row in claims_under_way(self.store)
        ]  # fmt: skip

    def claim(self) -> list[ClaimRow]:
        """Close the present period and have the banks answer."""
        self.make(early=True)
        return self.send()

    def next_period(self) -> list[ClaimRow]:
        """What housekeeping does after the end of the period."""
        self.world.clock.time_s += PERIOD_S
        self.make()
        return self.send()

    # --- rows ------------------------------------------------------------------------------------------------------
    def entry(self, aid: str) -> TidEntry:
        (found,) = (row for row in self.store.scan(TID_LIST) if row.aid == aid and row.state != "REFUSED")
        return found

    def rows(self, aid: str) -> list[ClaimRow]:
        sid_digest = self.entry(aid).sid_digest
        return [row for row in self.store.scan(CLAIMS) if row.sid_digest == sid_digest]

    def grant(self, aid: str, bank: str = "bank-a") -> Grant:
        (found,) = (row for row in self.world.parties[bank].store.scan(GRANTS) if row.aid == aid)
        return found

    def totals(self, aid: str) -> tuple[int, int, int, bool]:
        """At the bank: sequence, claimed, credited, closed."""
        grant = self.grant(aid)
        return grant.sequence, grant.claimed_minor, grant.credited_minor, grant.closed


def forged_claim(world: World, claim: Claim, *, tsm: str = TSM, bank: str = "bank-a") -> ClaimAccepted:
    """Any claim, by a TSM that says what it likes; the bank's answer."""
    keys = world.parties[tsm].value.keys
    signed = envelope.sign(
        keys.signer, claim, audience=bank, stamp=Stamp.fresh(world.clock.now_s(), world.entropy)
    )  # fmt: skip
    key = world.directory.named(bank, Use.SEAL).key
    wire = Wire(cose=cose.seal(key, name=Claim.NAME, plaintext=signed))
    answer = world.deliver(bank, "Bank.SubmitClaim", wire, Peer(role=Role.TSM, name=tsm))
    plain = cose.unseal(
        keys.seal, answer.cose, name=ClaimAccepted.NAME, max_bytes=1 << 16, request_digest=wire.digest
    )  # fmt: skip
    return envelope.open_signed(
        ClaimAccepted, plain, world.parties[bank].value.keys.sign.public, issuer=bank, audience=tsm,
        now_s=world.clock.now_s(), request_digest=wire.digest,
    ).message  # fmt: skip


def next_claim(grant: Grant, **changes: Any) -> Claim:
    """The claim that comes next of a grant, and says nothing new but for `changes`."""
    honest = Claim(
        aid=grant.aid, sid_digest=grant.sid_digest, sequence=grant.sequence + 1, claimed_minor=grant.claimed_minor,
        credited_minor=grant.credited_minor, currency="TWD", root=bytes(32), closing=grant.closed,
    )  # fmt: skip
    return replace(honest, **changes)


def close_released(world: World, bank: str = "bank-a") -> None:
    """By whichever TSM holds it: a claim of nothing closes each grant that was given back."""
    for grant in world.parties[bank].store.scan(GRANTS):
        if grant.state == "RELEASED" and not grant.closed:
            forged_claim(world, next_claim(grant, closing=True), tsm=grant.tsm, bank=bank)
