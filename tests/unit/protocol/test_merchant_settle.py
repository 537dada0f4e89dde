"""Settlement at the merchant: what is due, what a batch holds, what is booked, and what a refusal leaves behind."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.counter import TSM, Counter
from support.settling import (
    balance,
    begin,
    give_back,
    ledger,
    pay,
    send,
    settle,
    settlement,
    settlements,
    take_back,
)
from support.shop import AMOUNT, SHOP, Stall, ready
from support.world import Phone, World

from protocol import envelope
from protocol.envelope import Wire
from protocol.errors import (
    AlreadySettled,
    Expired,
    FieldMismatch,
    IdentifierTaken,
    ProtocolError,
    PurchaseUnknown,
    SignatureInvalid,
    Unavailable,
    UnknownKey,
    WrongState,
)
from protocol.messages.pay import AuthorizationDecision
from protocol.messages.settle import MAX_LINES, Payout
from protocol.roles.merchant import SALE_REFUNDS, SALES, SETTLEMENTS, SaleRefund, SaleRow
from protocol.roles.merchant.giveback import record_reversal, record_reversal_refusal, sign_reversal
from protocol.roles.merchant.settle import (
    begin_settlement,
    next_batch,
    owed_payouts,
    record_payout,
    record_refusal,
    settlement_of,
    sign_settlement,
)
from protocol.roles.merchant.tables import DUE
from protocol.rows import Decision, Insert, Unit, Update
from protocol.schema import MAX_MINOR

OWED = f"tsm/{TSM}"


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path, seed="merchant settle")


@pytest.fixture
def stall(world: World) -> Stall:
    return Stall.open(world)


@pytest.fixture
def buyer(world: World) -> tuple[Phone, str]:
    return ready(world)


def sign(stall: Stall, row: Any) -> Any:
    return stall.apply(sign_settlement(stall.shop, row, stall.now_s, stall.world.entropy))


def refuse(stall: Stall, row: Any, refusal: ProtocolError) -> Any:
    return stall.apply(record_refusal(stall.shop, row, refusal, stall.now_s))


# --- booking ---------------------------------------------------------------------------------------------------------
def test_every_movement_is_booked_at_both_sides(stall: Stall, buyer: tuple[Phone, str]) -> None:
    sale = pay(stall, *buyer)
    assert (balance(stall, SHOP, OWED), balance(stall, SHOP, "sales")) == (AMOUNT, -AMOUNT)
    give_back(stall, sale, 2_000)
    assert balance(stall, SHOP, OWED) == AMOUNT - 2_000
    take_back(stall, pay(stall, *buyer, 700))
    assert balance(stall, SHOP, OWED) == -balance(stall, TSM, f"merchant/{SHOP}") == AMOUNT - 2_000
    settle(stall)
    assert balance(stall, SHOP, OWED) == balance(stall, TSM, f"merchant/{SHOP}") == 0
    assert balance(stall, SHOP, "cash") == -balance(stall, TSM, "cash") == AMOUNT - 2_000
    assert sorted((entry.kind, entry.amount_minor) for entry in ledger(stall, SHOP)) == [
        ("payout", AMOUNT - 2_000), ("purchase", 700), ("purchase", AMOUNT), ("refund", 2_000), ("reversal", 700),
    ]  # fmt: skip


def test_what_was_never_approved_is_not_booked(stall: Stall, buyer: tuple[Phone, str]) -> None:
    """The TSM approved it and took it back; the merchant, who had no answer, was owed nothing at any time."""
    sale = stall.asked(*buyer)
    stall.to_tsm("Tsm.Authorize", stall.row(sale).request)
    take_back(stall, sale)
    assert (stall.row(sale).progress, ledger(stall, SHOP)) == ("REVERSED", ())
    assert [entry.kind for entry in ledger(stall, TSM)].count("reversal") == 1
    assert next_batch(stall.party.store) is None


def test_a_receipt_stays_with_what_verifies_it(stall: Stall, buyer: tuple[Phone, str]) -> None:
    row = stall.row(pay(stall, *buyer))
    opened = envelope.open_signed(
        AuthorizationDecision, row.receipt, stall.world.parties[TSM].value.keys.sign.public, issuer=TSM, audience=SHOP,
        now_s=stall.now_s, request_digest=row.asked,
    )  # fmt: skip
    assert (opened.message.decided.sale, row.request, row.settled) == (row.sale, b"", DUE)


# --- batches ---------------------------------------------------------------------------------------------------------
def sold(stall: Stall, *amounts: int, currency: str = "TWD", refunds: tuple[int, ...] = ()) -> None:
    """Approved sales and refunds that are due, without their taps."""
    row = stall.row(stall.start())
    stall.cancel(row.sale)
    rows: list[Insert] = []
    for number, minor in enumerate(amounts):
        sale = f"{currency}{number:013d}".encode()
        fresh = replace(
            row, sale=sale, lane=sale, amount_minor=minor, currency=currency, progress="APPROVED", settled=DUE,
            started_at_s=row.started_at_s + number,
        )  # fmt: skip
        rows.append(Insert(SALES, fresh))
    for number, minor in enumerate(refunds):
        refund = SaleRefund(
            refund=f"{currency}R{number:012d}".encode(), sale=f"{currency}{0:013d}".encode(), amount_minor=minor,
            request=b"", state="DONE", settled=DUE,
        )  # fmt: skip
        rows.append(Insert(SALE_REFUNDS, refund))
    stall.apply(Unit((), lambda _rows: Decision(writes=tuple(rows))))


def test_a_batch_holds_as_much_as_a_message_and_the_oldest_first(stall: Stall) -> None:
    sold(stall, *range(1, MAX_LINES + 3))
    batch = next_batch(stall.party.store)
    assert batch is not None
    assert [row.amount_minor for row in batch.sales] == list(range(1, MAX_LINES + 1))
    row = stall.apply(begin_settlement(stall.shop, batch, stall.now_s, stall.world.entropy))
    assert row.total_minor == sum(range(1, MAX_LINES + 1))
    rest = next_batch(stall.party.store)
    assert rest is not None
    assert [row.amount_minor for row in rest.sales] == [MAX_LINES + 1, MAX_LINES + 2]
    few = next_batch(stall.party.store, 1)
    assert few is not None
    assert (len(few.sales), few.refunds) == (1, ())


def test_a_batch_is_of_one_currency_and_of_an_amount_that_fits(stall: Stall) -> None:
    sold(stall, 5, 6, refunds=(3,))
    sold(stall, MAX_MINOR - 1, 2, 1, currency="EUR", refunds=(4,))
    batch = next_batch(stall.party.store)
    assert batch is not None
    assert (batch.currency, [row.amount_minor for row in batch.sales]) == ("EUR", [MAX_MINOR - 1])
    assert batch.total_minor == MAX_MINOR - 5
    begin(stall)
    assert begin(stall).total_minor == 3
    assert begin(stall).total_minor == 8
    assert next_batch(stall.party.store) is None


def test_refunds_wait_for_sales(stall: Stall) -> None:
    sold(stall, 10, 20, refunds=(50, 25, 5))
    row = begin(stall)
    assert (row.total_minor, len(settlement_of(row).refunds)) == (0, 2)
    assert next_batch(stall.party.store) is None
    (waiting,) = [row for row in stall.party.store.scan(SALE_REFUNDS) if row.settled == DUE]
    assert waiting.amount_minor == 50


def test_refunds_in_a_batch_are_bounded(stall: Stall) -> None:
    sold(stall, 10_000, 20_000, refunds=(1,) * (MAX_LINES + 1))
    batch = next_batch(stall.party.store)
    assert batch is not None
    assert (len(batch.refunds), batch.total_minor) == (MAX_LINES, 30_000 - MAX_LINES)


def test_a_settlement_is_of_what_is_due_when_it_is_begun(stall: Stall, buyer: tuple[Phone, str]) -> None:
    first, second = pay(stall, *buyer), pay(stall, *buyer, 500)
    batch = next_batch(stall.party.store)
    assert batch is not None
    stall.cancel(first)
    row = stall.apply(begin_settlement(stall.shop, batch, stall.now_s, stall.world.entropy))
    assert [line.sale for line in settlement_of(row).sales] == [second]
    assert stall.apply(begin_settlement(stall.shop, batch, stall.now_s, stall.world.entropy)) is None
    assert len(settlements(stall)) == 1


def test_more_refunds_than_sales_begin_nothing(stall: Stall) -> None:
    sold(stall, 10, 20, refunds=(25,))
    batch = next_batch(stall.party.store)
    assert batch is not None
    (sale,) = [row for row in batch.sales if row.amount_minor == 10]
    gone = replace(sale, progress="REVERSED", settled=b"")
    stall.apply(Unit((), lambda _rows: Decision(writes=(Update(SALES, gone),))))
    assert stall.apply(begin_settlement(stall.shop, batch, stall.now_s, stall.world.entropy)) is None
    assert settlements(stall) == []


# --- sending ---------------------------------------------------------------------------------------------------------
def test_what_is_stored_is_sent_until_it_is_answered(stall: Stall, buyer: tuple[Phone, str]) -> None:
    pay(stall, *buyer)
    row = begin(stall)
    assert (owed_payouts(stall.party.store), sign(stall, row)) == ((row,), row)
    stall.to_tsm("Tsm.SettleBatch", row.request)  # the answer is lost
    stall.world.clock.time_s += 20 * 3600
    assert sign(stall, row) == row  # a day long the same bytes
    wire = stall.to_tsm("Tsm.SettleBatch", row.request)
    paid = stall.apply(record_payout(stall.shop, row, wire, stall.now_s))
    assert (paid.state, paid.payout) == ("PAID", wire.cose)
    assert stall.apply(record_payout(stall.shop, row, wire, stall.now_s)) == paid
    assert (sign(stall, row), owed_payouts(stall.party.store)) == (None, ())
    assert [entry.kind for entry in ledger(stall, SHOP)].count("payout") == 1


def test_an_answer_that_was_lost_for_longer_is_known_by_the_name(stall: Stall, buyer: tuple[Phone, str]) -> None:
    pay(stall, *buyer)
    row = begin(stall)
    stall.to_tsm("Tsm.SettleBatch", row.request)
    stall.world.clock.time_s += 25 * 3600
    with pytest.raises(Expired):
        stall.to_tsm("Tsm.SettleBatch", row.request)
    anew = sign(stall, row)
    assert settlement_of(anew) == settlement_of(row)
    assert anew.request != row.request
    with pytest.raises(IdentifierTaken) as caught:
        stall.to_tsm("Tsm.SettleBatch", anew.request)
    paid = refuse(stall, anew, caught.value)
    assert (paid.state, paid.payout, balance(stall, SHOP, "cash")) == ("PAID", b"", AMOUNT)
    assert balance(stall, TSM, "cash") == -AMOUNT


@pytest.mark.parametrize("change", [{"batch": bytes(16)}, {"currency": "USD"}, {"total_minor": AMOUNT - 1}])
def test_a_payout_of_something_else_is_none(
    stall: Stall, buyer: tuple[Phone, str], change: dict[str, Any]
) -> None:  # fmt: skip
    pay(stall, *buyer)
    row = begin(stall)
    real = stall.heard(Payout, row.request, stall.to_tsm("Tsm.SettleBatch", row.request))
    forged = stall.answered(row.request, replace(real, **change))
    with pytest.raises(FieldMismatch) as caught:
        record_payout(stall.shop, row, forged, stall.now_s)
    assert caught.value.code == "FIELD_MISMATCH"
    assert settlements(stall) == [("EXPECT_PAYOUT", AMOUNT)]


def test_a_payout_that_nobody_signed_or_for_another_request_is_none(stall: Stall, buyer: tuple[Phone, str]) -> None:
    pay(stall, *buyer)
    row = begin(stall)
    wire = stall.to_tsm("Tsm.SettleBatch", row.request)
    flipped = Wire(cose=wire.cose[:-1] + bytes([wire.cose[-1] ^ 1]))
    other = stall.answered(b"another", settlement_reply(row))
    for answer in (flipped, other):
        with pytest.raises(SignatureInvalid):
            record_payout(stall.shop, row, answer, stall.now_s)
    assert settlements(stall) == [("EXPECT_PAYOUT", AMOUNT)]


def settlement_reply(row: Any) -> Payout:
    return Payout(batch=row.batch, currency=row.currency, total_minor=row.total_minor)


# --- refusals --------------------------------------------------------------------------------------------------------
def marks(stall: Stall) -> set[bytes]:
    rows: list[SaleRow | SaleRefund] = [*stall.party.store.scan(SALES), *stall.party.store.scan(SALE_REFUNDS)]
    return {row.settled for row in rows}


@pytest.mark.parametrize("refusal", [PurchaseUnknown(), WrongState(), FieldMismatch(), AlreadySettled()])
def test_a_refusal_that_stands_makes_all_due_again(
    stall: Stall, buyer: tuple[Phone, str], refusal: ProtocolError
) -> None:  # fmt: skip
    sale = pay(stall, *buyer)
    give_back(stall, sale, 1_000)
    row = begin(stall)
    assert marks(stall) == {row.batch}
    assert refuse(stall, row, refusal).state == "REFUSED"
    assert marks(stall) == {DUE}
    assert refuse(stall, row, refusal).state == "REFUSED"  # heard twice
    assert balance(stall, SHOP, "cash") == 0
    assert settle(stall).state == "PAID"


def test_what_is_refused_by_itself_is_not_asked_for_for_ever(stall: Stall, buyer: tuple[Phone, str]) -> None:
    pay(stall, *buyer)
    row = begin(stall)
    assert refuse(stall, row, AlreadySettled()).state == "REFUSED"
    assert (marks(stall), next_batch(stall.party.store)) == ({row.batch}, None)


@pytest.mark.parametrize("refusal", [Unavailable(), UnknownKey(), Expired()])
def test_any_other_leaves_it_to_be_sent_again(
    stall: Stall, buyer: tuple[Phone, str], refusal: ProtocolError
) -> None:  # fmt: skip
    pay(stall, *buyer)
    row = begin(stall)
    assert refuse(stall, row, refusal) is None
    assert owed_payouts(stall.party.store) == (row,)


# --- voids -----------------------------------------------------------------------------------------------------------
def test_what_is_in_a_settlement_is_not_voided_but_refunded(stall: Stall, buyer: tuple[Phone, str]) -> None:
    sale, later = pay(stall, *buyer), pay(stall, *buyer, 600)
    stall.cancel(later)
    begin(stall)
    before = stall.world.snapshot(SHOP)
    with pytest.raises(AlreadySettled) as caught:
        stall.cancel(sale)
    assert caught.value.code == "ALREADY_SETTLED"
    assert stall.world.snapshot(SHOP) == before
    give_back(stall, sale, AMOUNT)
    assert stall.state(sale).refunded_minor == AMOUNT


def test_a_void_of_what_the_tsm_has_paid_becomes_a_refund(stall: Stall, buyer: tuple[Phone, str]) -> None:
    """The merchant's rows of the settlement are lost, as after an old backup was put back."""
    sale = pay(stall, *buyer)
    send(stall, settlement({sale: AMOUNT}, batch=b"\x09" * 16))
    stall.cancel(sale)
    row = stall.apply(sign_reversal(stall.shop, stall.row(sale), stall.now_s, stall.world.entropy))
    with pytest.raises(AlreadySettled) as caught:
        stall.to_tsm("Tsm.Reverse", row.reversal)
    assert stall.apply(record_reversal_refusal(row, Unavailable())).progress == "EXPECT_REVERSAL"
    for _ in range(2):
        after = stall.apply(record_reversal_refusal(row, caught.value))
        assert (after.progress, after.reversal, after.settled) == ("APPROVED", b"", b"")
    (refund,) = stall.party.store.scan(SALE_REFUNDS)
    assert (refund.sale, refund.amount_minor, refund.state) == (sale, AMOUNT, "EXPECT_REFUND")
    assert stall.apply(record_reversal(stall.shop, row, reversed_(stall, row), stall.now_s)).progress == "APPROVED"


def reversed_(stall: Stall, row: SaleRow) -> Wire:
    from protocol.messages.pay import Reversed

    return stall.answered(row.reversal, Reversed(sale=row.sale, amount_minor=row.amount_minor, currency=row.currency))


def test_a_sale_of_another_counter_is_not_the_stalls(stall: Stall, buyer: tuple[Phone, str]) -> None:
    """What the merchant never sold at this terminal is not in its books, whatever the TSM holds."""
    counter = Counter(world=stall.world, keys=stall.shop.keys, key=stall.world.key(), terminal=stall.terminal)
    counter.sign_on()
    counter.authorize(counter.ask(*buyer, AMOUNT))
    assert (next_batch(stall.party.store), stall.party.store.scan(SETTLEMENTS), ledger(stall, SHOP)) == (None, (), ())
