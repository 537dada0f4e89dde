"""Controls of the card, the user's own maximum, the balance; two requests at once; batches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.attacker import refused
from support.counter import TSM, applet_of, open_card
from support.customer import LARGE, SMALL, Customer, approved, declined
from support.meanwhile import meanwhile
from support.skimmer import again, crooked_tap
from support.world import World

from protocol.card.profile import Channel
from protocol.errors import Malformed, Oversize
from protocol.messages.pay import MAX_BATCH, EmvPurchase, Verdict
from protocol.roles.tsm.purchase import Reason
from protocol.roles.tsm.tables import CARDS, SERVICES, TID_LIST
from protocol.roles.wallet import close_service
from protocol.rows import Table


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path, seed="limits")


@pytest.fixture
def customer(world: World) -> Customer:
    return Customer.come(world)


# --- controls and credit ----------------------------------------------------------------------------------------------
def test_what_the_card_says_of_its_holder(customer: Customer) -> None:
    declined(customer, customer.make(20_001), Reason.VERIFICATION_MISSING)
    approved(customer, customer.make(20_000, atc=2))
    approved(customer, customer.make(20_001, card=1, device_verified=True))


def test_the_cards_amounts(customer: Customer) -> None:
    declined(customer, customer.make(50_001, device_verified=True), Reason.OVER_CARD_AMOUNT)
    approved(customer, customer.make(50_000, device_verified=True, atc=2))
    customer.amend(CARDS, uses=3, used=0, spent_minor=0, total_minor=60_000)
    late: dict[str, Any] = {"card": 1, "device_verified": True}
    approved(customer, customer.make(50_000, atc=1, opening=b"1---", **late))
    declined(customer, customer.make(10_001, atc=2, opening=b"2---", **late), Reason.OVER_CARD_TOTAL)
    approved(customer, customer.make(10_000, atc=3, opening=b"3---", **late))
    declined(customer, customer.make(1, atc=4, opening=b"4---", **late), Reason.OVER_CARD_TOTAL)


def test_a_multi_use_card_has_as_many_uses_as_it_was_issued_with(customer: Customer) -> None:
    customer.amend(CARDS, uses=2)
    for number in (1, 2):
        approved(customer, customer.make(1_000, atc=number, opening=bytes([number] * 4)))
    declined(customer, customer.make(1_000, atc=3, opening=b"more"), Reason.CARD_USED_UP)


def test_other_channels_and_currencies(customer: Customer) -> None:
    open_card(customer.world, customer.phone, customer.tid, SMALL)
    contact = applet_of(customer.world, customer.phone, Channel.CONTACT)
    purchase = crooked_tap(customer.counter, contact, SMALL).purchase(customer.counter)
    declined(customer, purchase, Reason.CHANNEL_NOT_ALLOWED)
    declined(customer, customer.make(card=1, currency="EUR"), Reason.CURRENCY_NOT_ALLOWED)
    approved(customer, customer.make(card=1, atc=9))


def test_the_end_of_a_card(world: World, customer: Customer) -> None:
    expires_at_s = min(row.expires_at_s for row in customer.cards().values())
    world.clock.time_s = expires_at_s - 1
    approved(customer, customer.make())
    world.clock.time_s = expires_at_s
    declined(customer, customer.make(card=1), Reason.CARD_EXPIRED)


@pytest.mark.parametrize("state", ["EXPECT_ACTIVATION", "CLOSED"])
def test_a_card_that_is_not_active(customer: Customer, state: str) -> None:
    customer.amend(CARDS, state=state)
    declined(customer, customer.make(), Reason.CARD_INACTIVE)
    customer.amend(CARDS, state="ACTIVE")
    approved(customer, customer.make(atc=2))


def test_a_closed_account_pays_nothing(world: World, customer: Customer) -> None:
    purchase = customer.ask()
    world.run(customer.phone, close_service(customer.phone.wallet, tsm=TSM, tid=customer.tid))
    declined(customer, purchase, Reason.CARD_INACTIVE)


@pytest.mark.parametrize(
    ("table", "state"), [(TID_LIST, "EXPECT_RELEASE"), (TID_LIST, "RELEASED"), (SERVICES, "CLOSED")]
)
def test_an_account_that_is_not_active(customer: Customer, table: Table[Any], state: str) -> None:
    customer.amend(table, state=state)
    declined(customer, customer.make(), Reason.ACCOUNT_ENDED)
    customer.amend(table, state="ACTIVE")
    approved(customer, customer.make(atc=2))


def test_the_end_of_a_grant(customer: Customer) -> None:
    customer.amend(TID_LIST, aid_exp_time_s=customer.world.clock.now_s())
    declined(customer, customer.make(), Reason.ACCOUNT_ENDED)
    customer.amend(TID_LIST, aid_exp_time_s=customer.world.clock.now_s() + 1)
    approved(customer, customer.make(atc=2))


def test_the_users_own_maximum(customer: Customer) -> None:
    customer.amend(SERVICES, maximum_minor=SMALL - 1)
    declined(customer, customer.make(), Reason.OVER_OWN_MAXIMUM)
    for maximum_minor, card in ((SMALL, 0), (0, 1)):  # 0: none
        customer.amend(SERVICES, maximum_minor=maximum_minor)
        approved(customer, customer.make(card=card, atc=2))


def test_what_is_left_of_the_grant(customer: Customer) -> None:
    customer.amend(TID_LIST, aid_limit_minor=2 * SMALL - 1)
    approved(customer, customer.make())
    declined(customer, customer.make(card=1), Reason.OVER_BALANCE)
    approved(customer, customer.make(SMALL - 1, card=1, atc=2))
    assert customer.grant().spent_minor == customer.grant().aid_limit_minor


def test_reasons_in_their_order(customer: Customer) -> None:
    """Everything is against it; as each is taken away, the next is named. The merchant is told the same throughout."""
    customer.amend(CARDS, state="CLOSED", expires_at_s=0, used=1, channel="contact", currency="EUR", spent_minor=1)
    customer.amend(CARDS, per_use_minor=1, total_minor=1)
    customer.amend(SERVICES, maximum_minor=1)
    customer.amend(TID_LIST, state="RELEASED", aid_limit_minor=0, bank_stop="FROZEN", bank="bank-none")
    customer.amend(SERVICES, stop="FROZEN")
    steps: tuple[tuple[Reason, Table[Any], dict[str, Any]], ...] = (
        (Reason.CARD_INACTIVE, CARDS, {"state": "ACTIVE"}),
        (Reason.CARD_EXPIRED, CARDS, {"expires_at_s": 1 << 40}),
        (Reason.CARD_USED_UP, CARDS, {"used": 0}),
        (Reason.CHANNEL_NOT_ALLOWED, CARDS, {"channel": "contactless"}),
        (Reason.CURRENCY_NOT_ALLOWED, CARDS, {"currency": "TWD"}),
        (Reason.VERIFICATION_MISSING, CARDS, {"verify_above_minor": LARGE}),
        (Reason.OVER_CARD_AMOUNT, CARDS, {"per_use_minor": LARGE}),
        (Reason.OVER_CARD_TOTAL, CARDS, {"total_minor": LARGE + 1}),
        (Reason.OVER_OWN_MAXIMUM, SERVICES, {"maximum_minor": 0}),
        (Reason.ACCOUNT_ENDED, TID_LIST, {"state": "ACTIVE"}),
        (Reason.ACCOUNT_STOPPED, SERVICES, {"stop": ""}),
        (Reason.ACCOUNT_STOPPED, TID_LIST, {"bank_stop": ""}),
        (Reason.STOPS_STALE, TID_LIST, {"bank": "bank-a"}),
        (Reason.OVER_BALANCE, TID_LIST, {"aid_limit_minor": LARGE}),
    )
    for number, (reason, table, columns) in enumerate(steps):
        declined(customer, customer.make(LARGE, atc=number), reason)
        customer.amend(table, **columns)
    approved(customer, customer.make(LARGE, atc=len(steps)))


# --- at once ----------------------------------------------------------------------------------------------------------
RACING: tuple[tuple[str, Callable[[Customer, EmvPurchase], EmvPurchase], Reason | None], ...] = (
    ("the same counter", lambda c, first: again(c.world, first), Reason.ATC_REUSED),
    ("the same opening", lambda c, first: c.make(atc=2, opening=b"1---"), Reason.OPENING_USED),
    ("the same card", lambda c, first: c.make(atc=2, opening=b"2---"), Reason.CARD_USED_UP),
    ("more than is left", lambda c, first: c.make(card=1), Reason.OVER_BALANCE),
    ("the same sale", lambda c, first: replace(c.make(card=1), sale=first.sale), None),
)


@pytest.mark.parametrize(("make", "reason"), [case[1:] for case in RACING], ids=[case[0] for case in RACING])
def test_two_requests_at_once(
    customer: Customer, make: Callable[[Customer, EmvPurchase], EmvPurchase], reason: Reason | None
) -> None:
    """Both were checked while there was nothing against them; one is paid."""
    counter, first = customer.counter, customer.make(atc=1, opening=b"1---")
    customer.amend(TID_LIST, aid_limit_minor=2 * SMALL - 1)
    second = make(customer, first)
    with meanwhile(customer.world, TSM, lambda: counter.authorize(first)):
        decided = counter.authorize(second)
    assert (decided.verdict, decided.response_code) == (Verdict.DECLINED, "05")
    assert counter.row(first.sale).state == "APPROVED"
    assert reason is None or counter.reason(second.sale) == reason
    assert customer.grant().spent_minor == SMALL
    assert sum(row.used for row in customer.cards().values()) == 1


# --- batches ----------------------------------------------------------------------------------------------------------
def test_each_purchase_of_a_batch_is_decided_by_itself(customer: Customer) -> None:
    good, bad, other = customer.make(card=0), replace(customer.make(card=1), information=0), customer.make(card=1)
    decided = customer.counter.authorize_batch(bad, good, other)
    assert [each.sale for each in decided] == [bad.sale, good.sale, other.sale]
    assert [each.verdict for each in decided] == [Verdict.DECLINED, Verdict.APPROVED, Verdict.APPROVED]
    assert [each.response_code for each in decided] == ["05", "00", "00"]
    assert customer.counter.reason(bad.sale) == Reason.NOT_ONLINE
    assert customer.grant().spent_minor == 2 * SMALL
    assert [(row.used, row.spent_minor) for row in customer.cards().values()] == [(1, SMALL)] * 2


IN_ONE_BATCH: tuple[tuple[str, dict[str, Any], Reason], ...] = (
    ("the same counter", {"atc": 1, "opening": b"2---"}, Reason.ATC_REUSED),
    ("the same opening", {"atc": 2, "opening": b"1---"}, Reason.OPENING_USED),
    ("the same card", {"atc": 2, "opening": b"2---"}, Reason.CARD_USED_UP),
    ("more than is left", {"card": 1}, Reason.OVER_BALANCE),
)


@pytest.mark.parametrize(("then", "reason"), [c[1:] for c in IN_ONE_BATCH], ids=[c[0] for c in IN_ONE_BATCH])
def test_a_batch_sees_its_own_effects(customer: Customer, then: dict[str, Any], reason: Reason) -> None:
    customer.amend(TID_LIST, aid_limit_minor=2 * SMALL - 1)
    first = customer.make(atc=1, opening=b"1---")
    second = customer.make(**then)
    decided = customer.counter.authorize_batch(first, second)
    assert [each.verdict for each in decided] == [Verdict.APPROVED, Verdict.DECLINED]
    assert (customer.counter.reason(first.sale), customer.counter.reason(second.sale)) == ("", reason)
    assert customer.grant().spent_minor == SMALL
    assert sum(row.used for row in customer.cards().values()) == 1


def test_a_sale_twice_in_one_batch(customer: Customer) -> None:
    first = customer.make(card=0)
    second = replace(customer.make(card=1), sale=first.sale)
    decided = customer.counter.authorize_batch(first, second)
    assert [each.verdict for each in decided] == [Verdict.APPROVED, Verdict.DECLINED]
    assert (len(customer.purchases()), customer.counter.row(first.sale).state) == (1, "APPROVED")
    assert customer.grant().spent_minor == SMALL


def test_a_card_is_used_as_often_in_a_batch_as_it_may_be(customer: Customer) -> None:
    customer.amend(CARDS, uses=3)
    purchases = [customer.make(1_000 + n, atc=n, opening=bytes([n] * 4)) for n in range(4)]
    decided = customer.counter.authorize_batch(*purchases)
    assert [each.verdict.value for each in decided] == ["approved"] * 3 + ["declined"]
    assert sorted(row.used for row in customer.cards().values()) == [0, 3]
    assert customer.grant().spent_minor == 3_003


def test_the_size_of_a_batch(customer: Customer) -> None:
    purchase = customer.make()
    many = [again(customer.world, replace(purchase, information=0)) for _ in range(MAX_BATCH + 1)]
    with refused(customer.world, Malformed, "MALFORMED"):
        customer.counter.authorize_batch()
    with refused(customer.world, Oversize, "OVERSIZE"):
        customer.counter.authorize_batch(*many)
    assert len(customer.counter.authorize_batch(purchase, *many[: MAX_BATCH - 1])) == MAX_BATCH
    assert customer.grant().spent_minor == SMALL


# --- the answer -------------------------------------------------------------------------------------------------------
def test_a_receipt_names_what_the_card_signed(customer: Customer) -> None:
    """And carries the ARPC, which is of the decision."""
    purchase = customer.ask()
    decided = approved(customer, purchase)
    row, card = customer.counter.row(purchase.sale), customer.card_of(purchase)
    assert (decided.pan, decided.atc, decided.issuer_data) == (card.pan, purchase.atc, purchase.issuer_data)
    assert (decided.amount_minor, decided.currency, decided.cryptogram) == (SMALL, "TWD", row.cryptogram)
    assert (len(decided.arpc), len(decided.unpredictable)) == (8, 4)
    assert decided.arpc != declined(customer, again(customer.world, purchase), Reason.ATC_REUSED).arpc
