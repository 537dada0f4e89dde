"""Reverse and Refund: what goes back, once, and to whom it belongs. Every refusal is typed and changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from support.attacker import refused
from support.counter import TSM, Counter
from support.customer import LARGE, SMALL, Customer
from support.meanwhile import meanwhile
from support.world import World

from protocol.errors import IdentifierTaken, LimitExceeded, Malformed, PurchaseUnknown, Unavailable, WrongState
from protocol.messages.pay import EmvPurchase, Reversal, ReversalReason, Reversed, Verdict
from protocol.roles.tsm.purchase import Reason
from protocol.roles.tsm.tables import REFUNDS, RefundRow

NAME = b"\x07" * 16


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path, seed="giveback")


@pytest.fixture
def customer(world: World) -> Customer:
    return Customer.come(world)


def pay(customer: Customer, amount_minor: int = SMALL, card: int = 0) -> EmvPurchase:
    purchase = customer.make(amount_minor, card=card, device_verified=True)
    assert customer.counter.authorize(purchase).verdict is Verdict.APPROVED
    return purchase


def books(customer: Customer, purchase: EmvPurchase) -> tuple[str, int, int, int, int]:
    """State, refunded, the card's uses, the card's total, the grant's."""
    row, card = customer.counter.row(purchase.sale), customer.card_of(purchase)
    return row.state, row.refunded_minor, card.used, card.spent_minor, customer.grant().spent_minor


def refunds(world: World) -> tuple[RefundRow, ...]:
    return world.parties[TSM].store.scan(REFUNDS)


# --- reversal --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("reason", list(ReversalReason))
def test_an_approved_purchase_is_taken_back_once(customer: Customer, reason: ReversalReason) -> None:
    kept, purchase = pay(customer, card=1), pay(customer, LARGE)
    assert books(customer, purchase) == ("APPROVED", 0, 1, LARGE, LARGE + SMALL)
    for _ in range(3):
        answer = customer.counter.reverse(purchase.sale, reason)
        assert (answer.sale, answer.amount_minor, answer.currency) == (purchase.sale, LARGE, "TWD")
        assert books(customer, purchase) == ("REVERSED", 0, 1, 0, SMALL)  # the use is gone: the card was read
    assert books(customer, kept) == ("APPROVED", 0, 1, SMALL, SMALL)


def test_the_same_card_pays_no_more_after_a_reversal(customer: Customer) -> None:
    purchase = pay(customer)
    customer.counter.reverse(purchase.sale)
    again = customer.make(atc=9, opening=b"more")
    assert customer.counter.authorize(again).verdict is Verdict.DECLINED
    assert customer.counter.reason(again.sale) == Reason.CARD_USED_UP
    assert customer.counter.authorize(purchase).verdict is Verdict.DECLINED
    assert books(customer, purchase)[:1] == ("REVERSED",)


@pytest.mark.parametrize("proved", [True, False])
def test_a_declined_purchase_has_nothing_to_take_back(customer: Customer, proved: bool) -> None:
    purchase = customer.make(currency="EUR") if proved else replace(customer.make(), information=0)
    customer.counter.authorize(purchase)
    before = (customer.purchases(), customer.cards(), customer.grant())
    answer = customer.counter.reverse(purchase.sale)
    assert (answer.amount_minor, answer.currency) == (0, "EUR" if proved else "")
    assert (customer.purchases(), customer.cards(), customer.grant()) == before


def test_a_reversal_that_is_faster_than_its_purchase(customer: Customer) -> None:
    purchase = customer.make()
    for _ in range(2):
        answer = customer.counter.reverse(purchase.sale)
        assert (answer.sale, answer.amount_minor, answer.currency) == (purchase.sale, 0, "")
    row = customer.counter.row(purchase.sale)
    assert (row.state, row.reason, row.pan_ref, row.tid, row.amount_minor) == ("NEVER", "", b"", "", 0)
    before = (customer.purchases(), customer.cards(), customer.grant())
    decided = customer.counter.authorize(purchase)  # Reason.REVERSED_BEFORE: no row of its own
    assert (decided.verdict, decided.response_code) == (Verdict.DECLINED, "05")
    (decided,) = customer.counter.authorize_batch(purchase)
    assert decided.verdict is Verdict.DECLINED
    assert (customer.purchases(), customer.cards(), customer.grant()) == before
    # Neither counter nor opening was used up: under another name the same data would be good.
    assert customer.counter.authorize(replace(purchase, sale=NAME)).verdict is Verdict.APPROVED


def test_a_reversal_while_its_purchase_is_decided(customer: Customer) -> None:
    """It was not there when the reversal was opened, so its rows were not read: sent again, it finds them."""
    counter, purchase = customer.counter, customer.make()
    wire = counter.signed(Reversal(terminal=counter.terminal.terminal, sale=purchase.sale, reason=ReversalReason.VOID))
    with meanwhile(customer.world, TSM, lambda: counter.authorize(purchase)), pytest.raises(Unavailable) as refusal:
        counter.deliver("Tsm.Reverse", wire)
    assert (type(refusal.value), refusal.value.code) == (Unavailable, "UNAVAILABLE")
    assert books(customer, purchase) == ("APPROVED", 0, 1, SMALL, SMALL)
    answer = counter.opened(Reversed, wire, counter.deliver("Tsm.Reverse", wire))
    assert (answer.amount_minor, books(customer, purchase)) == (SMALL, ("REVERSED", 0, 1, 0, 0))


def test_two_reversals_at_once(customer: Customer) -> None:
    purchase = pay(customer)
    with meanwhile(customer.world, TSM, lambda: customer.counter.reverse(purchase.sale)):
        assert customer.counter.reverse(purchase.sale).amount_minor == SMALL
    assert books(customer, purchase) == ("REVERSED", 0, 1, 0, 0)


def test_what_was_refunded_in_part_is_not_reversed(customer: Customer) -> None:
    purchase = pay(customer)
    customer.counter.refund(purchase.sale, 1)
    with refused(customer.world, WrongState, "WRONG_STATE"):
        customer.counter.reverse(purchase.sale)
    assert books(customer, purchase) == ("APPROVED", 1, 1, SMALL - 1, SMALL - 1)


def test_a_name_is_its_merchants(world: World, customer: Customer) -> None:
    """Another merchant reverses and refunds nothing of it, though it knows the sale."""
    purchase, second = pay(customer), Counter.open(world, 2, "shop-2")
    assert second.reverse(purchase.sale).amount_minor == 0
    with refused(world, PurchaseUnknown, "PURCHASE_UNKNOWN"):
        second.refund(purchase.sale, 1)
    assert {row.merchant: row.state for row in customer.purchases()} == {"shop-1": "APPROVED", "shop-2": "NEVER"}
    assert customer.grant().spent_minor == SMALL


def test_another_terminal_of_the_merchant_may_give_back(world: World, customer: Customer) -> None:
    purchase, other = pay(customer), Counter.open(world, 2)
    other.refund(purchase.sale, 1_000)
    assert books(customer, purchase) == ("APPROVED", 1_000, 1, SMALL - 1_000, SMALL - 1_000)


# --- refund ----------------------------------------------------------------------------------------------------------
def test_parts_are_refunded_until_nothing_is_left(customer: Customer) -> None:
    kept, purchase = pay(customer, card=1), pay(customer)
    given_minor = 0
    for amount_minor in (1, SMALL - 2, 1):
        with refused(customer.world, LimitExceeded, "LIMIT_EXCEEDED"):
            customer.counter.refund(purchase.sale, SMALL - given_minor + 1)
        answer = customer.counter.refund(purchase.sale, amount_minor)
        given_minor += amount_minor
        assert (answer.sale, answer.amount_minor, answer.refunded_minor, answer.currency) == (
            purchase.sale, amount_minor, given_minor, "TWD"
        )  # fmt: skip
        left_minor = SMALL - given_minor
        assert books(customer, purchase) == ("APPROVED", given_minor, 1, left_minor, left_minor + SMALL)
    with refused(customer.world, LimitExceeded, "LIMIT_EXCEEDED"):
        customer.counter.refund(purchase.sale, 1)
    assert sorted(row.amount_minor for row in refunds(customer.world)) == [1, 1, SMALL - 2]
    assert books(customer, kept) == ("APPROVED", 0, 1, SMALL, SMALL)


@pytest.mark.parametrize(("amount_minor", "currency"), [(0, "TWD"), (SMALL + 1, "TWD"), (1, "EUR")])
def test_amounts_that_are_not_refunded(customer: Customer, amount_minor: int, currency: str) -> None:
    purchase = pay(customer)
    with refused(customer.world, LimitExceeded, "LIMIT_EXCEEDED"):
        customer.counter.refund(purchase.sale, amount_minor, currency)
    assert customer.counter.refund(purchase.sale, SMALL).refunded_minor == SMALL


@pytest.mark.parametrize(("amount_minor", "currency"), [(-1, "TWD"), (1 << 64, "TWD"), (1, "twd"), (1, "")])
def test_refunds_that_are_no_messages(customer: Customer, amount_minor: int, currency: str) -> None:
    purchase = pay(customer)
    with refused(customer.world, Malformed, "MALFORMED"):
        customer.counter.refund(purchase.sale, amount_minor, currency)


def test_a_refunds_name_is_used_once(customer: Customer) -> None:
    purchase, other = pay(customer), pay(customer, card=1)
    customer.counter.refund(purchase.sale, 1_000, name=NAME)
    for sale, amount_minor in ((purchase.sale, 1_000), (purchase.sale, 1), (other.sale, 1_000)):
        with refused(customer.world, IdentifierTaken, "IDENTIFIER_TAKEN"):
            customer.counter.refund(sale, amount_minor, name=NAME)
    assert len(refunds(customer.world)) == 1


def test_a_refunds_name_is_its_merchants(world: World, customer: Customer) -> None:
    second = Counter.open(world, 2, "shop-2")
    there = replace(customer, counter=second)
    first, other = pay(customer), pay(there, card=1)
    for counter, sale in ((customer.counter, first.sale), (second, other.sale)):
        assert counter.refund(sale, 1_000, name=NAME).refunded_minor == 1_000
    assert {row.merchant for row in refunds(world)} == {"shop-1", "shop-2"}


def _unknown(customer: Customer) -> bytes:
    return NAME


def _declined(customer: Customer) -> bytes:
    purchase = customer.make(currency="EUR")
    customer.counter.authorize(purchase)
    return purchase.sale


def _never(customer: Customer) -> bytes:
    customer.counter.reverse(NAME)
    return NAME


@pytest.mark.parametrize("make", [_unknown, _declined, _never])
def test_what_was_never_paid_is_not_refunded(customer: Customer, make: Callable[[Customer], bytes]) -> None:
    sale = make(customer)
    with refused(customer.world, PurchaseUnknown, "PURCHASE_UNKNOWN"):
        customer.counter.refund(sale, 1)


def test_what_was_reversed_is_not_refunded(customer: Customer) -> None:
    purchase, other = pay(customer), pay(customer, card=1)
    customer.counter.reverse(purchase.sale)
    with refused(customer.world, WrongState, "WRONG_STATE"):
        customer.counter.refund(purchase.sale, 1)
    # Also when it is reversed between the opening and the decision of the refund.
    with (
        meanwhile(customer.world, TSM, lambda: customer.counter.reverse(other.sale)),
        pytest.raises(WrongState) as refusal,
    ):
        customer.counter.refund(other.sale, 1)
    assert (type(refusal.value), refusal.value.code) == (WrongState, "WRONG_STATE")
    assert (books(customer, other), refunds(customer.world)) == (("REVERSED", 0, 1, 0, 0), ())


def test_two_refunds_at_once(customer: Customer) -> None:
    """Each was good alone; together they are more than was paid."""
    purchase = pay(customer)
    with (
        meanwhile(customer.world, TSM, lambda: customer.counter.refund(purchase.sale, SMALL - 1)),
        pytest.raises(LimitExceeded) as refusal,
    ):
        customer.counter.refund(purchase.sale, 2)
    assert refusal.value.code == "LIMIT_EXCEEDED"
    assert books(customer, purchase) == ("APPROVED", SMALL - 1, 1, 1, 1)


def test_money_back_may_be_spent_again(customer: Customer) -> None:
    """Of the account, with another card; the card that was read stays used."""
    purchase = pay(customer)
    customer.counter.refund(purchase.sale, SMALL)
    assert customer.grant().spent_minor == 0
    pay(customer, LARGE, card=1)
    assert customer.grant().spent_minor == LARGE
