"""SettleBatch: what is paid out, once, to whom, and for which sales. Every refusal is typed and changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from support.attacker import refused
from support.counter import TSM, Counter
from support.meanwhile import meanwhile
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
    sign_settlement,
    take_back,
)
from support.shop import AMOUNT, SHOP, Stall, ready
from support.world import Phone, World

from protocol.engine import EVIDENCE, Peer
from protocol.envelope import Signer, Wire
from protocol.errors import (
    AlreadySettled,
    FieldMismatch,
    IdentifierTaken,
    LimitExceeded,
    Malformed,
    Oversize,
    ProtocolError,
    PurchaseUnknown,
    SignatureInvalid,
    UnknownKey,
    WrongIssuer,
    WrongPeer,
    WrongState,
)
from protocol.messages.pay import ReversalReason
from protocol.messages.settle import MAX_LINES, SettledSale, Settlement
from protocol.roles.tsm.tables import PAYOUTS, PURCHASES, REFUNDS, PayoutRow
from protocol.types import Role

BATCH, OTHER, NAME = b"\x01" * 16, b"\x02" * 16, b"\x03" * 16
OWED = f"merchant/{SHOP}"


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path, seed="settle")


@pytest.fixture
def stall(world: World) -> Stall:
    return Stall.open(world)


@pytest.fixture
def buyer(world: World, stall: Stall) -> tuple[Phone, str]:
    return ready(world)


def payouts(stall: Stall) -> tuple[PayoutRow, ...]:
    rows: tuple[PayoutRow, ...] = stall.world.parties[TSM].store.scan(PAYOUTS)
    return rows


def test_sales_less_refunds_are_paid_out_once(stall: Stall, buyer: tuple[Phone, str]) -> None:
    first, second = pay(stall, *buyer), pay(stall, *buyer, 500)
    refund = give_back(stall, first, 2_000)
    row = settle(stall)
    assert (row.state, row.total_minor) == ("PAID", AMOUNT + 500 - 2_000)
    (paid,) = payouts(stall)
    assert (paid.merchant, paid.batch, paid.currency, paid.total_minor) == (SHOP, row.batch, "TWD", row.total_minor)
    store = stall.world.parties[TSM].store
    assert {(one.sale, one.settled) for one in store.scan(PURCHASES)} == {(first, row.batch), (second, row.batch)}
    assert [(one.refund, one.settled) for one in store.scan(REFUNDS)] == [(refund, row.batch)]
    assert [one.message for one in store.scan(EVIDENCE)].count(Settlement.NAME) == 1
    assert (balance(stall, TSM, OWED), balance(stall, TSM, "cash")) == (0, -row.total_minor)
    stall.world.clock.time_s += 3_600
    again = stall.to_tsm("Tsm.SettleBatch", row.request)
    assert again.cose == row.payout  # the same bytes, the same answer
    assert (payouts(stall), len(ledger(stall, TSM))) == ((paid,), 4)


def test_refunds_that_eat_up_the_sales_are_a_payout_of_nothing(stall: Stall, buyer: tuple[Phone, str]) -> None:
    refund = give_back(stall, (sale := pay(stall, *buyer)), AMOUNT)
    assert send(stall, settlement({sale: AMOUNT}, {refund: AMOUNT}, batch=BATCH)).total_minor == 0
    assert [row.total_minor for row in payouts(stall)] == [0]
    assert "payout" not in {entry.kind for entry in ledger(stall, TSM)}


# --- what may not be settled -----------------------------------------------------------------------------------------
def refuse(stall: Stall, error: type[ProtocolError], message: Settlement) -> None:
    wire = sign_settlement(stall, message)
    with refused(stall.world, error, error.code):
        stall.to_tsm("Tsm.SettleBatch", wire.cose)


def test_a_sale_is_settled_once(stall: Stall, buyer: tuple[Phone, str]) -> None:
    sale, fresh = pay(stall, *buyer), pay(stall, *buyer)
    send(stall, settlement({sale: AMOUNT}, batch=BATCH))
    refuse(stall, AlreadySettled, settlement({sale: AMOUNT}, batch=OTHER))
    refuse(stall, AlreadySettled, settlement({fresh: AMOUNT, sale: AMOUNT}, batch=OTHER))  # all or nothing
    assert send(stall, settlement({fresh: AMOUNT}, batch=OTHER)).total_minor == AMOUNT


def test_a_refund_is_set_off_once(stall: Stall, buyer: tuple[Phone, str]) -> None:
    sale, fresh = pay(stall, *buyer), pay(stall, *buyer)
    refund = give_back(stall, sale, 1_000)
    send(stall, settlement({sale: AMOUNT}, {refund: 1_000}, batch=BATCH))
    refuse(stall, AlreadySettled, settlement({fresh: AMOUNT}, {refund: 1_000}, batch=OTHER))


def test_a_line_is_named_once(stall: Stall, buyer: tuple[Phone, str]) -> None:
    sale = pay(stall, *buyer)
    refund = give_back(stall, sale, 1_000)
    good = settlement({sale: AMOUNT}, {refund: 1_000}, batch=BATCH)
    refuse(stall, AlreadySettled, replace(good, sales=good.sales * 2, total_minor=2 * AMOUNT - 1_000))
    refuse(stall, AlreadySettled, replace(good, refunds=good.refunds * 2, total_minor=AMOUNT - 2_000))
    assert send(stall, good).total_minor == AMOUNT - 1_000


def test_a_settlements_name_is_used_once(stall: Stall, buyer: tuple[Phone, str]) -> None:
    sale, fresh = pay(stall, *buyer), pay(stall, *buyer)
    message = settlement({sale: AMOUNT}, batch=BATCH)
    send(stall, message)
    for other in (message, settlement({fresh: AMOUNT}, batch=BATCH)):
        refuse(stall, IdentifierTaken, other)


def _unknown(stall: Stall, buyer: tuple[Phone, str]) -> bytes:
    return NAME


def _reversed(stall: Stall, buyer: tuple[Phone, str]) -> bytes:
    take_back(stall, sale := pay(stall, *buyer))
    return sale


def _never(stall: Stall, buyer: tuple[Phone, str]) -> bytes:
    counter = Counter(world=stall.world, keys=stall.shop.keys, key=stall.world.key(), terminal=stall.terminal)
    counter.sign_on()
    counter.reverse(NAME, ReversalReason.NO_ANSWER)
    return NAME


@pytest.mark.parametrize(
    ("make", "error"), [(_unknown, PurchaseUnknown), (_reversed, WrongState), (_never, WrongState)]
)
def test_what_is_not_approved_is_not_settled(
    stall: Stall, buyer: tuple[Phone, str], make: Callable[[Stall, tuple[Phone, str]], bytes],
    error: type[ProtocolError],
) -> None:  # fmt: skip
    good = pay(stall, *buyer)
    sale = make(stall, buyer)
    refuse(stall, error, settlement({good: AMOUNT, sale: AMOUNT}, batch=BATCH))
    assert send(stall, settlement({good: AMOUNT}, batch=BATCH)).total_minor == AMOUNT


def test_a_declined_sale_is_not_settled(stall: Stall, buyer: tuple[Phone, str]) -> None:
    counter = Counter(world=stall.world, keys=stall.shop.keys, key=stall.world.key(), terminal=stall.terminal)
    counter.sign_on()
    purchase = counter.ask(*buyer, AMOUNT)
    counter.authorize(replace(purchase, information=0))
    refuse(stall, WrongState, settlement({purchase.sale: AMOUNT}, batch=BATCH))


def test_a_refund_that_is_not_known_is_not_set_off(stall: Stall, buyer: tuple[Phone, str]) -> None:
    sale = pay(stall, *buyer)
    refuse(stall, PurchaseUnknown, settlement({sale: AMOUNT}, {NAME: 1}, batch=BATCH))


def test_amounts_currency_and_total_are_the_tsms_own(stall: Stall, buyer: tuple[Phone, str]) -> None:
    sale = pay(stall, *buyer)
    refund = give_back(stall, sale, 1_000)
    for message in (
        settlement({sale: AMOUNT + 1}, batch=BATCH), settlement({sale: AMOUNT - 1}, batch=BATCH),
        settlement({sale: AMOUNT}, {refund: 999}, batch=BATCH),
        settlement({sale: AMOUNT}, batch=BATCH, currency="USD"),
        settlement({}, {refund: 1_000}, batch=BATCH, currency="USD", total_minor=0),
        settlement({sale: AMOUNT}, batch=BATCH, total_minor=AMOUNT + 1),
        settlement({sale: AMOUNT}, {refund: 1_000}, batch=BATCH, total_minor=AMOUNT),
        settlement({}, {refund: 1_000}, batch=BATCH, total_minor=0),  # below nothing is no payout
        settlement({}, batch=BATCH),
    ):  # fmt: skip
        refuse(stall, FieldMismatch, message)
    assert send(stall, settlement({sale: AMOUNT}, {refund: 1_000}, batch=BATCH)).total_minor == AMOUNT - 1_000


def test_another_merchants_sales_and_refunds_are_unknown(stall: Stall, buyer: tuple[Phone, str]) -> None:
    sale = pay(stall, *buyer)
    refund = give_back(stall, sale, 1_000)
    other = stall.world.certified("shop-2", Role.MERCHANT)
    peer = Peer(role=Role.MERCHANT, name="shop-2")
    for message in (
        settlement({sale: AMOUNT}, batch=BATCH),
        settlement({}, {refund: 1_000}, batch=BATCH, total_minor=0),
    ):
        wire = sign_settlement(stall, message, other)
        with refused(stall.world, PurchaseUnknown, "PURCHASE_UNKNOWN"):
            stall.world.deliver(TSM, "Tsm.SettleBatch", wire, peer)


# --- who may ask -----------------------------------------------------------------------------------------------------
def test_it_is_signed_by_the_merchant_and_comes_over_its_tls(stall: Stall, buyer: tuple[Phone, str]) -> None:
    message = settlement({pay(stall, *buyer): AMOUNT}, batch=BATCH)
    other = stall.world.certified("shop-2", Role.MERCHANT)
    good = sign_settlement(stall, message)
    flipped = Wire(cose=good.cose[:-1] + bytes([good.cose[-1] ^ 1]))
    mine = Peer(role=Role.MERCHANT, name=SHOP)
    bank = stall.world.parties["bank-a"].value.keys
    as_us = replace(other, name=SHOP)
    for error, wire, peer in (
        (WrongPeer, good, Peer(role=Role.MERCHANT, name="shop-2")), (WrongPeer, good, None),
        (WrongPeer, good, Peer(role=Role.TSM, name=SHOP)), (SignatureInvalid, flipped, mine),
        (WrongIssuer, sign_settlement(stall, message, bank), mine),
        (WrongIssuer, sign_settlement(stall, message, as_us), mine),
        (UnknownKey, sign_settlement(stall, message, replace(other, sign=stall.world.key())), mine),
        (Malformed, Wire(cose=good.cose, session=b"s"), mine),
    ):  # fmt: skip
        with refused(stall.world, error, error.code):
            stall.world.deliver(TSM, "Tsm.SettleBatch", wire, peer)


def test_a_terminals_key_settles_nothing(stall: Stall, buyer: tuple[Phone, str]) -> None:
    """CN-5: a stolen terminal can't have the day's takings paid out."""
    sale = pay(stall, *buyer)
    terminal = stall.world.key()
    keys = replace(stall.shop.keys, sign=terminal)
    assert keys.signer == Signer(name=SHOP, key=terminal)
    wire = sign_settlement(stall, settlement({sale: AMOUNT}, batch=BATCH), keys)
    with refused(stall.world, UnknownKey, "UNKNOWN_KEY"):
        stall.to_tsm("Tsm.SettleBatch", wire.cose)


def test_a_batch_is_bounded(stall: Stall) -> None:
    lines = tuple(SettledSale(sale=n.to_bytes(16, "big"), amount_minor=1) for n in range(MAX_LINES + 1))
    message = replace(settlement({}, batch=BATCH), sales=lines, total_minor=MAX_LINES + 1)
    refuse(stall, Oversize, message)
    refuse(stall, Malformed, settlement({NAME: 1}, batch=BATCH, total_minor=-1))
    full = replace(message, sales=lines[:MAX_LINES], total_minor=MAX_LINES)
    refuse(stall, PurchaseUnknown, full)  # it fits, and is looked at


# --- after the payout ------------------------------------------------------------------------------------------------
def test_what_was_paid_out_is_refunded_and_not_reversed(stall: Stall, buyer: tuple[Phone, str]) -> None:
    sale, later = pay(stall, *buyer), pay(stall, *buyer, 6_000)
    send(stall, settlement({sale: AMOUNT}, batch=BATCH))
    counter = Counter(world=stall.world, keys=stall.shop.keys, key=stall.world.key(), terminal=stall.terminal)
    counter.sign_on()
    with refused(stall.world, AlreadySettled, "ALREADY_SETTLED"):
        counter.reverse(sale, ReversalReason.VOID)
    counter.refund(sale, AMOUNT, name=NAME)
    assert balance(stall, TSM, OWED) == AMOUNT - 6_000  # more went back than is owed now
    refuse(stall, FieldMismatch, settlement({later: 6_000}, {NAME: AMOUNT}, batch=OTHER, total_minor=0))
    with refused(stall.world, LimitExceeded, "LIMIT_EXCEEDED"):
        counter.refund(sale, 1)


def test_of_two_settlements_at_once_one_is_paid(stall: Stall, buyer: tuple[Phone, str]) -> None:
    sale = pay(stall, *buyer)

    def first() -> object:
        return send(stall, settlement({sale: AMOUNT}, batch=BATCH))

    with meanwhile(stall.world, TSM, first), pytest.raises(AlreadySettled) as caught:
        send(stall, settlement({sale: AMOUNT}, batch=OTHER))
    assert caught.value.code == "ALREADY_SETTLED"
    assert [row.batch for row in payouts(stall)] == [BATCH]


def test_a_reversal_while_its_sale_is_settled(stall: Stall, buyer: tuple[Phone, str]) -> None:
    """One of the two is first, and the other is refused."""
    sale = pay(stall, *buyer)
    row = begin(stall)
    counter = Counter(world=stall.world, keys=stall.shop.keys, key=stall.world.key(), terminal=stall.terminal)
    counter.sign_on()
    with meanwhile(stall.world, TSM, lambda: counter.reverse(sale)), pytest.raises(WrongState) as caught:
        stall.to_tsm("Tsm.SettleBatch", row.request)
    assert caught.value.code == "WRONG_STATE"
    assert (payouts(stall), balance(stall, TSM, OWED)) == ((), 0)
    assert settlements(stall) == [("EXPECT_PAYOUT", AMOUNT)]
