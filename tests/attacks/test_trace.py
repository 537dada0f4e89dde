"""A person named for what they did not do, or without the bank's officers; a log that forgets (design §3 TRACE).

Powers: the corrupt TSM has all its keys, the EMV issuer's too, and everything that it ever received; it is in league
with the shop. What it wants is a name.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from support.attacker import refused, swap
from support.skimmer import OwnCard, applet, crooked_tap, with_said, with_shown
from support.tracing import BANK, CASE, SHOP, Dispute, receipted
from support.world import World, card_key

from protocol import envelope
from protocol.card.afl import by_place
from protocol.card.rsa import PublicKey as CardPublicKey
from protocol.card.tap import LoadedCard, Tap
from protocol.commitments import card_leaf, merkle_path
from protocol.crypto import PublicKey
from protocol.envelope import Signer, Stamp
from protocol.errors import (
    IdentifierTaken,
    LogBroken,
    OfficersInsufficient,
    ProtocolError,
    TraceChainInvalid,
    TraceReasonUnknown,
    TraceRepeated,
)
from protocol.evidence.chain import ChainChecks, Parties, Traced
from protocol.messages.card import CardKeys
from protocol.messages.pay import AuthorizationDecision, Decided, EmvPurchase, Verdict
from protocol.messages.service import BankInfo
from protocol.messages.trace import TraceApproval, TraceRequest
from protocol.roles.bank.audit import Head, verify_log
from protocol.roles.bank.officers import REFUSE, Officers, appoint
from protocol.roles.bank.tables import (
    ANONYMOUS_ACCOUNTS,
    AUDIT_LOG,
    OFFICERS,
    TRACE_SIGNATURES,
    AnonymousAccount,
    TraceCase,
)
from protocol.roles.bank.trace import Proved, RequestTraceStep, Tracing
from protocol.roles.tsm.purchase import PurchaseChecks, Signed
from protocol.rows import Decision, Rows

DEAR = 77_000


def stopped(dispute: Dispute, request: TraceRequest, error: type[ProtocolError], code: str, tsm: str = "tsm-1") -> None:
    """Refused so, and logged; no case is open."""
    with refused(dispute.world, error, code, unchanged=("tsm-1", "bank-b")):
        dispute.ask(request, tsm)
    assert dispute.lines()[-1] == ("refused-request", tsm, code)


def lax(chain: type[ChainChecks], step: type[RequestTraceStep] = RequestTraceStep) -> type[RequestTraceStep]:
    """A bank with these habits."""
    return type("Lax", (step,), {"chain": chain})


def named(dispute: Dispute, request: TraceRequest, tsm: str = "tsm-1") -> str:
    """The bank opens the case, two officers sign what they are shown, and the requester reads a customer's name."""
    dispute.ask(request, tsm)
    row = dispute.approve("officer-1", "officer-2", case=request.case)
    return dispute.answered(row.answer, dispute.world.merchant).customer


def customer_of(dispute: Dispute, aid: str) -> str:
    return next(row.customer for row in dispute.bank.store.scan(ANONYMOUS_ACCOUNTS) if row.aid == aid)


@pytest.fixture
def dispute(world: World) -> Dispute:
    return Dispute.arise(world)


# --- invented purchases ----------------------------------------------------------------------------------------------
def own_card(dispute: Dispute) -> tuple[EmvPurchase, bytes]:
    """The TSM is the issuer: it certifies a card key of its own, and pays with it at the shop."""
    tsm, world = dispute.tsm.value, dispute.world
    key = card_key(30)
    (card,) = tsm.issuer.issue(
        [key.public.to_bytes()], expires_at_s=dispute.now_s + 86_400, limit_minor=DEAR, currency="TWD",
        now_s=dispute.now_s, entropy=world.entropy,
    )  # fmt: skip
    held = LoadedCard(
        aid=card.emv.application, aip=card.emv.aip, afl=card.emv.afl, records=by_place(card.emv.records), key=key,
        k_ac=card.k_ac, atc=1, opening=b"none", device_verified=True, retry=False,
    )  # fmt: skip
    taken = crooked_tap(dispute.counter, applet(world, OwnCard(held)), DEAR)
    return taken.purchase(dispute.counter), key.public.to_bytes()


class NoLeaf(ChainChecks):
    """A judge who does not ask whether the account's key signed for this card."""

    def check_card(self, request: TraceRequest, parties: Parties) -> None:
        pass


def test_a_tsm_invents_a_purchase_with_a_card_of_its_own(dispute: Dispute) -> None:
    """Attack: the real account's chain, and a card that the TSM made and certified itself. Formal: trace_NOLEAF.
    Closed by: S_TID over the card's leaf. Variant: a person is named for a purchase that the TSM made."""
    victim = dispute.chain(dispute.buy())
    purchase, modulus = own_card(dispute)
    lie = replace(receipted(dispute, victim, purchase), modulus=modulus)
    stopped(dispute, lie, TraceChainInvalid, "TRACE_CHAIN_INVALID")

    swap(dispute.world, BANK, lax(NoLeaf))
    assert named(dispute, lie) == customer_of(dispute, victim.aid)


def test_another_users_purchase_is_put_on_a_person(dispute: Dispute) -> None:
    """Attack: one user's account, another's card and purchase, both true. Formal: trace_NOLEAF.
    Closed by: S_TID over the card's leaf. Variant: the wrong one is named."""
    victim = dispute.chain(dispute.buy())
    other = Dispute(world=dispute.world, customer=replace(dispute.customer, **second(dispute.world)))
    theirs = other.chain(other.buy())
    parts = ("modulus", "sale", "authorization", "receipt")
    lie = replace(victim, **{part: getattr(theirs, part) for part in parts})
    stopped(dispute, lie, TraceChainInvalid, "TRACE_CHAIN_INVALID")
    assert customer_of(dispute, theirs.aid) != customer_of(dispute, victim.aid)

    swap(dispute.world, BANK, lax(NoLeaf))
    assert named(dispute, lie) == customer_of(dispute, victim.aid)


def second(world: World) -> dict[str, Any]:
    phone = world.ready("phone-2")
    tid = world.service(phone, world.account(phone))
    world.cards(phone, tid, number=2)
    return {"phone": phone, "tid": tid}


class NoCommitment(ChainChecks):
    """A judge who does not open com."""

    def check_commitment(self, request: TraceRequest, info: BankInfo) -> None:
        pass


def test_a_tsm_invents_an_account_of_its_own_under_a_real_aid(dispute: Dispute) -> None:
    """Attack: the TSM's own TID key signs for the TSM's own card. Formal: trace_NOCOM.
    Closed by: com in BINFO opens to one TID key only. Variant: a person is named for a purchase that the TSM made."""
    victim = dispute.chain(dispute.buy())
    purchase, modulus = own_card(dispute)
    key = dispute.world.key()
    real = CardKeys.from_bytes(envelope.peek(CardKeys, victim.card_keys).payload)
    mine = replace(real, tid="t-mine", root=card_leaf(salt=bytes(32), modulus=modulus))
    signed = envelope.sign(
        Signer(name="t-mine", key=key), mine, audience="tsm-1",
        stamp=Stamp.fresh(dispute.now_s, dispute.world.entropy),
    )  # fmt: skip
    lie = replace(
        receipted(dispute, victim, purchase), tid="t-mine", pk_tid=key.public.encoded, card_keys=signed,
        modulus=modulus, salt=bytes(32), position=0, leaves=1, path=(),
    )  # fmt: skip
    stopped(dispute, lie, TraceChainInvalid, "TRACE_CHAIN_INVALID")

    swap(dispute.world, BANK, lax(NoCommitment))
    assert named(dispute, lie) == customer_of(dispute, victim.aid)


class NoSdad(PurchaseChecks):
    """Amount and merchant as somebody says."""

    def verify_signature(self, purchase: EmvPurchase, key: CardPublicKey, tap: Tap) -> bytes:
        return bytes(8)


class BelievesData(ChainChecks):
    """A judge who does not ask whether the card signed the purchase."""

    purchases = NoSdad


def test_a_tsm_makes_a_small_purchase_a_dear_one(dispute: Dispute) -> None:
    """Attack: a real card of the account, with another amount than it signed. Formal: trace_NOSDAD.
    Closed by: the SDAD over PDOL and CDOL1 data. Variant: the person is named for the dear one."""
    purchase = dispute.buy()
    victim = dispute.chain(purchase)
    amount = bytes.fromhex(f"{DEAR:012d}")
    dear = replace(
        purchase, pdol_data=with_shown(purchase.pdol_data, t9F02=amount),
        cdol_data=with_said(purchase.cdol_data, t9F02=amount), atc=purchase.atc + 1,
    )  # fmt: skip
    lie = receipted(dispute, victim, dear, NoSdad)
    stopped(dispute, lie, TraceChainInvalid, "TRACE_CHAIN_INVALID")

    swap(dispute.world, BANK, lax(BelievesData))
    assert named(dispute, lie) == customer_of(dispute, victim.aid)


class AnyReceipt(ChainChecks):
    """A judge who does not read the receipt."""

    def check_receipt(self, request: TraceRequest, signed: Signed, decided: Decided) -> None:
        pass


def test_a_person_is_sought_for_a_purchase_that_was_declined(dispute: Dispute) -> None:
    """Attack: the card signed, but the TSM declined; it forges no approval, it shows the true answer, or that of
    another purchase. Formal: receipts are outside the models. Closed by: the receipt is of this purchase, and an
    approval. Variant: a person is named for what was never paid."""
    victim = dispute.chain(dispute.buy())
    declined = receipted(dispute, victim, dispute.customer.ask())
    said = AuthorizationDecision.from_bytes(envelope.peek(AuthorizationDecision, declined.receipt).payload).decided
    answer = envelope.sign(
        dispute.tsm.value.keys.signer,
        AuthorizationDecision(decided=replace(said, verdict=Verdict.DECLINED, response_code="05")), audience=SHOP,
        stamp=Stamp.fresh(dispute.now_s, dispute.world.entropy),
        request_digest=envelope.Wire(cose=declined.authorization).digest,
    )  # fmt: skip
    card = next(row for row in dispute.customer.cards().values() if row.pan == said.pan)
    leaf = {"modulus": card.modulus, "salt": card.salt, "position": card.position}
    lie = replace(declined, receipt=answer, **leaf, path=path_of(dispute, card.position))
    stopped(dispute, lie, TraceChainInvalid, "TRACE_CHAIN_INVALID")
    stopped(dispute, replace(lie, receipt=victim.receipt), TraceChainInvalid, "TRACE_CHAIN_INVALID")

    swap(dispute.world, BANK, lax(AnyReceipt))
    assert named(dispute, lie) == customer_of(dispute, victim.aid)


def path_of(dispute: Dispute, position: int) -> tuple[bytes, ...]:
    rows = sorted(dispute.customer.cards().values(), key=lambda row: row.position)
    return merkle_path([card_leaf(salt=row.salt, modulus=row.modulus) for row in rows], position)


# --- who may ask -----------------------------------------------------------------------------------------------------
class AnyTsm(ChainChecks):
    """A judge who takes the chain as if the TSM that is named in it had brought it."""

    def verify(self, request: TraceRequest, parties: Parties) -> Traced:
        return super().verify(request, replace(parties, tsm="tsm-1", tsm_key=self.key))

    key: PublicKey


class AnyGrant(RequestTraceStep):
    """A bank that does not look to whom it granted the account."""

    def check_grant(self, tsm: str, account: AnonymousAccount, traced: Traced, ctx: Any) -> None:
        pass


def test_a_tsm_that_was_never_granted_the_account_asks(dispute: Dispute) -> None:
    """Attack: tsm-2 got hold of a whole chain of tsm-1's. Formal: trace. Closed by: BINFO, the card's root and the
    receipt name the TSM; the bank's own grant does. Variant, without all four: tsm-2 hears the name."""
    chain = dispute.chain(dispute.buy())
    stopped(dispute, chain, TraceChainInvalid, "TRACE_CHAIN_INVALID", "tsm-2")
    AnyTsm.key = dispute.tsm.value.keys.sign.public
    swap(dispute.world, BANK, lax(AnyTsm))
    stopped(dispute, chain, TraceChainInvalid, "TRACE_CHAIN_INVALID", "tsm-2")

    swap(dispute.world, BANK, lax(AnyTsm, AnyGrant))
    assert named(dispute, chain, "tsm-2") == customer_of(dispute, chain.aid)


class AnyReason(RequestTraceStep):
    """A bank without a list of reasons."""

    def check_standing(self, message: TraceRequest) -> None:
        pass


def test_a_reason_that_is_none(dispute: Dispute) -> None:
    """Attack: a name is wanted for advertising. Formal: reasons are outside the models. Closed by: the closed list.
    Variant: the case is before the officers."""
    lie = replace(dispute.chain(dispute.buy()), reason="advertising")
    stopped(dispute, lie, TraceReasonUnknown, "TRACE_REASON_UNKNOWN")

    swap(dispute.world, BANK, AnyReason)
    assert dispute.ask(lie).progress == "EXPECT_OFFICERS"


class AnyCase(RequestTraceStep):
    """A bank without UNIQUE(PK_C, ATC) over cases."""

    def check_chain(self, facts: Tracing, tsm_key: PublicKey, ctx: Any) -> Proved:
        return replace(super().check_chain(facts, tsm_key, ctx), card_ref=facts.message.case)


def test_after_a_refusal_another_case_is_opened(dispute: Dispute) -> None:
    """Attack: an officer refused; the TSM asks as another case, until two kinder ones look at it. Formal: officers are
    outside the models. Closed by: UNIQUE(PK_C, ATC) over cases. Variant: the name, against the refusal."""
    for bank in (RequestTraceStep, AnyCase):
        swap(dispute.world, BANK, bank)
        chain = dispute.chain(dispute.buy(), case=bank.__name__.encode().ljust(16, b".")[:16])
        dispute.ask(chain)
        dispute.submit(dispute.verdict("officer-3", REFUSE, chain.case), chain.case)
        again = replace(chain, case=chain.case[::-1])
        if bank is RequestTraceStep:
            stopped(dispute, again, TraceRepeated, "TRACE_REPEATED")
        else:
            assert named(dispute, again) == customer_of(dispute, chain.aid)


# --- the officers ----------------------------------------------------------------------------------------------------
@pytest.fixture
def case(dispute: Dispute) -> Dispute:
    dispute.ask(dispute.chain(dispute.buy()))
    return dispute


class OneIsEnough(Officers):
    """A bank that names a person on one officer's word."""

    def enough(self, signatures: tuple[Any, ...], appointed: set[str]) -> bool:
        return True


def test_one_officer_alone(case: Dispute) -> None:
    """Attack: a bribed officer. Formal: officers are outside the models. Closed by: two must sign. Variant: named."""
    assert case.approve("officer-1").answer == b""
    assert case.submit(case.verdict("officer-2"), kind=OneIsEnough).answer

    other = case.chain(case.buy(), case=b"\x01" * 16)
    case.ask(other)
    assert case.submit(case.verdict("officer-1", about=other.case), other.case, OneIsEnough).answer


class CountsSignatures(Officers):
    """A bank that counts signatures and not officers."""

    def check_officer(self, officer: str, appointed: set[str], signed: set[str]) -> None:
        pass

    def enough(self, signatures: tuple[Any, ...], appointed: set[str]) -> bool:
        return len(signatures) >= 2

    def _decide(self, rows: Rows, *rest: Any) -> Decision:
        decision = super()._decide(rows, *rest)
        kept = {row.officer for row in rows.find(TRACE_SIGNATURES, "case_id", CASE)}
        again = (write for write in decision.writes if getattr(write.row, "officer", "") not in kept)
        return replace(decision, writes=tuple(again))


def test_one_officer_twice(case: Dispute) -> None:
    """Attack: a bribed officer signs two times. Formal: officers are outside the models. Closed by: an officer counts
    once. Variant: named on one person's word."""
    case.approve("officer-1")
    second_one = case.verdict("officer-1")
    with refused(case.world, OfficersInsufficient, "OFFICERS_INSUFFICIENT", unchanged=(BANK,)):
        case.submit(second_one)

    assert case.submit(second_one, kind=CountsSignatures).answer


def test_one_officer_under_two_names(case: Dispute) -> None:
    """Attack: a clerk appoints the same key twice. Formal: as above. Closed by: UNIQUE(kid) over officers, and every
    appointment is in the log. Variant, another key: two names, and the log shows who was appointed when."""
    case.approve("officer-1")
    unit = appoint(
        case.bank.value, officer="officer-9", key=case.officers["officer-1"].public, now_s=case.now_s,
        entropy=case.world.entropy,
    )  # fmt: skip
    with refused(case.world, IdentifierTaken, "IDENTIFIER_TAKEN", unchanged=(BANK,)):
        case.bank.store.apply(unit)

    case.appoint("officer-9")
    assert case.approve("officer-9").answer
    kinds = [(entry.kind.value, entry.who) for entry in case.log().entries]
    assert kinds.index(("appointment", "officer-9")) > kinds.index(("request", "tsm-1"))


class AnyKey(Officers):
    """A bank that believes the name under a verdict."""

    def open_verdict(self, case: TraceCase, signed: bytes, now_s: int) -> Any:
        sign1 = envelope.peek(TraceApproval, signed)
        officer = next(row for row in self._store.scan(OFFICERS) if row.officer == sign1.claims.issuer)
        key = self.forger
        row = replace(officer, key=key.encoded, kid=key.thumbprint)
        honest, self._store = self._store, _One(row)
        try:
            return super().open_verdict(case, signed, now_s)
        finally:
            self._store = honest

    forger: PublicKey


class _One:
    """A table of officers that has the forger's key under the officer's name."""

    def __init__(self, row: Any) -> None:
        self._row = row

    def read(self, *reads: Any) -> Any:
        return self

    def find(self, table: Any, column: str, value: Any) -> Any:
        return (self._row,)


def test_an_officers_signature_is_forged(case: Dispute) -> None:
    """Attack: one officer signs for another with a key of their own. Formal: as above. Closed by: each officer's own
    key. Variant: named on one person's word."""
    case.approve("officer-1")
    key = case.world.key()
    forged = case.verdict("officer-2", signer=Signer(name="officer-2", key=key))
    with refused(case.world, OfficersInsufficient, "OFFICERS_INSUFFICIENT", unchanged=(BANK,)):
        case.submit(forged)

    AnyKey.forger = key.public
    assert case.submit(forged, kind=AnyKey).answer


class AnyRequest(Officers):
    """A bank that does not look which case a verdict is on."""

    def open_verdict(self, case: TraceCase, signed: bytes, now_s: int) -> Any:
        said = TraceApproval.from_bytes(envelope.peek(TraceApproval, signed).payload)
        about = replace(case, case_id=said.case, request_digest=said.request_digest)
        verdict = super().open_verdict(about, signed, now_s)
        return replace(verdict, signature=replace(verdict.signature, case_id=case.case_id))


def test_a_verdict_is_used_for_another_case(case: Dispute) -> None:
    """Attack: what officers approved in one case is handed in under another. Formal: as above. Closed by: a verdict
    names case and request. Variant: a person is named whose case nobody looked at."""
    signed = [case.verdict(officer) for officer in ("officer-1", "officer-2")]
    other = case.chain(case.buy(), case=b"\x02" * 16)
    case.ask(other)
    with refused(case.world, OfficersInsufficient, "OFFICERS_INSUFFICIENT", unchanged=(BANK,)):
        case.submit(signed[0], other.case)

    assert [bool(case.submit(one, other.case, AnyRequest).answer) for one in signed] == [False, True]


# --- the log ---------------------------------------------------------------------------------------------------------
def test_the_log_forgets_a_case(case: Dispute) -> None:
    """Attack: the bank cuts its log before the request of a case. Formal: the log is outside the models. Closed by: a
    head that somebody else remembers. Variant, nobody does: what is left is whole."""
    case.approve("officer-1", "officer-2")
    key = case.bank.value.keys.sign.public
    log = [row.signed for row in case.bank.store.scan(AUDIT_LOG)]
    head = verify_log(log, bank=BANK, keys=[key]).head
    cut = log[:3]
    with pytest.raises(LogBroken) as refusal:
        verify_log(cut, bank=BANK, keys=[key], remembered=Head.parse(str(head)))
    assert refusal.value.code == "LOG_BROKEN"

    assert [entry.kind.value for entry in verify_log(cut, bank=BANK, keys=[key]).entries] == ["appointment"] * 3
