"""TRACE: who is not named. Every refusal is typed, leaves no case behind, and is in the bank's log."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from support.attacker import ANY, refused
from support.tracing import BANK, CASE, SHOP, Dispute
from support.world import World

from protocol import cose, envelope
from protocol.card import profile
from protocol.crypto import PrivateKey, sha256
from protocol.engine import Context, Incoming, Peer
from protocol.envelope import Signer, Stamp, Wire
from protocol.errors import (
    IdentifierTaken,
    OfficersInsufficient,
    ProtocolError,
    TraceChainInvalid,
    TraceReasonUnknown,
    TraceRepeated,
    UnknownKey,
    WrongPeer,
    WrongState,
)
from protocol.evidence.chain import Link
from protocol.messages.card import CardKeys
from protocol.messages.pay import Authorization, AuthorizationDecision, Verdict
from protocol.messages.till import GetSale
from protocol.messages.trace import TraceProgress, TraceRequest
from protocol.pki import Use
from protocol.ports import Entropy
from protocol.roles.bank.officers import REFUSE, Officers, answer_of, appoint, remove, request_of
from protocol.roles.bank.party import Bank
from protocol.roles.bank.tables import GRANTS, TRACE_CASES, TRACE_SIGNATURES
from protocol.roles.bank.trace import RequestTraceStep, Tracing
from protocol.roles.se.tables import SERVICE_KEYS
from protocol.rows import Decision, Key, Rows, Unit, Update
from protocol.types import Role


@pytest.fixture
def dispute(tmp_path: Path) -> Dispute:
    return Dispute.arise(World(tmp_path, seed="trace"))


class Listening(RequestTraceStep):
    """A bank whose local log can be read: what was wrong in detail."""

    def __init__(self, bank: Bank) -> None:
        super().__init__(bank)
        self.details: list[str] = []

    def decide(self, rows: Rows, facts: Tracing, now_s: int, entropy: Entropy) -> Decision:
        decision = super().decide(rows, facts, now_s, entropy)
        assert decision.refusal is not None
        self.details.append(decision.refusal.detail)
        return decision


def denied(
    dispute: Dispute, request: TraceRequest, error: type[ProtocolError], *, tsm: str = "tsm-1", link: str = ""
) -> None:
    """Refused with this class and code; nothing but the log has changed, and it says who asked and why not."""
    bank = dispute.bank
    before = {name: rows for name, rows in dispute.world.snapshot(BANK).items() if name not in KEPT}
    lines = dispute.lines()
    step, listening = bank.steps["Bank.RequestTrace"], Listening(bank.value)
    dispute.world.swap_step(BANK, listening)
    with pytest.raises(error) as refusal:
        dispute.ask(request, tsm)
    dispute.world.swap_step(BANK, step)
    assert (type(refusal.value), refusal.value.code) == (error, error.code)
    assert not link or listening.details == [link]
    assert dispute.lines() == [*lines, ("refused-request", tsm, error.code)]
    assert dispute.last().case == request.case
    assert {name: rows for name, rows in dispute.world.snapshot(BANK).items() if name not in KEPT} == before


KEPT = ("audit_log", "audit_heads", "requests")


# --- the chain -------------------------------------------------------------------------------------------------------
def signed_by(dispute: Dispute, key: PrivateKey, kind: Any, data: bytes, digest: bytes = b"", **changes: Any) -> bytes:
    """The object with other fields, signed by this key, under its own claims."""
    sign1 = cose.parse_sign1(data, max_bytes=ANY)
    message = replace(kind.from_bytes(sign1.payload), **changes)
    return cose.sign(
        key, name=kind.NAME, claims=sign1.claims, payload=message.to_bytes(), request_digest=digest
    )  # fmt: skip


def flipped(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


LINKS: dict[str, tuple[Link, Callable[[Any], Any]]] = {
    "aid": (Link.ACCOUNT, lambda aid: aid[:-1] + ("0" if aid[-1] != "0" else "1")),
    "binfo": (Link.ACCOUNT, flipped),
    "tid": (Link.COMMITMENT, lambda tid: tid + "x"),
    "pk_tid": (Link.COMMITMENT, lambda pk: PrivateKey.from_bytes(b"\x01" * 32).public.encoded),
    "r": (Link.COMMITMENT, flipped),
    "card_keys": (Link.CARD, flipped),
    "modulus": (Link.CARD, flipped),
    "salt": (Link.CARD, flipped),
    "position": (Link.CARD, lambda position: position ^ 1),
    "leaves": (Link.CARD, lambda leaves: leaves + 1),
    "path": (Link.CARD, lambda path: (path[0], flipped(path[1]))),
    "sale": (Link.RECEIPT, flipped),
    "authorization": (Link.RECEIPT, flipped),
    "receipt": (Link.RECEIPT, flipped),
}
"""Every part of the chain, spoiled, with the link that breaks."""
OUTSIDE = {"case", "reason", "requester"}
"""What is about the case and not of the chain."""


def test_every_part_of_the_chain_is_here() -> None:
    assert {field.name for field in fields(TraceRequest)} == set(LINKS) | OUTSIDE


@pytest.mark.parametrize("part", LINKS)
def test_a_chain_with_one_part_spoiled(dispute: Dispute, part: str) -> None:
    request = dispute.chain(dispute.buy())
    link, spoil = LINKS[part]
    if part == "leaves":  # so that the tree has another shape at this leaf
        request = replace(request, leaves=8)
        denied(dispute, request, TraceChainInvalid, link=link)
        return
    denied(dispute, replace(request, **{part: spoil(getattr(request, part))}), TraceChainInvalid, link=link)


@pytest.mark.parametrize("part", LINKS)
def test_a_chain_with_one_part_missing(dispute: Dispute, part: str) -> None:
    """As little as the message can hold there."""
    request = dispute.chain(dispute.buy())
    least = {
        "aid": "a", "tid": "t", "pk_tid": bytes(65), "r": bytes(32), "modulus": bytes(176), "salt": bytes(32),
        "position": 31, "leaves": 0, "path": (), "sale": bytes(16),
    }  # fmt: skip
    link = Link.PURCHASE if part == "authorization" else LINKS[part][0]
    denied(dispute, replace(request, **{part: least.get(part, b"\x00")}), TraceChainInvalid, link=link)


@pytest.mark.parametrize("part", [part for part in LINKS if part != "leaves"])
def test_a_chain_with_one_part_of_another_users_purchase(dispute: Dispute, part: str) -> None:
    """Another user, another card, another purchase: whatever one of them lends is of no use to the other."""
    mine = dispute.chain(dispute.buy())
    other = Dispute(world=dispute.world, customer=second_customer(dispute))
    bought = [other.chain(other.buy(amount_minor=amount_minor)) for amount_minor in (8_000, 12_345)]
    theirs = next(chain for chain in bought if chain.position != mine.position)
    link = Link.PURCHASE if part == "authorization" else LINKS[part][0]
    denied(dispute, replace(mine, **{part: getattr(theirs, part)}), TraceChainInvalid, link=link)


def second_customer(dispute: Dispute) -> Any:
    customer = dispute.customer
    phone = dispute.world.ready("phone-2")
    tid = dispute.world.service(phone, dispute.world.account(phone))
    dispute.world.cards(phone, tid, number=4)
    return replace(customer, phone=phone, tid=tid)


@pytest.mark.parametrize("part", ["modulus", "salt", "position", "path", "authorization", "receipt"])
def test_a_chain_with_one_part_of_the_same_users_other_purchase(dispute: Dispute, part: str) -> None:
    first, second = (dispute.chain(dispute.buy()) for _ in range(2))
    link = Link.PURCHASE if part == "authorization" else LINKS[part][0]
    denied(dispute, replace(first, **{part: getattr(second, part)}), TraceChainInvalid, link=link)


def test_binfo_of_another_session_of_the_account(dispute: Dispute) -> None:
    """The account's owner signed com for one session: the bank granted nothing under another."""
    request = dispute.chain(dispute.buy())
    store = dispute.bank.store
    (grant,) = store.scan(GRANTS)
    for changes in ({"tsm": "tsm-2"}, {"com": bytes(32)}):
        amended(dispute, replace(grant, **changes))
        denied(dispute, request, TraceChainInvalid, link="grant")
    amended(dispute, grant)
    assert dispute.ask(request).progress is TraceProgress.EXPECT_OFFICERS


def amended(dispute: Dispute, row: Any) -> None:
    write = Update(GRANTS, row)
    reads = (Key(GRANTS, (row.aid, row.sid_digest)),)
    dispute.bank.store.apply(Unit(reads, lambda rows: Decision(writes=(write,))))


def test_a_tsm_that_was_never_granted_the_account(dispute: Dispute) -> None:
    """tsm-2 got hold of the whole chain, and signs a receipt of its own."""
    dispute.world.add_tsm("tsm-2")
    request = dispute.chain(dispute.buy())
    denied(dispute, request, TraceChainInvalid, tsm="tsm-2", link=Link.ACCOUNT)


def test_cards_signed_for_another_tsm_or_account(dispute: Dispute) -> None:
    request = dispute.chain(dispute.buy())
    (row,) = dispute.customer.phone.party.store.scan(SERVICE_KEYS)
    key = PrivateKey.from_bytes(row.sk_tid)
    other = signed_by(dispute, key, CardKeys, request.card_keys, tid="t-other")
    denied(dispute, replace(request, card_keys=other), TraceChainInvalid, link=Link.CARD)
    sign1 = cose.parse_sign1(request.card_keys, max_bytes=ANY)
    elsewhere = cose.sign(
        key, name=CardKeys.NAME, claims=replace(sign1.claims, audience="tsm-2"), payload=sign1.payload
    )  # fmt: skip
    denied(dispute, replace(request, card_keys=elsewhere), TraceChainInvalid, link=Link.CARD)


def receipt_of(dispute: Dispute, request: TraceRequest, key: PrivateKey | None = None, **changes: Any) -> bytes:
    """The receipt with other words, by the TSM's own key unless another is given."""
    said = AuthorizationDecision.from_bytes(cose.parse_sign1(request.receipt, max_bytes=ANY).payload).decided
    return signed_by(
        dispute, key or dispute.tsm.value.keys.sign, AuthorizationDecision, request.receipt,
        Wire(cose=request.authorization).digest, decided=replace(said, **changes),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("sale", bytes(16)), ("verdict", Verdict.DECLINED), ("merchant", "shop-2"), ("terminal", "T0000009"),
        ("pan", "0" * 19), ("atc", 77), ("unpredictable", bytes(4)), ("amount_minor", 1), ("currency", "EUR"),
        ("issuer_data", b"\x00"), ("cryptogram", bytes(8)),
    ],
)  # fmt: skip
def test_a_receipt_that_says_something_else(dispute: Dispute, field: str, value: Any) -> None:
    request = dispute.chain(dispute.buy())
    receipt = receipt_of(dispute, request, **{field: value})
    denied(dispute, replace(request, receipt=receipt), TraceChainInvalid, link=Link.RECEIPT)


def test_a_receipt_that_the_tsm_did_not_sign_or_for_another_request(dispute: Dispute) -> None:
    request = dispute.chain(dispute.buy())
    forged = receipt_of(dispute, request, key=dispute.world.key())
    denied(dispute, replace(request, receipt=forged), TraceChainInvalid, link=Link.RECEIPT)
    key = dispute.tsm.value.keys.sign
    unbound = signed_by(dispute, key, AuthorizationDecision, request.receipt, bytes(32))
    denied(dispute, replace(request, receipt=unbound), TraceChainInvalid, link=Link.RECEIPT)
    assert dispute.ask(replace(request, receipt=receipt_of(dispute, request))).answer == b""  # the sibling is accepted


def rewritten(dispute: Dispute, request: TraceRequest, **changes: Any) -> TraceRequest:
    """The terminal's request with other EMV data, and a receipt for it."""
    sign1 = cose.parse_sign1(request.authorization, max_bytes=ANY)
    asked = Authorization.from_bytes(sign1.payload)
    terminal = changes.pop("terminal", asked.terminal)
    message = replace(asked, terminal=terminal, purchase=replace(asked.purchase, **changes))
    made = cose.sign(dispute.counter.key, name=Authorization.NAME, claims=sign1.claims, payload=message.to_bytes())
    request = replace(request, authorization=made)
    return replace(request, receipt=receipt_of(dispute, request))


def test_a_purchase_that_the_card_did_not_sign(dispute: Dispute) -> None:
    """TSM and merchant together: other amount, other terminal, other counter, or a date that is none."""
    purchase = dispute.buy()
    request = dispute.chain(purchase)
    dear = profile.PDOL.build(profile.PDOL.split(purchase.pdol_data) | {0x9F02: bytes.fromhex("000000099999")})
    said = profile.CDOL1.split(purchase.cdol_data)
    for changes, link in (
        ({"pdol_data": dear}, Link.PURCHASE),
        ({"atc": purchase.atc + 1}, Link.PURCHASE),
        ({"signature": flipped(purchase.signature)}, Link.PURCHASE),
        ({"records": purchase.records[:-1]}, Link.PURCHASE),
        ({"cdol_data": b"\x00"}, Link.PURCHASE),
        ({"cdol_data": profile.CDOL1.build(said | {0x9A: bytes.fromhex("260230")})}, Link.PURCHASE),
        ({"cdol_data": profile.CDOL1.build(said | {0x9A: b"\xaa\xaa\xaa"})}, Link.PURCHASE),
        ({"sale": bytes(16)}, Link.RECEIPT),
        ({"terminal": "T0000009"}, Link.RECEIPT),
    ):
        denied(dispute, rewritten(dispute, request, **changes), TraceChainInvalid, link=link)
    assert dispute.ask(rewritten(dispute, request)).progress is TraceProgress.EXPECT_OFFICERS


def test_another_message_in_the_place_of_the_terminals_request(dispute: Dispute) -> None:
    request = dispute.chain(dispute.buy())
    denied(dispute, replace(request, authorization=request.card_keys), TraceChainInvalid, link=Link.PURCHASE)
    sign1 = cose.parse_sign1(request.authorization, max_bytes=ANY)
    renamed = cose.sign(dispute.counter.key, name="refund", claims=sign1.claims, payload=sign1.payload)
    other = replace(request, authorization=renamed)
    denied(dispute, replace(other, receipt=receipt_of(dispute, other)), TraceChainInvalid, link=Link.PURCHASE)


def test_old_evidence_is_as_good_as_new(dispute: Dispute) -> None:
    """A year later the messages are long out of date, the card has expired, and the chain holds."""
    purchase = dispute.buy()
    request = dispute.chain(purchase)
    dispute.world.clock.time_s += 360 * 24 * 3600
    assert dispute.ask(request).progress is TraceProgress.EXPECT_OFFICERS


# --- the case --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("reason", ["curiosity", "marketing", "dispute-", "-"])
def test_a_reason_that_is_not_on_the_list(dispute: Dispute, reason: str) -> None:
    request = dispute.chain(dispute.buy())
    denied(dispute, replace(request, reason=reason), TraceReasonUnknown)


@pytest.mark.parametrize("requester", ["nobody", "phone-1"])
def test_a_requester_to_whom_nothing_can_be_sealed(dispute: Dispute, requester: str) -> None:
    request = dispute.chain(dispute.buy())
    denied(dispute, replace(request, requester=requester), UnknownKey)


def test_a_second_case_for_one_purchase(dispute: Dispute) -> None:
    """Also after the first was refused: nobody looks for kinder officers."""
    purchase = dispute.buy()
    request = dispute.chain(purchase)
    dispute.ask(request)
    again = replace(request, case=bytes(15) + b"\x01", reason="fraud")
    denied(dispute, again, TraceRepeated)
    dispute.submit(dispute.verdict("officer-1", REFUSE))
    denied(dispute, again, TraceRepeated)
    other = dispute.chain(dispute.buy(), case=again.case)
    assert dispute.ask(other).progress is TraceProgress.EXPECT_OFFICERS


def test_another_content_under_a_cases_name(dispute: Dispute) -> None:
    request = dispute.chain(dispute.buy())
    dispute.ask(request)
    denied(dispute, replace(request, reason="fraud"), IdentifierTaken)
    denied(dispute, replace(request, requester="tsm-1"), IdentifierTaken)
    dispute.world.add_tsm("tsm-2")
    denied(dispute, request, IdentifierTaken, tsm="tsm-2")
    assert dispute.ask(request).progress is TraceProgress.EXPECT_OFFICERS


def test_asked_again_a_case_says_how_it_stands_and_nothing_is_logged(dispute: Dispute) -> None:
    request = dispute.chain(dispute.buy())
    states = [dispute.ask(request)]
    lines = dispute.lines()
    states.append(dispute.ask(request))
    assert dispute.lines() == lines == [("request", "tsm-1", "")]
    dispute.approve("officer-1")
    states.append(dispute.ask(request))
    dispute.approve("officer-2")
    states.append(dispute.ask(request))
    assert [state.progress.value for state in states] == [*["EXPECT_OFFICERS"] * 3, "ANSWERED"]
    assert [bool(state.answer) for state in states] == [False, False, False, True]


def test_the_same_bytes_of_a_refused_request_are_logged_once(dispute: Dispute) -> None:
    request = replace(dispute.chain(dispute.buy()), reason="curiosity")
    wire = dispute.sealed(request)
    for _ in range(3):
        with pytest.raises(TraceReasonUnknown):
            dispute.send(wire)
    assert dispute.lines() == [("refused-request", "tsm-1", "TRACE_REASON_UNKNOWN")]


class Overtaken(RequestTraceStep):
    """While a chain is being checked, another request comes in and is decided."""

    meanwhile: Callable[[], Any]

    def prepare(self, incoming: Incoming[Tracing], ctx: Context) -> Incoming[Tracing]:
        prepared = super().prepare(incoming, ctx)
        self.meanwhile()
        return prepared


@pytest.mark.parametrize(
    ("changes", "error"), [({"case": b"\x02" * 16}, TraceRepeated), ({"reason": "fraud"}, IdentifierTaken)]
)
def test_two_cases_that_race_for_one_purchase(dispute: Dispute, changes: Any, error: type[ProtocolError]) -> None:
    """Both chains were good before either was decided: the second sees the first's case."""
    request = dispute.chain(dispute.buy())
    honest, overtaken = dispute.bank.steps["Bank.RequestTrace"], Overtaken(dispute.bank.value)

    def first() -> None:
        dispute.world.swap_step(BANK, honest)
        dispute.ask(replace(request, **changes))

    overtaken.meanwhile = first
    dispute.world.swap_step(BANK, overtaken)
    with pytest.raises(error) as refusal:
        dispute.ask(request)
    assert refusal.value.code == error.code
    assert [kind for kind, _, _ in dispute.lines()] == ["request", "refused-request"]


def test_the_same_case_asked_twice_at_once_is_one_case(dispute: Dispute) -> None:
    request = dispute.chain(dispute.buy())
    honest, overtaken = dispute.bank.steps["Bank.RequestTrace"], Overtaken(dispute.bank.value)

    def first() -> None:
        dispute.world.swap_step(BANK, honest)
        dispute.ask(request)

    overtaken.meanwhile = first
    dispute.world.swap_step(BANK, overtaken)
    assert dispute.ask(request).progress is TraceProgress.EXPECT_OFFICERS
    assert [kind for kind, _, _ in dispute.lines()] == ["request"]


# --- the officers ----------------------------------------------------------------------------------------------------
@pytest.fixture
def case(dispute: Dispute) -> Dispute:
    dispute.ask(dispute.chain(dispute.buy()))
    return dispute


def insufficient(dispute: Dispute, signed: bytes) -> None:
    """Refused; nothing has changed, the log neither."""
    with refused(dispute.world, OfficersInsufficient, "OFFICERS_INSUFFICIENT", unchanged=(BANK,)):
        dispute.submit(signed)


def test_one_officer_is_not_enough(case: Dispute) -> None:
    for officers in ((), ("officer-1",)):
        for officer in officers:
            case.approve(officer)
        with refused(case.world, OfficersInsufficient, "OFFICERS_INSUFFICIENT", unchanged=(BANK,)):
            answer_of(case.bank.store, CASE)
    assert case.case().answer == b""
    case.approve("officer-2")
    assert answer_of(case.bank.store, CASE) == case.case().answer != b""


def test_the_same_officer_twice(case: Dispute) -> None:
    case.approve("officer-1")
    insufficient(case, case.verdict("officer-1"))
    insufficient(case, case.verdict("officer-1", REFUSE))
    assert [row.officer for row in case.bank.store.scan(TRACE_SIGNATURES)] == ["officer-1"]


def test_nobodys_and_other_peoples_signatures(case: Dispute) -> None:
    stranger = case.world.key()
    clerk = case.bank.value.keys.signer
    for signer in (
        Signer(name="officer-2", key=stranger),
        Signer(name="officer-1", key=case.officers["officer-2"]),
        clerk,
        case.tsm.value.keys.signer,
    ):
        insufficient(case, case.verdict("officer-2", signer=signer))
    good = case.verdict("officer-2")
    insufficient(case, flipped(good))
    insufficient(case, good[:-1])
    insufficient(case, b"")


def test_a_verdict_on_something_else_or_for_another_bank(case: Dispute) -> None:
    for changes in ({"case": b"\x09" * 16}, {"bank": "bank-b"}, {"request_digest": bytes(32)}):
        insufficient(case, case.verdict("officer-1", **changes))
    insufficient(case, envelope.sign(
        Signer(name="officer-1", key=case.officers["officer-1"]), GetSale(sale=CASE), audience=BANK,
        stamp=Stamp.fresh(case.now_s, case.world.entropy),
    ))  # fmt: skip
    old = case.verdict("officer-1")
    case.world.clock.time_s += 2 * 3600
    insufficient(case, old)


def test_a_removed_officer(case: Dispute) -> None:
    """They sign no more, and what they signed counts no more."""
    case.approve("officer-1")
    late = case.verdict("officer-2")
    for officer in ("officer-1", "officer-2"):
        unit = remove(case.bank.value, officer=officer, now_s=case.now_s, entropy=case.world.entropy)
        case.bank.store.apply(unit)
    insufficient(case, late)
    assert case.approve("officer-3").state == "EXPECT_OFFICERS"
    case.appoint("officer-4")
    assert case.approve("officer-4").state == "ANSWERED"
    for officer in ("officer-1", "officer-9"):
        with refused(case.world, WrongState, "WRONG_STATE", unchanged=(BANK,)):
            case.bank.store.apply(
                remove(case.bank.value, officer=officer, now_s=case.now_s, entropy=case.world.entropy)
            )


def test_an_officer_who_is_removed_while_they_sign(case: Dispute) -> None:
    unit = Officers(case.bank.value, case.bank.store).take(
        CASE, case.verdict("officer-1"), case.now_s, case.world.entropy
    )
    case.bank.store.apply(remove(case.bank.value, officer="officer-1", now_s=case.now_s, entropy=case.world.entropy))
    with refused(case.world, OfficersInsufficient, "OFFICERS_INSUFFICIENT", unchanged=(BANK,)):
        case.bank.store.apply(unit)


def test_a_name_or_key_is_appointed_once(case: Dispute) -> None:
    for name, key in (("officer-1", case.world.key()), ("officer-9", case.officers["officer-1"])):
        unit = appoint(
            case.bank.value, officer=name, key=key.public, now_s=case.now_s, entropy=case.world.entropy
        )  # fmt: skip
        with refused(case.world, IdentifierTaken, "IDENTIFIER_TAKEN", unchanged=(BANK,)):
            case.bank.store.apply(unit)


def test_one_refusal_ends_a_case(case: Dispute) -> None:
    case.approve("officer-1")
    assert case.submit(case.verdict("officer-2", REFUSE)).state == "REFUSED"
    with refused(case.world, WrongState, "WRONG_STATE", unchanged=(BANK,)):
        case.approve("officer-3")
    with refused(case.world, WrongState, "WRONG_STATE", unchanged=(BANK,)):
        answer_of(case.bank.store, CASE)
    assert case.case().answer == b""
    assert case.lines() == [
        ("request", "tsm-1", ""), ("approval", "officer-1", ""), ("refusal", "officer-2", "")
    ]  # fmt: skip


def test_a_case_that_is_answered_takes_no_more(case: Dispute) -> None:
    case.approve("officer-1", "officer-2")
    with refused(case.world, WrongState, "WRONG_STATE", unchanged=(BANK,)):
        case.submit(case.verdict("officer-3", REFUSE))


def test_a_case_that_is_none(dispute: Dispute) -> None:
    with refused(dispute.world, WrongState, "WRONG_STATE", unchanged=(BANK,)):
        dispute.submit(b"", CASE)


def test_a_requester_whose_certificate_is_gone_gets_no_answer(case: Dispute) -> None:
    case.approve("officer-1")
    signed = case.verdict("officer-2")
    kept = list(case.world.directory.identities)
    case.world.directory.identities[:] = [i for i in kept if (i.name, i.use) != (SHOP, Use.SEAL)]
    with refused(case.world, UnknownKey, "UNKNOWN_KEY", unchanged=(BANK,)):
        case.submit(signed)
    case.world.directory.identities[:] = kept
    assert case.submit(signed).state == "ANSWERED"


# --- what is told to whom --------------------------------------------------------------------------------------------
def test_the_person_is_named_to_the_requester_alone(case: Dispute) -> None:
    case.approve("officer-1", "officer-2")
    told = case.answered(case.case().answer, case.world.merchant)
    row = case.case()
    assert (told.person, told.case, told.reason) == ("A Person", CASE, "dispute")
    assert (told.customer, told.aid, told.purchase_digest) == (row.customer, row.aid, row.purchase_digest)
    assert case.lines() == [
        ("request", "tsm-1", ""), ("approval", "officer-1", ""), ("approval", "officer-2", ""), ("answer", SHOP, "")
    ]  # fmt: skip
    assert [row.case_id for row in case.bank.store.scan(TRACE_CASES)] == [CASE]
    for party in ("tsm-1", "bank-b"):
        with pytest.raises(ProtocolError) as refusal:
            case.answered(row.answer, case.world.parties[party].value.keys)
        assert refusal.value.code == "DECRYPTION_FAILED"


def test_an_answer_that_no_bank_signed(case: Dispute) -> None:
    case.approve("officer-1", "officer-2")
    shop = case.world.merchant
    told = case.answered(case.case().answer, shop)
    for signer, code in (
        (case.tsm.value.keys.signer, "WRONG_ISSUER"),
        (Signer(name=BANK, key=case.world.key()), "UNKNOWN_KEY"),
        (Signer(name="bank-b", key=case.bank.value.keys.sign), "WRONG_ISSUER"),
    ):
        stamp = Stamp.fresh(case.now_s, case.world.entropy)
        signed = envelope.sign(signer, told, audience=SHOP, stamp=stamp)
        sealed = cose.seal(shop.seal.public, name=told.NAME, plaintext=signed)
        with pytest.raises(ProtocolError) as refusal:
            case.answered(sealed, shop)
        assert refusal.value.code == code


def test_a_trace_is_asked_for_by_a_tsm_over_its_own_line(dispute: Dispute) -> None:
    wire = dispute.sealed(dispute.chain(dispute.buy()))
    with refused(dispute.world, WrongPeer, "WRONG_PEER", unchanged=(BANK,)):
        dispute.world.deliver(BANK, "Bank.RequestTrace", wire, Peer(role=Role.MERCHANT, name="tsm-1"))


def test_officers_see_the_request_that_was_proved(case: Dispute) -> None:
    row = case.case()
    shown = request_of(case.bank.store, row)
    assert sha256(shown.to_bytes()) == row.request_digest
    assert (shown.case, shown.reason, shown.requester, shown.aid) == (CASE, row.reason, row.requester, row.aid)
