"""The lane's units: what taps and answers do to a sale, and what they never do."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.counter import Counter, applet_of, open_card, set_pin, verify_pin
from support.shop import AMOUNT, SHOP, Stall, ready
from support.world import Phone, World

from protocol import envelope
from protocol.card import outcome
from protocol.card.outcome import Kind
from protocol.engine import EVIDENCE
from protocol.envelope import Wire
from protocol.errors import (
    Expired,
    FieldMismatch,
    IdentifierTaken,
    LimitExceeded,
    Overloaded,
    ProtocolError,
    PurchaseUnknown,
    SignatureInvalid,
    Unavailable,
    UnknownKey,
    WrongState,
)
from protocol.messages.pay import (
    Authorization,
    AuthorizationDecision,
    Refund,
    Refunded,
    Reversal,
    ReversalReason,
    Reversed,
    Verdict,
)
from protocol.roles.merchant.giveback import (
    owed_refunds,
    owed_reversals,
    record_refund,
    record_refund_refusal,
    record_reversal,
    sign_refund,
    sign_reversal,
)
from protocol.roles.merchant.lane import (
    close_overdue,
    is_asking,
    is_signed_on,
    record_answer,
    record_refusal,
    record_tap,
    sale_on_lane,
)
from protocol.roles.merchant.tables import SALE_REFUNDS, SALES, TERMINAL_KEYS, SaleRow
from protocol.roles.se.tables import PINS
from protocol.rows import Decision, Key, Unit, Update

PHONE_ONLY = {"phone", "reader", "device", "link", "address", "peer"}


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path, seed="merchant lane")


@pytest.fixture
def stall(world: World) -> Stall:
    return Stall.open(world)


@pytest.fixture
def buyer(world: World) -> tuple[Phone, str]:
    return ready(world)


def online(stall: Stall, buyer: tuple[Phone, str], sale: bytes) -> outcome.Outcome:
    phone, tid = buyer
    open_card(stall.world, phone, tid, AMOUNT)
    tapped = stall.kernel(applet_of(stall.world, phone), sale)
    assert tapped.kind is Kind.ONLINE_REQUEST
    return tapped


def decide(stall: Stall, sale: bytes) -> Wire:
    """The TSM's answer to the stored request."""
    return stall.to_tsm("Tsm.Authorize", stall.row(sale).request)


def answer(stall: Stall, sale: bytes, wire: Wire) -> SaleRow:
    row: SaleRow = stall.apply(record_answer(stall.shop, stall.row(sale), wire, stall.now_s))
    return row


def approved(stall: Stall, buyer: tuple[Phone, str]) -> bytes:
    sale = stall.asked(*buyer)
    assert answer(stall, sale, decide(stall, sale)).progress == "APPROVED"
    return sale


def reverse(stall: Stall, sale: bytes) -> SaleRow:
    """Sign, send, record."""
    row = stall.apply(sign_reversal(stall.shop, stall.row(sale), stall.now_s, stall.world.entropy))
    wire = stall.to_tsm("Tsm.Reverse", row.reversal)
    done: SaleRow = stall.apply(record_reversal(stall.shop, row, wire, stall.now_s))
    return done


# --- taps ------------------------------------------------------------------------------------------------------------
def test_a_tap_goes_online_and_the_answer_approves(stall: Stall, buyer: tuple[Phone, str]) -> None:
    sale = stall.start()
    assert (stall.row(sale).display, stall.row(sale).outcome) == ("Present card", "")
    tapped = online(stall, buyer, sale)
    row = stall.record(sale, tapped)
    assert (row.progress, row.outcome, row.display) == (
        "EXPECT_DECISION", "ONLINE_REQUEST", "Authorizing, please wait",
    )  # fmt: skip
    assert tapped.online is not None
    assert (row.card, row.cryptogram) == (f"999910{'*' * 9}{tapped.online.pan[-4:]}", tapped.online.cryptogram)
    assert row.deadline_s == stall.now_s + 20
    assert is_asking(stall.party.store)
    wire = decide(stall, sale)
    request = row.request
    row = answer(stall, sale, wire)
    assert (row.progress, row.outcome, row.display) == ("APPROVED", "APPROVED", "Approved")
    assert (row.request, row.cryptogram, row.receipt, row.lane) == (b"", b"", wire.cose, sale)
    decided = stall.heard(AuthorizationDecision, request, wire).decided
    assert (decided.verdict, decided.amount_minor) == (Verdict.APPROVED, AMOUNT)
    assert not is_asking(stall.party.store)
    assert sale_on_lane(stall.party.store, stall.shop) is None


def test_the_request_is_signed_by_the_terminals_key_for_the_tsm(stall: Stall, buyer: tuple[Phone, str]) -> None:
    row = stall.row(stall.asked(*buyer))
    (key,) = stall.party.store.scan(TERMINAL_KEYS)
    sign1 = envelope.peek(Authorization, row.request)
    assert (sign1.claims.issuer, sign1.claims.audience) == (SHOP, "tsm-1")
    message = Authorization.from_bytes(sign1.payload)
    assert (message.terminal, message.purchase.sale) == (stall.shop.terminal, row.sale)
    assert key.state == "ACTIVE"


def test_no_column_can_hold_a_phone_or_a_reader() -> None:
    columns = {name for table in (SALES, SALE_REFUNDS) for name in table.row.__dataclass_fields__}
    assert not [name for name in columns if any(word in name for word in PHONE_ONLY)]
    assert {"request", "cryptogram", "receipt", "reversal"} == SALES.sealed


def test_over_the_limit_the_first_tap_asks_for_the_phone_and_the_second_pays(
    world: World, stall: Stall, buyer: tuple[Phone, str]
) -> None:
    phone, tid = buyer
    set_pin(world, phone)
    assert phone.party.store.scan(PINS)
    amount_minor = world.parties["tsm-1"].value.policy.verify_above_minor + 1
    sale = stall.start(amount_minor)
    open_card(world, phone, tid, amount_minor)
    card = applet_of(world, phone)
    world.clock.time_s += 50
    row = stall.record(sale, stall.kernel(card, sale))
    assert (row.progress, row.outcome, row.display) == ("EXPECT_TAP", "TRY_AGAIN", "See phone for instructions")
    assert row.deadline_s == stall.now_s + 60  # time to look at the phone
    counter = Counter(world=world, keys=world.merchant, key=world.key(), terminal=stall.terminal)
    verify_pin(world, phone, counter.opening(phone))
    assert stall.record(sale, stall.kernel(card, sale)).progress == "EXPECT_DECISION"
    assert answer(stall, sale, decide(stall, sale)).progress == "APPROVED"


def test_coming_again_does_not_keep_the_lane_for_ever(stall: Stall) -> None:
    sale = stall.start()
    started_at_s = stall.row(sale).started_at_s
    for _ in range(12):
        stall.world.clock.time_s += 20
        row = stall.record(sale, outcome.PRESENT_AGAIN)
        assert (row.progress, row.display) == ("EXPECT_TAP", "Present card again")
    assert row.deadline_s == started_at_s + 180


@pytest.mark.parametrize(
    ("tapped", "named", "display"),
    [
        (outcome.DECLINED, "DECLINED", "Not authorized"),
        (outcome.END_APPLICATION, "END_APPLICATION", "Insert, swipe or try another card"),
        (outcome.TRY_ANOTHER_INTERFACE, "TRY_ANOTHER_INTERFACE", "Please insert or swipe card"),
        (outcome.APPROVED, "DECLINED", "Not authorized"),
    ],
)
def test_any_other_outcome_declines_and_none_approves(
    stall: Stall, tapped: outcome.Outcome, named: str, display: str
) -> None:
    row = stall.record(stall.start(), tapped)
    assert (row.progress, row.outcome, row.display, row.lane) == ("DECLINED", named, display, row.sale)
    assert (row.request, row.receipt) == (b"", b"")
    assert stall.purchases() == []


def test_a_sale_called_off_while_its_card_was_in_the_field_is_not_sent(stall: Stall, buyer: tuple[Phone, str]) -> None:
    sale = stall.start()
    tapped = online(stall, buyer, sale)
    stall.cancel(sale)
    before = stall.row(sale)
    assert (before.progress, before.display) == ("CANCELED", "Canceled")
    assert stall.record(sale, tapped) == before == stall.row(sale)
    assert before.request == b""


def test_without_a_key_of_the_tsms_nothing_is_signed(stall: Stall, buyer: tuple[Phone, str]) -> None:
    sale = stall.start()
    tapped = online(stall, buyer, sale)
    stall.begin_sign_on()
    assert not is_signed_on(stall.party.store, stall.shop, stall.now_s)
    row = stall.record(sale, tapped)
    assert (row.progress, row.outcome, row.display) == ("EXPECT_TAP", "TRY_AGAIN", "Present card again")
    assert row.request == b""


def test_an_expired_key_is_none(stall: Stall) -> None:
    (key,) = stall.party.store.scan(TERMINAL_KEYS)
    assert is_signed_on(stall.party.store, stall.shop, key.expires_at_s)
    assert not is_signed_on(stall.party.store, stall.shop, key.expires_at_s + 1)
    assert not is_signed_on(stall.party.store, replace(stall.shop, terminal="T9999999"), stall.now_s)


def test_a_card_that_the_message_has_no_room_for_is_turned_away(stall: Stall, buyer: tuple[Phone, str]) -> None:
    sale = stall.start()
    tapped = online(stall, buyer, sale)
    assert tapped.online is not None
    wide = replace(tapped, online=replace(tapped.online, issuer_data=bytes(33)))
    row = stall.record(sale, wide)
    assert (row.progress, row.outcome, row.request, row.card) == ("DECLINED", "END_APPLICATION", b"", "")


# --- answers ---------------------------------------------------------------------------------------------------------
def test_a_decline_keeps_nothing_of_the_card_but_its_mask(stall: Stall, buyer: tuple[Phone, str]) -> None:
    sale = stall.asked(*buyer)
    request = stall.row(sale).request
    decided = stall.heard(AuthorizationDecision, request, decide(stall, sale)).decided
    for verdict, display in ((Verdict.DECLINED, "Not authorized"), (Verdict.VERIFY, "See phone for instructions")):
        unproved = replace(decided, verdict=verdict, pan="", amount_minor=0, currency="", cryptogram=b"")
        saved = stall.row(sale)
        wire = stall.answered(request, AuthorizationDecision(decided=unproved))
        row = answer(stall, sale, wire)
        assert (row.progress, row.outcome, row.display) == ("DECLINED", "DECLINED", display)
        assert (row.request, row.cryptogram, row.receipt) == (b"", b"", b"")
        restore(stall, saved)


def restore(stall: Stall, row: SaleRow) -> None:
    stall.apply(Unit((Key(SALES, (row.sale,)),), lambda _rows: Decision(writes=(Update(SALES, row),))))


CHANGES: dict[str, dict[str, Any]] = {
    "sale": {"sale": bytes(16)}, "merchant": {"merchant": "shop-2"}, "terminal": {"terminal": "T0000002"},
    "amount": {"amount_minor": AMOUNT - 1}, "currency": {"currency": "EUR"}, "card": {"pan": "9" * 19},
    "counter": {"atc": 99}, "unpredictable": {"unpredictable": bytes(4)}, "issuer data": {"issuer_data": bytes(8)},
    "cryptogram": {"cryptogram": bytes(8)},
}  # fmt: skip


@pytest.mark.parametrize("what", CHANGES)
def test_a_receipt_of_something_else_is_none(stall: Stall, buyer: tuple[Phone, str], what: str) -> None:
    sale = stall.asked(*buyer)
    before = stall.row(sale)
    decided = stall.heard(AuthorizationDecision, before.request, decide(stall, sale)).decided
    changed = replace(decided, **CHANGES[what])
    wire = stall.answered(before.request, AuthorizationDecision(decided=changed))
    with pytest.raises(FieldMismatch) as caught:
        answer(stall, sale, wire)
    assert caught.value.code == "FIELD_MISMATCH"
    assert stall.row(sale) == before


def test_an_approved_card_that_was_asked_other_things_is_refused(stall: Stall, buyer: tuple[Phone, str]) -> None:
    sale = stall.start()
    tapped = online(stall, buyer, sale)
    assert tapped.online is not None
    row = stall.record(sale, replace(tapped, online=replace(tapped.online, pdol_data=b"\x01")))
    real = online_decided(stall, row)
    with pytest.raises(FieldMismatch) as caught:
        answer(stall, sale, stall.answered(row.request, AuthorizationDecision(decided=real)))
    assert caught.value.code == "FIELD_MISMATCH"
    assert stall.row(sale) == row


def online_decided(stall: Stall, row: SaleRow) -> Any:
    """What a TSM would say that approves whatever it is asked."""
    declined = stall.heard(AuthorizationDecision, row.request, stall.to_tsm("Tsm.Authorize", row.request)).decided
    return replace(declined, verdict=Verdict.APPROVED, amount_minor=row.amount_minor, currency=row.currency)


@pytest.mark.parametrize("lie", ["another request", "another key"])
def test_an_answer_must_be_the_tsms_to_this_request(stall: Stall, buyer: tuple[Phone, str], lie: str) -> None:
    sale = stall.asked(*buyer)
    before = stall.row(sale)
    decided = stall.heard(AuthorizationDecision, before.request, decide(stall, sale))
    wire = stall.answered(b"another" if lie == "another request" else before.request, decided)
    if lie == "another key":
        sign1 = envelope.peek(AuthorizationDecision, wire.cose)
        wire = Wire(cose=wire.cose.replace(sign1.signature, bytes(64)))
    with pytest.raises(SignatureInvalid) as caught:
        answer(stall, sale, wire)
    assert caught.value.code == "SIGNATURE_INVALID"
    assert stall.row(sale) == before


def test_an_answer_past_the_deadline_approves_nothing(stall: Stall, buyer: tuple[Phone, str]) -> None:
    sale = stall.asked(*buyer)
    wire = decide(stall, sale)
    stall.world.clock.time_s += 20
    saved = stall.row(sale)
    assert answer(stall, sale, wire).progress == "APPROVED"
    restore(stall, saved)
    stall.world.clock.time_s += 1
    row = answer(stall, sale, wire)
    assert (row.progress, row.outcome, row.display) == ("EXPECT_REVERSAL", "DECLINED", "Not authorized")
    assert (row.request, row.receipt) == (b"", b"")


def test_an_answer_to_a_sale_that_was_called_off_changes_nothing(stall: Stall, buyer: tuple[Phone, str]) -> None:
    sale = stall.asked(*buyer)
    pending, wire = stall.row(sale), decide(stall, sale)
    assert stall.cancel(sale).progress == "EXPECT_REVERSAL"
    before = stall.row(sale)
    assert stall.apply(record_answer(stall.shop, pending, wire, stall.now_s)) == before == stall.row(sale)
    assert stall.apply(record_refusal(pending, UnknownKey())) == before == stall.row(sale)


@pytest.mark.parametrize(
    ("refusal", "progress"),
    [(Unavailable(), "EXPECT_DECISION"), (Overloaded(), "EXPECT_DECISION"), (UnknownKey(), "EXPECT_REVERSAL"),
     (WrongState(), "EXPECT_REVERSAL")],
)  # fmt: skip
def test_a_refusal_is_given_up_and_silence_is_not(
    stall: Stall, buyer: tuple[Phone, str], refusal: ProtocolError, progress: str
) -> None:
    sale = stall.asked(*buyer)
    before = stall.row(sale)
    row = stall.apply(record_refusal(before, refusal))
    assert row.progress == progress
    assert (row == before) == (progress == "EXPECT_DECISION")


def test_deadlines(stall: Stall, buyer: tuple[Phone, str]) -> None:
    waiting = stall.start()
    row = stall.row(waiting)
    assert stall.apply(close_overdue(row, row.deadline_s)) == row == stall.row(waiting)
    ended = stall.apply(close_overdue(row, row.deadline_s + 1))
    assert (ended.progress, ended.display, ended.lane) == ("CANCELED", "Canceled", waiting)
    assert stall.apply(close_overdue(row, row.deadline_s + 1)) == ended  # ended meanwhile
    asked = stall.asked(*buyer)
    row = stall.row(asked)
    assert stall.apply(close_overdue(row, row.deadline_s)) == row
    assert stall.apply(close_overdue(row, row.deadline_s + 1)).progress == "EXPECT_REVERSAL"


# --- reversals -------------------------------------------------------------------------------------------------------
def test_without_an_answer_the_tsm_is_told_to_take_it_back(stall: Stall, buyer: tuple[Phone, str]) -> None:
    sale = stall.asked(*buyer)
    decide(stall, sale)
    stall.cancel(sale)
    assert [row.sale for row in owed_reversals(stall.party.store)] == [sale]
    row = stall.apply(sign_reversal(stall.shop, stall.row(sale), stall.now_s, stall.world.entropy))
    assert row == stall.row(sale)
    message = Reversal.from_bytes(envelope.peek(Reversal, row.reversal).payload)
    assert (message.sale, message.reason) == (sale, ReversalReason.NO_ANSWER)
    again = stall.apply(sign_reversal(stall.shop, row, stall.now_s, stall.world.entropy))
    assert again == row  # the same bytes
    wire = stall.to_tsm("Tsm.Reverse", row.reversal)
    done = stall.apply(record_reversal(stall.shop, row, wire, stall.now_s))
    assert (done.progress, done.reversal) == ("REVERSED", b"")
    assert [purchase.state for purchase in stall.purchases()] == ["REVERSED"]
    (kept,) = stall.party.store.scan(EVIDENCE)
    assert (kept.message, kept.signed) == (Reversed.NAME, wire.cose)
    assert stall.apply(record_reversal(stall.shop, row, wire, stall.now_s)) == done
    assert owed_reversals(stall.party.store) == ()
    assert stall.apply(sign_reversal(stall.shop, done, stall.now_s, stall.world.entropy)) is None


def test_what_never_arrived_is_taken_back_too(stall: Stall, buyer: tuple[Phone, str]) -> None:
    sale = stall.asked(*buyer)
    request = stall.row(sale).request
    stall.cancel(sale)
    assert reverse(stall, sale).progress == "REVERSED"
    declined = stall.heard(AuthorizationDecision, request, stall.to_tsm("Tsm.Authorize", request)).decided
    assert declined.verdict is Verdict.DECLINED
    assert [purchase.state for purchase in stall.purchases()] == ["NEVER"]


def test_an_approval_is_voided(stall: Stall, buyer: tuple[Phone, str]) -> None:
    sale = approved(stall, buyer)
    receipt = stall.row(sale).receipt
    state = stall.cancel(sale)
    assert (state.progress, state.display) == ("EXPECT_REVERSAL", "Canceled")
    row = stall.apply(sign_reversal(stall.shop, stall.row(sale), stall.now_s, stall.world.entropy))
    assert Reversal.from_bytes(envelope.peek(Reversal, row.reversal).payload).reason is ReversalReason.VOID
    assert reverse(stall, sale).progress == "REVERSED"
    assert stall.row(sale).receipt == receipt
    assert [purchase.state for purchase in stall.purchases()] == ["REVERSED"]


@pytest.mark.parametrize("why", ["claims", "key"])
def test_a_reversal_is_signed_anew_when_the_tsm_would_not_open_it(
    stall: Stall, buyer: tuple[Phone, str], why: str
) -> None:
    sale = stall.asked(*buyer)
    decide(stall, sale)
    stall.cancel(sale)
    old = stall.apply(sign_reversal(stall.shop, stall.row(sale), stall.now_s, stall.world.entropy))
    stall.to_tsm("Tsm.Reverse", old.reversal)  # made, but its answer was lost
    if why == "claims":
        stall.world.clock.time_s += envelope.REQUEST_LIFETIME_S + 3600
        refusal: type[ProtocolError] = Expired
    else:
        stall.begin_sign_on()
        unit = sign_reversal(stall.shop, old, stall.now_s, stall.world.entropy)
        assert stall.apply(unit) is None  # no key for now
        stall.sign_on()
        refusal = UnknownKey
    with pytest.raises(refusal):
        stall.to_tsm("Tsm.Reverse", old.reversal)
    new = stall.apply(sign_reversal(stall.shop, old, stall.now_s, stall.world.entropy))
    assert new.reversal != old.reversal
    assert reverse(stall, sale).progress == "REVERSED"
    assert [purchase.state for purchase in stall.purchases()] == ["REVERSED"]


@pytest.mark.parametrize(
    ("void", "change"),
    [(False, {"sale": bytes(16)}), (False, {"amount_minor": 1}), (False, {"currency": "EUR"}),
     (True, {"amount_minor": 0}), (True, {"amount_minor": AMOUNT - 1})],
)  # fmt: skip
def test_a_reversal_of_something_else_is_none(
    stall: Stall, buyer: tuple[Phone, str], void: bool, change: dict[str, Any]
) -> None:
    sale = approved(stall, buyer) if void else stall.asked(*buyer)
    if not void:
        decide(stall, sale)
    stall.cancel(sale)
    row = stall.apply(sign_reversal(stall.shop, stall.row(sale), stall.now_s, stall.world.entropy))
    real = stall.heard(Reversed, row.reversal, stall.to_tsm("Tsm.Reverse", row.reversal))
    with pytest.raises(FieldMismatch) as caught:
        record_reversal(stall.shop, row, stall.answered(row.reversal, replace(real, **change)), stall.now_s)
    assert caught.value.code == "FIELD_MISMATCH"
    assert stall.row(sale) == row


# --- refunds ---------------------------------------------------------------------------------------------------------
def signed_refund(stall: Stall, refund: bytes) -> Any:
    unit = sign_refund(stall.shop, stall.refund_row(refund), stall.now_s, stall.world.entropy)
    return stall.apply(unit)


def test_a_refund_is_made_once(stall: Stall, buyer: tuple[Phone, str]) -> None:
    sale = approved(stall, buyer)
    refund = stall.refund(sale, 5_000)
    assert (stall.state(sale).refunds_pending, stall.state(sale).refunded_minor) == (1, 0)
    assert [row.refund for row in owed_refunds(stall.party.store)] == [refund]
    row = signed_refund(stall, refund)
    assert row == stall.refund_row(refund)
    assert signed_refund(stall, refund) == row  # the same bytes
    message = Refund.from_bytes(envelope.peek(Refund, row.request).payload)
    assert (message.sale, message.refund, message.amount_minor, message.currency) == (sale, refund, 5_000, "TWD")
    wire = stall.to_tsm("Tsm.Refund", row.request)
    done = stall.apply(record_refund(stall.shop, row, wire, stall.now_s))
    assert (done.state, done.request) == ("DONE", b"")
    assert stall.apply(record_refund(stall.shop, row, wire, stall.now_s)) == done  # heard twice, counted once
    assert (stall.state(sale).refunds_pending, stall.state(sale).refunded_minor) == (0, 5_000)
    assert [purchase.refunded_minor for purchase in stall.purchases()] == [5_000]
    (kept,) = stall.party.store.scan(EVIDENCE)
    assert (kept.message, kept.signed) == (Refunded.NAME, wire.cose)
    assert signed_refund(stall, refund) is None
    assert owed_refunds(stall.party.store) == ()


def test_a_refund_made_before_its_answer_was_lost_is_known_by_its_name(stall: Stall, buyer: tuple[Phone, str]) -> None:
    sale = approved(stall, buyer)
    refund = stall.refund(sale, 5_000)
    old = signed_refund(stall, refund)
    stall.to_tsm("Tsm.Refund", old.request)
    stall.begin_sign_on()
    assert signed_refund(stall, refund) is None
    stall.sign_on()
    new = signed_refund(stall, refund)
    assert new.request != old.request
    with pytest.raises(IdentifierTaken) as caught:
        stall.to_tsm("Tsm.Refund", new.request)
    done = stall.apply(record_refund_refusal(stall.shop, new, caught.value, stall.now_s))
    assert (done.state, stall.state(sale).refunded_minor) == ("DONE", 5_000)
    assert [purchase.refunded_minor for purchase in stall.purchases()] == [5_000]


@pytest.mark.parametrize("refusal", [PurchaseUnknown(), WrongState(), LimitExceeded()])
def test_a_refusal_that_stands_ends_a_refund(
    stall: Stall, buyer: tuple[Phone, str], refusal: ProtocolError
) -> None:  # fmt: skip
    sale = approved(stall, buyer)
    refund = stall.refund(sale, 5_000)
    row = signed_refund(stall, refund)
    ended = stall.apply(record_refund_refusal(stall.shop, row, refusal, stall.now_s))
    assert (ended.state, ended.request) == ("REFUSED", b"")
    assert stall.apply(record_refund_refusal(stall.shop, row, refusal, stall.now_s)) == ended  # heard twice
    assert (stall.state(sale).refunds_pending, stall.state(sale).refunded_minor) == (0, 0)
    assert stall.cancel(sale).progress == "EXPECT_REVERSAL"  # nothing was refunded


@pytest.mark.parametrize("refusal", [Unavailable(), UnknownKey(), Expired()])
def test_any_other_leaves_it_to_be_sent_again(
    stall: Stall, buyer: tuple[Phone, str], refusal: ProtocolError
) -> None:  # fmt: skip
    row = signed_refund(stall, stall.refund(approved(stall, buyer), 5_000))
    stall.apply(record_refund_refusal(stall.shop, row, refusal, stall.now_s))
    assert stall.refund_row(row.refund) == row


@pytest.mark.parametrize(
    "change", [{"sale": bytes(16)}, {"refund": bytes(16)}, {"amount_minor": 4_999}, {"currency": "EUR"}]
)
def test_a_refund_of_something_else_is_none(
    stall: Stall, buyer: tuple[Phone, str], change: dict[str, Any]
) -> None:  # fmt: skip
    sale = approved(stall, buyer)
    row = signed_refund(stall, stall.refund(sale, 5_000))
    real = stall.heard(Refunded, row.request, stall.to_tsm("Tsm.Refund", row.request))
    forged = stall.answered(row.request, replace(real, **change))
    before = stall.row(sale)
    with pytest.raises(FieldMismatch) as caught:
        stall.apply(record_refund(stall.shop, row, forged, stall.now_s))
    assert caught.value.code == "FIELD_MISMATCH"
    assert (stall.refund_row(row.refund), stall.row(sale)) == (row, before)


def test_a_unit_decides_over_the_sale_as_it_is(stall: Stall, buyer: tuple[Phone, str]) -> None:
    """Of two outcomes recorded for one sale, the first counts."""
    sale = stall.start()
    tapped = online(stall, buyer, sale)
    stale = stall.row(sale)

    def record() -> SaleRow:
        row: SaleRow = stall.apply(record_tap(stall.shop, stale, tapped, stall.now_s, stall.world.entropy))
        return row

    asked = record()
    assert record() == asked == stall.row(sale)
