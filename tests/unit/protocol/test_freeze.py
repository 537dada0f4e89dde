"""CN-11: freezing, lifting and deleting at both sides, and the list that goes between them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.attacker import refused
from support.customer import SMALL, Customer, approved, declined
from support.stopping import (
    MINUTE_S,
    delete_account,
    delete_customer,
    freeze_account,
    freeze_customer,
    lift_account,
    lift_customer,
    next_minute,
)
from support.world import START_S, World

from protocol.engine import Context
from protocol.errors import LimitExceeded, PurchaseUnknown, UnknownAccount, WrongState
from protocol.messages.stops import MAX_STOPS, Stop, StopKind
from protocol.roles.bank import stops
from protocol.roles.bank.stops import stops_for
from protocol.roles.bank.tables import ANONYMOUS_ACCOUNTS, CUSTOMERS, GRANTS, LIVE_GRANTS, STOPS
from protocol.roles.tsm.freeze import account_of
from protocol.roles.tsm.purchase import Reason
from protocol.roles.tsm.tables import CARDS, SERVICE_STOPS, SERVICES, STOP_LISTS, TID_LIST
from protocol.rows import Decision, Insert, Unit

BANK, TSM = "bank-a", "tsm-1"


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path, seed="freeze")


@pytest.fixture
def customer(world: World) -> Customer:
    return Customer.come(world)


def listed(world: World, tsm: str = TSM) -> tuple[Stop, ...]:
    """The list that the bank gives this TSM now."""
    now_s, store = world.clock.now_s(), world.parties[BANK].store
    ctx = Context(store=store, now_s=now_s, entropy=world.entropy, peer=None, digest=b"")
    return stops_for(tsm, now_s - now_s % MINUTE_S, MINUTE_S, ctx)


def stop_of(world: World, table: Any, party: str) -> str:
    (row,) = world.parties[party].store.scan(table)
    return str(row.stop)


# --- the bank's side -------------------------------------------------------------------------------------------------
def test_a_customer_is_frozen_lifted_and_deleted(world: World, customer: Customer) -> None:
    user = customer.phone.user
    for act, stop in (
        (freeze_customer, "FROZEN"), (lift_customer, ""), (freeze_customer, "FROZEN"), (delete_customer, "DELETED"),
    ):  # fmt: skip
        world.clock.time_s += 7
        act(world, user)
        assert stop_of(world, CUSTOMERS, BANK) == stop
    records = sorted(world.parties[BANK].store.scan(STOPS), key=lambda row: (row.made_at_s, row.kind))
    assert [(row.kind, row.reason, row.made_at_s - START_S, row.lifted_at_s and row.lifted_at_s - START_S)
            for row in records] == [
        ("FROZEN", "lost-phone", 7, 14), ("FROZEN", "lost-phone", 21, 28), ("DELETED", "crime-report", 28, 0),
    ]  # fmt: skip
    assert {row.customer for row in records} == {user}
    assert [row.unlisted_from_s for row in records] == [START_S + MINUTE_S, START_S + MINUTE_S, 0]


WRONG: tuple[tuple[tuple[Callable[..., None], ...], Callable[..., None]], ...] = (
    ((), lift_customer),
    ((freeze_customer,), freeze_customer),
    ((freeze_customer, lift_customer), lift_customer),
    ((delete_customer,), freeze_customer),
    ((delete_customer,), lift_customer),
    ((delete_customer,), delete_customer),
    ((freeze_customer, delete_customer), lift_customer),
)


@pytest.mark.parametrize(("before", "act"), WRONG)
def test_a_customer_in_another_state(
    world: World, customer: Customer, before: tuple[Callable[..., None], ...], act: Callable[..., None]
) -> None:
    user = customer.phone.user
    for each in before:
        each(world, user)
    with refused(world, WrongState, "WRONG_STATE"):
        act(world, user)


@pytest.mark.parametrize("act", [freeze_customer, lift_customer, delete_customer])
def test_an_unknown_customer(world: World, act: Callable[..., None]) -> None:
    with refused(world, UnknownAccount, "UNKNOWN_ACCOUNT"):
        act(world, "u-nobody")


# --- the list --------------------------------------------------------------------------------------------------------
def test_the_list_is_the_same_for_a_whole_minute(world: World, customer: Customer) -> None:
    """A stop shows from the next whole minute, and so does its end: when within a minute it was made does not."""
    user, aid = customer.phone.user, customer.grant().aid
    frozen = (Stop(aid=aid, kind=StopKind.FROZEN),)
    world.clock.time_s += 5
    freeze_customer(world, user)
    for second in (5, 30, 59):
        world.clock.time_s = START_S + second
        assert listed(world) == ()
    world.clock.time_s = START_S + MINUTE_S
    assert listed(world) == frozen
    world.clock.time_s += 10
    lift_customer(world, user)
    freeze_customer(world, user)
    lift_customer(world, user)
    for second in (10, 59):
        world.clock.time_s = START_S + MINUTE_S + second
        assert listed(world) == frozen
    world.clock.time_s = START_S + 2 * MINUTE_S
    assert listed(world) == ()


def test_a_stop_made_or_lifted_at_a_whole_minute_is_in_force_from_it(world: World, customer: Customer) -> None:
    freeze_customer(world, customer.phone.user)
    assert [stop.kind for stop in listed(world)] == ["FROZEN"]
    next_minute(world)
    lift_customer(world, customer.phone.user)
    assert listed(world) == ()
    delete_customer(world, customer.phone.user)
    assert [stop.kind for stop in listed(world)] == ["DELETED"]


def test_the_list_names_what_was_granted_to_the_one_who_asks(world: World, customer: Customer) -> None:
    """Not to another TSM, nothing that was never granted, given back or is out of date; sorted by AID."""
    phone = customer.phone
    world.add_tsm("tsm-2")
    other = world.account(phone, tsm="tsm-2")
    world.service(phone, other, tsm="tsm-2")
    world.account(phone)
    second = world.account(phone)
    world.service(phone, second)
    freeze_customer(world, phone.user)
    assert [stop.aid for stop in listed(world)] == sorted([customer_aid(customer), second])
    assert [stop.aid for stop in listed(world, "tsm-2")] == [other]
    (grant,) = [row for row in world.parties[BANK].store.scan(LIVE_GRANTS) if row.aid == second]
    (account,) = [row for row in world.parties[BANK].store.scan(ANONYMOUS_ACCOUNTS) if row.aid == second]
    world.clock.time_s = account.expires_at_s
    assert grant.tsm == TSM
    assert listed(world) == ()


def customer_aid(customer: Customer) -> str:
    return min(
        (row for row in customer.world.parties[TSM].store.scan(TID_LIST) if row.tid == customer.tid),
        key=lambda row: row.asked_at_s,
    ).aid  # fmt: skip


def test_a_list_that_is_too_long_is_none(world: World, customer: Customer) -> None:
    """Half of it would let the other half pay: no list comes, it grows old, and purchases fail closed."""
    store = world.parties[BANK].store
    freeze_customer(world, customer.phone.user)
    (account,), (grant,) = store.scan(ANONYMOUS_ACCOUNTS), store.scan(GRANTS)

    def more(number: int) -> None:
        name = f"a-{number}"
        account_more = replace(account, aid=name, pk_aid=number.to_bytes(65, "big"))
        writes = (Insert(ANONYMOUS_ACCOUNTS, account_more), Insert(GRANTS, replace(grant, aid=name)))
        store.apply(Unit((), lambda rows: Decision(writes=writes)))

    for number in range(MAX_STOPS - 1):
        more(number)
    assert len(listed(world)) == MAX_STOPS
    more(MAX_STOPS)
    with refused(world, LimitExceeded, "LIMIT_EXCEEDED"):
        world.refresh_stops(anew=True)
    assert stops.ListStopsStep.reply.MAX_BYTES > MAX_STOPS * 100


# --- what the TSM does with it ---------------------------------------------------------------------------------------
def test_a_frozen_customer_pays_nothing_from_the_next_minute_until_it_is_lifted(
    world: World, customer: Customer
) -> None:
    world.clock.time_s += 1
    freeze_customer(world, customer.phone.user)
    approved(customer, customer.make(card=0))  # nobody has told the TSM
    next_minute(world)
    declined(customer, customer.make(card=1), Reason.ACCOUNT_STOPPED)
    assert customer.grant().bank_stop == "FROZEN"
    world.clock.time_s += 1
    lift_customer(world, customer.phone.user)
    declined(customer, customer.make(card=1, atc=2), Reason.ACCOUNT_STOPPED)
    next_minute(world)
    assert customer.grant().bank_stop == ""
    approved(customer, customer.make(card=1, atc=3))


def test_a_deleted_customer_stays_deleted_at_the_tsm(world: World, customer: Customer) -> None:
    freeze_customer(world, customer.phone.user)
    next_minute(world)
    delete_customer(world, customer.phone.user)
    next_minute(world)
    assert customer.grant().bank_stop == "DELETED"
    declined(customer, customer.make(), Reason.ACCOUNT_STOPPED)


def test_a_bank_stops_its_own_grants_only(world: World, customer: Customer) -> None:
    other = world.ready("phone-2", "bank-b")
    tid = world.service(other, world.account(other, "bank-b"))
    for user, bank in ((customer.phone.user, BANK), (other.user, "bank-b")):
        freeze_customer(world, user, bank)
    next_minute(world)
    stopped = {row.tid: row.bank_stop for row in world.parties[TSM].store.scan(TID_LIST)}
    assert stopped == {customer.tid: "FROZEN", tid: "FROZEN"}
    lift_customer(world, other.user, "bank-b")
    next_minute(world)
    stopped = {row.tid: row.bank_stop for row in world.parties[TSM].store.scan(TID_LIST)}
    assert stopped == {customer.tid: "FROZEN", tid: ""}


def test_a_list_of_a_minute_before_says_nothing_new(world: World, customer: Customer) -> None:
    """Two fetchers at once: the answer that was longer on its way does not undo the other."""
    freeze_customer(world, customer.phone.user)
    next_minute(world)
    (row,) = [row for row in world.parties[TSM].store.scan(STOP_LISTS) if row.bank == BANK]
    world.clock.time_s = row.minute_s - 1
    before = world.snapshot(TSM)
    world.refresh_stops(anew=True)
    assert world.snapshot(TSM) == before
    assert row in world.parties[TSM].store.scan(STOP_LISTS)


@pytest.mark.parametrize("age_s", [300, 301])
def test_a_stale_list_fails_closed(world: World, customer: Customer, age_s: int) -> None:
    world.refresh_stops(anew=True)
    world.fetches_stops = False
    world.clock.time_s += age_s
    if age_s <= 300:
        approved(customer, customer.make())
    else:
        declined(customer, customer.make(), Reason.STOPS_STALE)
        world.refresh_stops(anew=True)
        declined(customer, customer.make(atc=2), Reason.STOPS_STALE)  # lists are looked up once a second
        world.clock.time_s += 1
        approved(customer, customer.make(atc=3))


def test_a_tsm_may_be_stricter_about_the_age(world: World, customer: Customer) -> None:
    tsm = world.parties[TSM]
    strict = replace(tsm.value, policy=replace(tsm.value.policy, stops_max_age_s=20))
    world.swap_step(TSM, type(tsm.steps["Tsm.Authorize"])(strict))
    world.refresh_stops(anew=True)
    world.fetches_stops = False
    world.clock.time_s += 20
    approved(customer, customer.make(card=0))
    world.clock.time_s += 1
    declined(customer, customer.make(card=1), Reason.STOPS_STALE)


# --- the TSM's side --------------------------------------------------------------------------------------------------
def test_an_account_is_frozen_lifted_and_deleted(world: World, customer: Customer) -> None:
    for act, stop in (
        (freeze_account, "FROZEN"), (lift_account, ""), (freeze_account, "FROZEN"), (delete_account, "DELETED"),
    ):  # fmt: skip
        world.clock.time_s += 7
        act(world, customer.tid)
        assert stop_of(world, SERVICES, TSM) == stop
        ended = {"CLOSED"} if stop == "DELETED" else {"ACTIVE"}
        assert {row.state for row in customer.cards().values()} == ended
        if stop == "DELETED":
            customer.amend(CARDS, state="ACTIVE")  # a card that was overlooked
        if stop:
            declined(customer, customer.make(atc=world.clock.time_s - START_S), Reason.ACCOUNT_STOPPED)
    records = sorted(world.parties[TSM].store.scan(SERVICE_STOPS), key=lambda row: (row.made_at_s, row.kind))
    assert [(row.tid, row.kind, row.reason, row.made_at_s - START_S, row.lifted_at_s and row.lifted_at_s - START_S)
            for row in records] == [
        (customer.tid, "FROZEN", "fraud", 7, 14), (customer.tid, "FROZEN", "fraud", 21, 28),
        (customer.tid, "DELETED", "court-order", 28, 0),
    ]  # fmt: skip


WRONG_AT_TSM: tuple[tuple[tuple[Callable[..., None], ...], Callable[..., None]], ...] = (
    ((), lift_account),
    ((freeze_account,), freeze_account),
    ((freeze_account, lift_account), lift_account),
    ((delete_account,), freeze_account),
    ((delete_account,), lift_account),
    ((delete_account,), delete_account),
    ((freeze_account, delete_account), lift_account),
)


@pytest.mark.parametrize(("before", "act"), WRONG_AT_TSM)
def test_an_account_in_another_state(
    world: World, customer: Customer, before: tuple[Callable[..., None], ...], act: Callable[..., None]
) -> None:
    for each in before:
        each(world, customer.tid)
    with refused(world, WrongState, "WRONG_STATE"):
        act(world, customer.tid)


@pytest.mark.parametrize("act", [freeze_account, lift_account, delete_account])
def test_an_unknown_account(world: World, act: Callable[..., None]) -> None:
    with refused(world, UnknownAccount, "UNKNOWN_ACCOUNT"):
        act(world, "t-nobody")


def test_an_account_is_found_by_its_purchase(world: World, customer: Customer) -> None:
    """A declined one too, if a card of ours was proved in it."""
    store, shop = world.parties[TSM].store, customer.counter.keys.name
    good, foreign, over = customer.make(card=0), customer.make(card=1, k_ac=bytes(16)), customer.make(card=1, atc=5)
    approved(customer, good)
    declined(customer, foreign, Reason.CRYPTOGRAM_INVALID)
    customer.amend(SERVICES, maximum_minor=SMALL - 1)
    declined(customer, over, Reason.OVER_OWN_MAXIMUM)
    assert {account_of(store, shop, purchase.sale) for purchase in (good, over)} == {customer.tid}
    with refused(world, UnknownAccount, "UNKNOWN_ACCOUNT"):
        account_of(store, shop, foreign.sale)
    for merchant, sale in ((shop, bytes(16)), ("shop-2", good.sale)):
        with refused(world, PurchaseUnknown, "PURCHASE_UNKNOWN"):
            account_of(store, merchant, sale)


def test_each_side_lifts_only_its_own(world: World, customer: Customer) -> None:
    freeze_account(world, customer.tid)
    freeze_customer(world, customer.phone.user)
    next_minute(world)
    lift_customer(world, customer.phone.user)
    next_minute(world)
    assert (customer.grant().bank_stop, stop_of(world, SERVICES, TSM)) == ("", "FROZEN")
    declined(customer, customer.make(atc=1), Reason.ACCOUNT_STOPPED)
    freeze_customer(world, customer.phone.user)
    next_minute(world)
    lift_account(world, customer.tid)
    assert (customer.grant().bank_stop, stop_of(world, SERVICES, TSM)) == ("FROZEN", "")
    declined(customer, customer.make(atc=2), Reason.ACCOUNT_STOPPED)
    lift_customer(world, customer.phone.user)
    next_minute(world)
    approved(customer, customer.make(atc=3))
