"""TRACE at the TSM: the chain out of what was kept, and one case a purchase however often it is asked about."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.attacker import ANY, refused
from support.customer import amend
from support.tracing import BANK, CASE, SHOP, Dispute, Line, resealed
from support.world import World

from protocol import cose
from protocol.engine import EVIDENCE
from protocol.envelope import REQUEST_LIFETIME_S, Wire
from protocol.errors import (
    FieldMismatch,
    IdentifierTaken,
    Overloaded,
    ProtocolError,
    PurchaseUnknown,
    SignatureInvalid,
    TraceChainInvalid,
    TraceReasonUnknown,
    Unavailable,
    WrongState,
)
from protocol.messages.pay import Authorization
from protocol.messages.trace import TraceProgress, TraceState
from protocol.roles.bank.officers import REFUSE
from protocol.roles.bank.tables import TRACE_CASES
from protocol.roles.tsm.tables import CARDS, PURCHASES, TID_LIST, TRACES
from protocol.roles.tsm.trace import seal_request
from protocol.rows import Decision, Delete, Key, Unit

TSM = "tsm-1"


@pytest.fixture
def dispute(tmp_path: Path) -> Dispute:
    return Dispute.arise(World(tmp_path, seed="tsm-trace"))


def cases(dispute: Dispute) -> int:
    return len(dispute.bank.store.scan(TRACE_CASES))


# --- the chain -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_batches_of_every_shape(tmp_path: Path, number: int) -> None:
    dispute = Dispute.arise(World(tmp_path, seed=f"batch-{number}"), number=number)
    for nth in range(number):
        request = dispute.chain(dispute.buy(), case=bytes([nth]) * 16)
        assert request.leaves == number
        assert dispute.ask(request).progress is TraceProgress.EXPECT_OFFICERS
    assert cases(dispute) == number


def test_no_other_card_and_no_other_purchase_is_shown(dispute: Dispute) -> None:
    """Of the batch's other cards, key, salt and leaf stay hidden; so does every other purchase."""
    first, second = dispute.buy(), dispute.buy(amount_minor=7_777)
    request = dispute.chain(first)
    shown = request.to_bytes()
    others = [row for row in dispute.tsm.store.scan(CARDS) if row.modulus != request.modulus]
    assert len(others) == 3
    for row in others:
        for secret in (row.modulus, row.salt, row.pan.encode(), bytes.fromhex(row.pan + "0")[:9]):
            assert secret not in shown
    for secret in (second.sale, second.signature, bytes.fromhex("000000007777")):
        assert secret not in shown


def test_a_refunded_purchase_and_a_closed_account_can_be_traced(dispute: Dispute) -> None:
    from protocol.roles.wallet import close_service

    purchase = dispute.buy()
    dispute.counter.refund(purchase.sale, 100)
    phone = dispute.customer.phone
    dispute.world.run(phone, close_service(phone.wallet, tsm=TSM, tid=dispute.customer.tid))
    assert dispute.ask(dispute.chain(purchase)).progress is TraceProgress.EXPECT_OFFICERS


def test_what_there_is_no_chain_for(dispute: Dispute) -> None:
    reversed_, batched = dispute.buy(), dispute.customer.ask()
    dispute.counter.reverse(reversed_.sale)
    dispute.counter.authorize_batch(batched)
    for sale, merchant, error in (
        (bytes(16), SHOP, PurchaseUnknown),
        (batched.sale, "shop-2", PurchaseUnknown),
        (reversed_.sale, SHOP, WrongState),
        (batched.sale, SHOP, TraceChainInvalid),
    ):
        with refused(dispute.world, error, error.code):
            dispute.trace(batched, sale=sale, merchant=merchant)


@pytest.mark.parametrize(
    ("table", "columns"),
    [
        (TID_LIST, {"proof": b""}), (CARDS, {"keys_request": b""}), (PURCHASES, {"request": b""}),
        (PURCHASES, {"receipt_digest": bytes(32)}), (CARDS, {"k_ac": bytes(16)}), (CARDS, {"modulus": bytes(176)}),
    ],
)  # fmt: skip
def test_rows_that_no_chain_can_be_made_of(dispute: Dispute, table: Any, columns: dict[str, bytes]) -> None:
    """What came before evidence was linked, or was damaged: nothing is asked."""
    purchase = dispute.buy()
    amend(dispute.world, TSM, table, **columns)
    with refused(dispute.world, TraceChainInvalid, "TRACE_CHAIN_INVALID"):
        dispute.trace(purchase)


def test_evidence_that_is_gone(dispute: Dispute) -> None:
    purchase = dispute.buy()
    store = dispute.tsm.store
    (row,) = [row for row in store.scan(EVIDENCE) if row.message == Authorization.NAME]
    reads = (Key(EVIDENCE, (row.digest, row.message)),)
    store.apply(Unit(reads, lambda rows: Decision(writes=(Delete(EVIDENCE, row),))))
    with refused(dispute.world, TraceChainInvalid, "TRACE_CHAIN_INVALID"):
        dispute.trace(purchase)


def test_the_receipt_is_the_decision_that_was_answered(dispute: Dispute) -> None:
    purchase = dispute.buy()
    payload = cose.parse_sign1(dispute.chain(purchase).receipt, max_bytes=ANY).payload
    (answered,) = [
        cose.parse_sign1(reply.cose, max_bytes=ANY).payload for _, rpc, _, reply in dispute.world.calls
        if rpc == "Tsm.Authorize" and isinstance(reply, Wire)
    ]  # fmt: skip
    assert payload == answered


# --- the question ----------------------------------------------------------------------------------------------------
def test_from_the_question_to_the_name(dispute: Dispute) -> None:
    purchase = dispute.buy()
    row = dispute.trace(purchase, case=b"")
    assert (row.state, row.answer, row.request, len(row.case_id)) == ("EXPECT_OFFICERS", b"", b"", 16)
    case = row.case_id
    dispute.approve("officer-1", case=case)
    assert dispute.trace(purchase, case=b"").state == "EXPECT_OFFICERS"
    dispute.approve("officer-3", case=case)
    row = dispute.trace(purchase, case=case)
    assert row.state == "ANSWERED"
    told = dispute.answered(row.answer, dispute.world.merchant)
    assert (told.person, told.case) == ("A Person", case)
    sent = Line(dispute)
    assert dispute.trace(purchase, sent, case=case) == row
    assert sent.sent == []


def test_a_case_that_is_refused_ends(dispute: Dispute) -> None:
    purchase = dispute.buy()
    dispute.trace(purchase)
    dispute.submit(dispute.verdict("officer-2", REFUSE))
    assert (dispute.trace(purchase).state, dispute.trace(purchase).answer) == ("REFUSED", b"")


@pytest.mark.parametrize("fault", [Unavailable(), Overloaded()])
def test_a_lost_answer_is_asked_for_with_the_same_bytes(dispute: Dispute, fault: ProtocolError) -> None:
    purchase, line = dispute.buy(), Line(dispute)

    def lost(answer: Wire) -> Wire:
        raise fault

    line.faults = [fault, lost]
    for _ in range(2):
        with pytest.raises(type(fault)) as refusal:
            dispute.trace(purchase, line)
        assert refusal.value.code == fault.code
    assert dispute.trace(purchase, line).state == "EXPECT_OFFICERS"
    assert (len(line.sent), len(set(line.sent)), cases(dispute)) == (3, 1, 1)
    assert dispute.lines() == [("request", TSM, "")]


def test_what_is_too_old_is_signed_anew(dispute: Dispute) -> None:
    purchase, line = dispute.buy(), Line(dispute, faults=[Unavailable()])
    with pytest.raises(Unavailable):
        dispute.trace(purchase, line)
    dispute.world.clock.time_s += REQUEST_LIFETIME_S + 1
    assert dispute.trace(purchase, line).state == "EXPECT_OFFICERS"
    assert len(set(line.sent)) == 2


def test_what_the_bank_refused_can_be_asked_again(dispute: Dispute) -> None:
    """A case of this name is not open at the bank, so the mended world may have it."""
    purchase, line = dispute.buy(), Line(dispute)
    with pytest.raises(TraceReasonUnknown):
        dispute.trace(purchase, line, reason="curiosity")
    (row,) = dispute.tsm.store.scan(TRACES)
    assert (row.state, row.request) == ("EXPECT_BANK", b"")
    with pytest.raises(TraceReasonUnknown):
        dispute.trace(purchase, line, reason="curiosity")
    assert len(set(line.sent)) == 2


@pytest.mark.parametrize("changes", [{"case": b"\x01" * 16}, {"reason": "fraud"}, {"requester": TSM}])
def test_a_purchase_has_one_case(dispute: Dispute, changes: dict[str, Any]) -> None:
    purchase = dispute.buy()
    dispute.trace(purchase)
    with refused(dispute.world, IdentifierTaken, "IDENTIFIER_TAKEN"):
        dispute.trace(purchase, **changes)


def test_answers_that_are_none(dispute: Dispute) -> None:
    purchase, line = dispute.buy(), Line(dispute)
    said = TraceState(case=bytes(16), progress=TraceProgress.ANSWERED, answer=b"")

    def of_another_case(answer: Wire) -> Wire:
        return resealed(dispute, said, Wire(cose=line.sent[-1]))

    def signed_by_another(answer: Wire) -> Wire:
        return resealed(dispute, said, Wire(cose=line.sent[-1]), dispute.world.parties["bank-b"].value.keys)

    line.faults = [of_another_case, signed_by_another]
    for error in (FieldMismatch, SignatureInvalid):
        with pytest.raises(error) as refusal:
            dispute.trace(purchase, line)
        assert refusal.value.code == error.code
        assert [row.state for row in dispute.tsm.store.scan(TRACES)] == ["EXPECT_BANK"]
    assert dispute.trace(purchase, line).state == "EXPECT_OFFICERS"


def test_two_operators_at_once_make_one_case(dispute: Dispute) -> None:
    """While one waits for the bank, the other asks, and hears first: one of them is told so."""
    purchase, line = dispute.buy(), Line(dispute)

    def meanwhile(answer: Wire) -> Wire:
        assert dispute.trace(purchase).state == "EXPECT_OFFICERS"
        return answer

    line.faults = [meanwhile]
    with pytest.raises(WrongState) as refusal:
        dispute.trace(purchase, line)
    assert refusal.value.code == "WRONG_STATE"
    assert (cases(dispute), len(dispute.tsm.store.scan(TRACES))) == (1, 1)


def test_a_case_that_was_opened_meanwhile_is_taken_up(dispute: Dispute) -> None:
    """The second finds no row yet, and stores none of its own when the first one has."""
    purchase = dispute.buy()

    class Slow:
        """A store in which somebody else's case appears between looking and storing."""

        def __init__(self) -> None:
            self.late = True

        def __getattr__(self, name: str) -> Any:
            return getattr(dispute.tsm.store, name)

        def apply(self, unit: Unit) -> Decision:
            if self.late:
                self.late = False
                dispute.trace(purchase)
            return dispute.tsm.store.apply(unit)

    from protocol.roles.tsm.trace import trace

    about = dispute.disputed(purchase)
    row = trace(dispute.tsm.value, Slow(), Line(dispute), about, dispute.now_s, dispute.world.entropy)
    assert (row.state, row.case_id, cases(dispute)) == ("EXPECT_OFFICERS", CASE, 1)


def test_the_question_is_sealed_to_the_bank(dispute: Dispute) -> None:
    request = dispute.chain(dispute.buy())
    wire = seal_request(dispute.tsm.value, BANK, request, dispute.now_s, dispute.world.entropy)
    for shown in (request.pk_tid, request.modulus, request.aid.encode(), request.sale):
        assert shown not in wire.cose
