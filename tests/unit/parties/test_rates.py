"""Rates: one account's bucket, filled by time, whose emptiness is nobody else's matter; bounded in memory."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import pytest
from support.world import World

from parties.server.rates import RATES, Rate, Rates
from protocol.engine import Engine
from protocol.errors import Overloaded
from protocol.roles.tsm.tables import CARDS

TWO = {"R": Rate(burst=2, per_day=24, key_of=lambda facts: facts.aid, cost=lambda facts: facts.cost)}


def facts(aid: str, cost: int = 1) -> SimpleNamespace:
    return SimpleNamespace(aid=aid, cost=cost)


def test_a_burst_then_one_an_hour_for_each_account_by_itself():
    rates = Rates(TWO)
    rates.admit("R", facts("a"), 0)
    rates.admit("R", facts("a"), 0)
    for now_s in (0, 3599):
        with pytest.raises(Overloaded) as refused:
            rates.admit("R", facts("a"), now_s)
    assert (refused.value.code, refused.value.status) == ("OVERLOADED", "RESOURCE_EXHAUSTED")
    rates.admit("R", facts("b"), 0)
    rates.admit("R", facts("a"), 3600)
    with pytest.raises(Overloaded):
        rates.admit("R", facts("a"), 3600)


def test_it_fills_to_its_burst_and_a_clock_that_goes_back_takes_nothing():
    rates = Rates(TWO)
    rates.admit("R", facts("a", 2), 100_000)
    rates.admit("R", facts("a", 2), 900_000)
    with pytest.raises(Overloaded):
        rates.admit("R", facts("a", 1), 900_001)
    with pytest.raises(Overloaded):
        rates.admit("R", facts("a", 1), 0)


def test_more_than_a_burst_at_once_is_never_enough_and_costs_nothing():
    rates = Rates(TWO)
    with pytest.raises(Overloaded):
        rates.admit("R", facts("a", 3), 0)
    rates.admit("R", facts("a", 2), 0)


def test_other_rpcs_are_not_counted():
    rates = Rates(TWO)
    for _ in range(100):
        rates.admit("Tsm.Authorize", None, 0)


def test_memory_is_bounded_and_the_oldest_is_forgotten():
    rates = Rates(TWO, max_buckets=3)
    for aid in "abcd":
        rates.admit("R", facts(aid, 2), 0)
    rates.admit("R", facts("a", 2), 0)
    for aid in "cd":
        with pytest.raises(Overloaded):
            rates.admit("R", facts(aid), 0)


def test_real_requests_are_counted_by_account_and_the_same_bytes_cost_nothing(tmp_path):
    world = World(tmp_path)
    phone = world.ready()
    first, second = world.account(phone), world.account(phone)
    tight = {rpc: dataclasses.replace(rate, burst=2, per_day=1) for rpc, rate in RATES.items()}
    tight["Tsm.ProveCredit"] = dataclasses.replace(tight["Tsm.ProveCredit"], burst=1)
    assert tight.keys() == {"Tsm.ProveCredit", "Bank.ApproveGrant", "Tsm.IssueCards"}
    for name in ("tsm-1", "bank-a"):
        party = world.parties[name]
        party.engine = Engine(
            party.steps, store=party.store, clock=world.clock, entropy=world.entropy, peers=party.engine._peers,
            admit=Rates(tight).admit,
        )  # fmt: skip
    tid = world.service(phone, first)
    asked = [rpc for _, rpc, _, _ in world.calls].count("Bank.ApproveGrant")
    with pytest.raises(Overloaded):  # another session for the same AID
        world.service(phone, first)
    assert [rpc for _, rpc, _, _ in world.calls].count("Bank.ApproveGrant") == asked == 1
    world.service(phone, second)

    world.cards(phone, tid, number=2)
    with pytest.raises(Overloaded):
        world.cards(phone, tid, number=1)
    assert len(world.parties["tsm-1"].store.scan(CARDS)) == 2
    peer, rpc, wire, reply = next(call for call in world.calls if call[1] == "Tsm.IssueCards")
    again = world.deliver(peer, rpc, wire, None)
    assert (again.session, len(again.cose)) == (reply.session, len(reply.cose))
