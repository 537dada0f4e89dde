"""The till: who may ask, for what, and when. Every refusal is typed and changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from support.shop import AMOUNT, SHOP, Stall, ready
from support.world import Phone, World

from protocol import envelope
from protocol.engine import Peer
from protocol.envelope import Signer, Stamp, Wire
from protocol.errors import (
    CardDataInvalid,
    IdentifierTaken,
    LimitExceeded,
    Malformed,
    ProtocolError,
    PurchaseUnknown,
    Replay,
    SignatureInvalid,
    UnknownKey,
    WrongAudience,
    WrongIssuer,
    WrongPeer,
    WrongState,
)
from protocol.messages.till import CancelSale, GetSale, RefundSale, SaleState, StartSale
from protocol.roles.merchant.giveback import record_refund, sign_refund
from protocol.roles.merchant.lane import record_answer
from protocol.roles.merchant.tables import SALES
from protocol.roles.merchant.till import PENDING_REFUNDS
from protocol.rows import Decision, Unit, Update
from protocol.types import Role

SALE, REFUND = b"\x01" * 16, b"\x02" * 16
Ask = StartSale | GetSale | CancelSale | RefundSale
START = StartSale(sale=SALE, amount_minor=AMOUNT, currency="TWD")
ASKS: tuple[Ask, ...] = (
    START, GetSale(sale=SALE), CancelSale(sale=SALE), RefundSale(sale=SALE, refund=REFUND, amount_minor=1),
)  # fmt: skip
each_ask = pytest.mark.parametrize("message", ASKS, ids=lambda ask: type(ask).__name__)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path, seed="till")


@pytest.fixture
def stall(world: World) -> Stall:
    return Stall.open(world)


def approved(stall: Stall) -> bytes:
    phone, tid = ready(stall.world)
    return pay(stall, phone, tid)


def pay(stall: Stall, phone: Phone, tid: str) -> bytes:
    sale = stall.asked(phone, tid)
    row = stall.row(sale)
    answer = stall.to_tsm("Tsm.Authorize", row.request)
    assert stall.apply(record_answer(stall.shop, row, answer, stall.now_s)).progress == "APPROVED"
    return sale


def refused(stall: Stall, error: type[ProtocolError], act: Callable[[], object]) -> None:
    before = stall.world.snapshot(SHOP)
    with pytest.raises(error) as caught:
        act()
    assert type(caught.value) is error
    assert caught.value.code == error.code
    assert stall.world.snapshot(SHOP) == before


# --- who -------------------------------------------------------------------------------------------------------------
@each_ask
def test_another_merchant_is_refused(stall: Stall, message: Ask) -> None:
    other = stall.world.certified("shop-2", Role.MERCHANT)
    peer = Peer(role=Role.MERCHANT, name="shop-2")
    wire = stall.signed(message, other.signer)
    refused(stall, WrongIssuer, lambda: stall.deliver(message, wire, peer))
    as_us = stall.signed(message, Signer(name=SHOP, key=other.sign))
    refused(stall, WrongIssuer, lambda: stall.deliver(message, as_us))


@each_ask
def test_the_transport_must_be_the_merchants_own(stall: Stall, message: Ask) -> None:
    wire = stall.signed(message)
    for peer in (Peer(role=Role.MERCHANT, name="shop-2"), Peer(role=Role.TSM, name=SHOP)):
        refused(stall, WrongPeer, partial(stall.deliver, message, wire, peer))
    name = f"Merchant.{type(message).__name__}"
    refused(stall, WrongPeer, lambda: stall.world.deliver(SHOP, name, wire, None))


@each_ask
def test_signers_keys_and_audiences(stall: Stall, message: Ask) -> None:
    tsm = stall.world.parties["tsm-1"].value.keys
    for error, wire in (
        (WrongIssuer, stall.signed(message, tsm.signer)),
        (UnknownKey, stall.signed(message, Signer(name=SHOP, key=stall.world.key()))),
        (WrongAudience, stall.signed(message, audience="shop-2")),
    ):
        refused(stall, error, partial(stall.deliver, message, wire))
    good = stall.signed(message)
    flipped = Wire(cose=good.cose[:-1] + bytes([good.cose[-1] ^ 1]))
    refused(stall, SignatureInvalid, lambda: stall.deliver(message, flipped))
    refused(stall, Malformed, lambda: stall.deliver(message, Wire(cose=good.cose, session=b"s")))


# --- start -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("amount_minor", "currency"), [(0, "TWD"), (10**12, "TWD"), (AMOUNT, "XXX")], ids=["nothing", "digits", "currency"]
)
def test_what_no_card_can_be_asked_is_refused(stall: Stall, amount_minor: int, currency: str) -> None:
    refused(stall, CardDataInvalid, lambda: stall.start(amount_minor, currency))


def test_a_lane_has_one_sale_at_a_time(world: World, stall: Stall) -> None:
    phone, tid = ready(world)
    sale = stall.start()
    refused(stall, WrongState, stall.start)
    stall.cancel(sale)
    asked = stall.asked(phone, tid)
    refused(stall, WrongState, stall.start)
    stall.cancel(asked)
    assert stall.row(asked).progress == "EXPECT_REVERSAL"
    stall.start()  # a reversal does not keep the next customer waiting


def test_a_sales_name_is_used_once_and_the_same_bytes_again_are_the_same_sale(stall: Stall) -> None:
    wire = stall.signed(START)
    first = stall.deliver(START, wire)
    assert stall.deliver(START, wire) == first
    assert len(stall.party.store.scan(SALES)) == 1
    refused(stall, IdentifierTaken, lambda: stall.till(START))
    stall.cancel(SALE)
    refused(stall, IdentifierTaken, lambda: stall.till(START))
    assert stall.deliver(START, wire) == first


def test_a_nonce_is_used_once(stall: Stall) -> None:
    stamp = Stamp.fresh(stall.now_s, stall.world.entropy)

    def stamped(message: StartSale) -> Wire:
        return Wire(cose=envelope.sign(stall.shop.keys.signer, message, audience=SHOP, stamp=stamp))

    stall.deliver(START, stamped(START))
    other = replace(START, sale=REFUND)
    refused(stall, Replay, lambda: stall.deliver(other, stamped(other)))


# --- look, call off, refund ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("message", ASKS[1:], ids=lambda ask: type(ask).__name__)
def test_a_sale_that_is_not_known(stall: Stall, message: Ask) -> None:
    refused(stall, PurchaseUnknown, lambda: stall.till(message))


def test_looking_keeps_nothing_and_sees_the_present(stall: Stall) -> None:
    sale = stall.start()
    message = GetSale(sale=sale)
    wire, before = stall.signed(message), stall.world.snapshot(SHOP)
    state = stall.opened(wire, stall.deliver(message, wire))
    assert state == SaleState(
        sale=sale, progress=state.progress, amount_minor=AMOUNT, currency="TWD", refunded_minor=0, refunds_pending=0,
        outcome="", display="Present card", card="",
    )  # fmt: skip
    assert (state.progress, stall.world.snapshot(SHOP)) == ("EXPECT_TAP", before)
    stall.cancel(sale)
    assert stall.opened(wire, stall.deliver(message, wire)).progress == "CANCELED"


@pytest.mark.parametrize("progress", ["CANCELED", "DECLINED", "EXPECT_REVERSAL", "REVERSED"])
def test_what_ended_without_a_charge_is_neither_called_off_nor_refunded(stall: Stall, progress: str) -> None:
    sale = stall.start()
    row = replace(stall.row(sale), progress=progress, lane=sale)
    stall.apply(Unit((), lambda _rows: Decision(writes=(Update(SALES, row),))))
    refused(stall, WrongState, lambda: stall.cancel(sale))
    refused(stall, WrongState, lambda: stall.refund(sale, 1))


def test_a_sale_under_way_is_not_refunded(stall: Stall) -> None:
    phone, tid = ready(stall.world)
    sale = stall.start()
    refused(stall, WrongState, lambda: stall.refund(sale, 1))
    stall.cancel(sale)
    asked = stall.asked(phone, tid)
    refused(stall, WrongState, lambda: stall.refund(asked, 1))


def test_refunds_are_at_most_the_sale_with_those_under_way(stall: Stall) -> None:
    sale = approved(stall)
    for amount_minor in (0, AMOUNT + 1):
        refused(stall, LimitExceeded, partial(stall.refund, sale, amount_minor))
    stall.refund(sale, AMOUNT - 1_000, REFUND)
    assert stall.state(sale).refunds_pending == 1
    refused(stall, LimitExceeded, lambda: stall.refund(sale, 1_001))
    refused(stall, IdentifierTaken, lambda: stall.refund(sale, 1, REFUND))
    refused(stall, WrongState, lambda: stall.cancel(sale))  # one is under way
    stall.refund(sale, 1_000)
    assert stall.state(sale).refunds_pending == 2
    refused(stall, LimitExceeded, lambda: stall.refund(sale, 1))


def test_a_sale_that_was_refunded_in_part_is_not_voided(stall: Stall) -> None:
    sale = approved(stall)
    pending = stall.refund_row(stall.refund(sale, 1))
    row = stall.apply(sign_refund(stall.shop, pending, stall.now_s, stall.world.entropy))
    stall.apply(record_refund(stall.shop, row, stall.to_tsm("Tsm.Refund", row.request), stall.now_s))
    assert (stall.state(sale).refunded_minor, stall.state(sale).refunds_pending) == (1, 0)
    refused(stall, WrongState, lambda: stall.cancel(sale))
    refused(stall, LimitExceeded, lambda: stall.refund(sale, AMOUNT))


def test_refunds_under_way_are_few(stall: Stall) -> None:
    sale = approved(stall)
    for _ in range(PENDING_REFUNDS):
        stall.refund(sale, 1)
    refused(stall, LimitExceeded, lambda: stall.refund(sale, 1))
    assert stall.state(sale).refunds_pending == PENDING_REFUNDS
