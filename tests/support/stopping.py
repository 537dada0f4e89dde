"""Freezing in a world: what a bank's clerk and a TSM's operator do, and the minute in which it takes effect."""

from __future__ import annotations

from typing import Any

from support.world import World

from protocol.messages.stops import StopReason
from protocol.roles.bank import freeze as at_bank
from protocol.roles.tsm import freeze as at_tsm
from protocol.roles.tsm.stops import refresh_stops

MINUTE_S = 60


def freeze_customer(world: World, user: str, bank: str = "bank-a") -> None:
    world.parties[bank].store.apply(
        at_bank.freeze(user, StopReason.LOST_PHONE, world.clock.now_s(), world.entropy)
    )  # fmt: skip


def lift_customer(world: World, user: str, bank: str = "bank-a") -> None:
    party = world.parties[bank]
    party.store.apply(at_bank.lift(party.value.policy, user, world.clock.now_s()))


def delete_customer(world: World, user: str, bank: str = "bank-a") -> None:
    party = world.parties[bank]
    unit = at_bank.delete(party.value.policy, user, StopReason.CRIME_REPORT, world.clock.now_s(), world.entropy)
    party.store.apply(unit)


def freeze_account(world: World, tid: str, *, store: Any = None) -> None:
    (store or world.parties["tsm-1"].store).apply(
        at_tsm.freeze(tid, StopReason.FRAUD, world.clock.now_s(), world.entropy)
    )  # fmt: skip


def lift_account(world: World, tid: str) -> None:
    world.parties["tsm-1"].store.apply(at_tsm.lift(tid, world.clock.now_s()))


def delete_account(world: World, tid: str) -> None:
    store = world.parties["tsm-1"].store
    grants = at_tsm.grants_of(store, tid)
    store.apply(at_tsm.delete(tid, grants, StopReason.COURT_ORDER, world.clock.now_s(), world.entropy))


def next_minute(world: World, *, fetched: bool = True) -> None:
    """The clock goes to the next whole minute, and the TSM fetches the lists, as its server does."""
    world.clock.time_s += MINUTE_S - world.clock.time_s % MINUTE_S
    if fetched:
        world.refresh_stops(anew=True)


def fetch(world: World, bank: str = "bank-a") -> None:
    """The TSM fetches this bank's list in sight of all that records, unlike `World.refresh_stops`."""
    tsm = world.parties["tsm-1"]
    refresh_stops(tsm.value, bank, tsm.store, tsm.engine._peers, world.clock.now_s(), world.entropy)
