"""A dispute in a world: purchases, the TSM's chain, the bank's officers, and all that can be wrong with them."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from support.counter import TSM, Counter
from support.customer import Customer
from support.world import Party, World

from protocol import cose, envelope
from protocol.crypto import PrivateKey
from protocol.engine import Peer
from protocol.envelope import Signer, Stamp, Wire
from protocol.errors import ProtocolError
from protocol.evidence.answer import open_answer
from protocol.messages.pay import Authorization, AuthorizationDecision, Decided, EmvPurchase, Verdict
from protocol.messages.trace import AuditEntry, TraceAnswer, TraceRequest, TraceState
from protocol.roles.bank.audit import VerifiedLog, verify_rows
from protocol.roles.bank.officers import APPROVE, Officers, appoint, sign_verdict
from protocol.roles.bank.tables import AUDIT_HEADS, AUDIT_LOG, TRACE_CASES, TRACE_SIGNATURES, TraceCase
from protocol.roles.party import PartyKeys
from protocol.roles.tsm.purchase import PurchaseChecks
from protocol.roles.tsm.tables import PURCHASES, TraceRow
from protocol.roles.tsm.trace import Disputed, build_trace, seal_request, trace
from protocol.types import Role

BANK, SHOP = "bank-a", "shop-1"
REASON = "dispute"
CASE = bytes(range(16))


@dataclass
class Dispute:
    """A customer whose purchase somebody disputes, and the bank with its officers."""

    world: World
    customer: Any
    officers: dict[str, PrivateKey] = field(default_factory=dict)

    @classmethod
    def arise(cls, world: World, number: int = 4) -> Dispute:
        """A phone with cards at a counter, and three officers."""
        dispute = cls(world=world, customer=Customer.come(world, number=number))
        for name in ("officer-1", "officer-2", "officer-3"):
            dispute.appoint(name)
        return dispute

    @property
    def bank(self) -> Party:
        return self.world.parties[BANK]

    @property
    def tsm(self) -> Party:
        return self.world.parties[TSM]

    @property
    def counter(self) -> Counter:
        return self.customer.counter

    @property
    def now_s(self) -> int:
        return self.world.clock.now_s()

    def buy(self, **changes: Any) -> EmvPurchase:
        purchase = self.customer.ask(**changes)
        assert self.counter.authorize(purchase).verdict is Verdict.APPROVED
        return purchase

    # --- the TSM ---------------------------------------------------------------------------------------------------
    def disputed(self, purchase: EmvPurchase, **changes: Any) -> Disputed:
        about = Disputed(merchant=SHOP, sale=purchase.sale, case=CASE, reason=REASON, requester=SHOP)
        return replace(about, **changes)

    def chain(self, purchase: EmvPurchase, **changes: Any) -> TraceRequest:
        """What the TSM proves of this purchase; `changes` are of the dispute."""
        about = self.disputed(purchase, **changes)
        bank, request = build_trace(self.tsm.value, self.tsm.store, about, self.now_s, self.world.entropy)
        assert bank == BANK
        return request

    def sealed(self, request: TraceRequest, tsm: str = TSM, bank: str = BANK) -> Wire:
        return seal_request(self.world.parties[tsm].value, bank, request, self.now_s, self.world.entropy)

    def ask(self, request: TraceRequest, tsm: str = TSM) -> TraceState:
        """A TSM's question, whatever is in it, and the bank's verified answer."""
        return self.send(self.sealed(request, tsm), tsm)

    def send(self, wire: Wire, tsm: str = TSM) -> TraceState:
        reply = self.world.deliver(BANK, "Bank.RequestTrace", wire, Peer(role=Role.TSM, name=tsm))
        keys = self.world.parties[tsm].value.keys
        signed = cose.unseal(
            keys.seal, reply.cose, name=TraceState.NAME, max_bytes=1 << 16, request_digest=wire.digest
        )  # fmt: skip
        return envelope.open_signed(
            TraceState, signed, self.bank.value.keys.sign.public, issuer=BANK, audience=tsm, now_s=self.now_s,
            request_digest=wire.digest,
        ).message  # fmt: skip

    def trace(self, purchase: EmvPurchase, peers: Any = None, **changes: Any) -> TraceRow:
        """As the TSM's operator does."""
        about = self.disputed(purchase, **changes)
        line = Line(self) if peers is None else peers
        return trace(self.tsm.value, self.tsm.store, line, about, self.now_s, self.world.entropy)

    # --- the bank --------------------------------------------------------------------------------------------------
    def appoint(self, name: str, key: PrivateKey | None = None) -> PrivateKey:
        self.officers[name] = key or self.world.key()
        public = self.officers[name].public
        unit = appoint(self.bank.value, officer=name, key=public, now_s=self.now_s, entropy=self.world.entropy)
        self.bank.store.apply(unit)
        return self.officers[name]

    def case(self, case: bytes = CASE) -> TraceCase:
        (row,) = [row for row in self.bank.store.scan(TRACE_CASES) if row.case_id == case]
        return row

    def verdict(self, officer: str, verdict: str = APPROVE, about: bytes = CASE, **changes: Any) -> bytes:
        """What an officer signs after having looked at the case."""
        said: dict[str, Any] = {
            "case": about, "request_digest": self.case(about).request_digest, "bank": BANK, **changes
        }  # fmt: skip
        signer = said.pop("signer", None) or Signer(name=officer, key=self.officers[officer])
        return sign_verdict(signer, verdict=verdict, now_s=self.now_s, entropy=self.world.entropy, **said)

    def submit(self, signed: bytes, case: bytes = CASE, kind: type[Officers] = Officers) -> TraceCase:
        unit = kind(self.bank.value, self.bank.store).take(case, signed, self.now_s, self.world.entropy)
        row: TraceCase = self.bank.store.apply(unit).reply
        return row

    def approve(self, *officers: str, case: bytes = CASE) -> TraceCase:
        for officer in officers:
            row = self.submit(self.verdict(officer, about=case), case)
        return row

    # --- what came of it -------------------------------------------------------------------------------------------
    def answered(self, answer: bytes, keys: PartyKeys) -> TraceAnswer:
        """What the requester reads."""
        told, bank = open_answer(keys, self.world.directory, answer, self.now_s)
        assert bank.name == BANK
        return told

    def log(self) -> VerifiedLog:
        """The bank's log, verified."""
        store, key = self.bank.store, self.bank.value.keys.sign.public
        return verify_rows(store.scan(AUDIT_LOG), store.scan(AUDIT_HEADS), bank=BANK, keys=[key])

    def lines(self) -> list[tuple[str, str, str]]:
        """Kind, who and code of what was logged about cases."""
        return [(entry.kind.value, entry.who, entry.code) for entry in self.log().entries if entry.case != bytes(16)]

    def last(self) -> AuditEntry:
        return self.log().entries[-1]


@dataclass
class Line:
    """The way to the bank: `faults` are met one call after the other; one that is no error alters the answer."""

    dispute: Dispute
    faults: list[ProtocolError | Callable[[Wire], Wire] | None] = field(default_factory=list)
    sent: list[bytes] = field(default_factory=list)

    def call(self, peer: str, rpc: str, request: Wire) -> Wire:
        self.sent.append(request.cose)
        fault = self.faults.pop(0) if self.faults else None
        if isinstance(fault, ProtocolError):
            raise fault
        answer = self.dispute.world.deliver(peer, rpc, request, Peer(role=Role.TSM, name=TSM))
        return answer if fault is None else fault(answer)


def resealed(dispute: Dispute, message: TraceState, question: Wire, bank: PartyKeys | None = None) -> Wire:
    """An answer of the bank's to this question, whatever it says."""
    stamp = Stamp.fresh(dispute.now_s, dispute.world.entropy)
    signer = Signer(name=BANK, key=(bank or dispute.bank.value.keys).sign)
    signed = envelope.sign(signer, message, audience=TSM, stamp=stamp, request_digest=question.digest)
    key = dispute.tsm.value.keys.seal.public
    return Wire(cose=cose.seal(key, name=TraceState.NAME, plaintext=signed, request_digest=question.digest))


def receipted(
    dispute: Dispute, request: TraceRequest, purchase: EmvPurchase, checks: Any = PurchaseChecks
) -> TraceRequest:
    """This purchase in the place of the request's, with the TSM's own receipt for it, be it true or not."""
    tsm, counter = dispute.tsm.value, dispute.counter
    asked = counter.signed(Authorization(terminal=counter.terminal.terminal, purchase=purchase)).cose
    today = datetime.datetime.fromtimestamp(dispute.now_s, tz=datetime.UTC).date()
    read = checks(tsm.emv_ca).read(purchase, today)
    decided = Decided(
        sale=purchase.sale, verdict=Verdict.APPROVED, merchant=SHOP, terminal=read.tap.terminal, pan=read.pan,
        atc=purchase.atc, unpredictable=read.tap.unpredictable, amount_minor=read.tap.amount_minor,
        currency=read.tap.currency, issuer_data=purchase.issuer_data, cryptogram=read.cryptogram, response_code="00",
        arpc=bytes(8),
    )  # fmt: skip
    receipt = envelope.sign(
        tsm.keys.signer, AuthorizationDecision(decided=decided), audience=SHOP,
        stamp=Stamp.fresh(dispute.now_s, dispute.world.entropy), request_digest=Wire(cose=asked).digest,
    )  # fmt: skip
    return replace(request, sale=purchase.sale, authorization=asked, receipt=receipt)


def trace_any(world: World) -> TraceRow:
    """The TSM asks who made one of its purchases."""
    tsm = world.parties[TSM]
    purchase = next(row for row in tsm.store.scan(PURCHASES) if row.state == "APPROVED")
    about = Disputed(merchant=purchase.merchant, sale=purchase.sale, case=CASE, reason=REASON, requester=SHOP)
    return trace(tsm.value, tsm.store, tsm.engine._peers, about, world.clock.now_s(), world.entropy)


def answer_any(world: World) -> tuple[list[PrivateKey], list[bytes]]:
    """Two officers sign the case of `trace_any`: their keys, and what is kept of it (verdicts, answer, log)."""
    dispute = Dispute(world=world, customer=None)
    keys = [dispute.appoint(name) for name in ("officer-1", "officer-2")]
    answer = dispute.approve("officer-1", "officer-2").answer
    store = dispute.bank.store
    verdicts = [row.signed for row in store.scan(TRACE_SIGNATURES)]
    return keys, [*verdicts, answer, *(row.signed for row in store.scan(AUDIT_LOG))]
