"""Loss, doubling, reordering and crashes, from a seed: the five phases end as if nothing had happened (TW-G4)."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.weather import Crash, Weather, every_copy
from support.world import Phone

from protocol.engine import EVIDENCE, OUTBOX, REQUESTS, Peer
from protocol.envelope import Wire
from protocol.errors import Unavailable
from protocol.roles.bank.tables import ACCOUNT_SESSIONS, ANONYMOUS_ACCOUNTS, CUSTOMERS, GRANTS, LIVE_GRANTS, PHONES
from protocol.roles.se.tables import ACCOUNTS, OWNERS, SERVICE_KEYS, VIRTUAL_CARDS
from protocol.roles.tsm.tables import CARD_SESSIONS, CARDS, SERVICES, TID_LIST
from protocol.roles.wallet import Call, close_service

SEEDS = range(40)
CARDS_EACH = 2
CALLS = 38


def expect_one_of_everything(world: Weather, ends: dict[str, tuple[str, str]]) -> None:
    """Exactly one account, grant and service a phone, and the same cards on both sides."""
    bank, tsm = world.parties["bank-a"].store, world.parties["tsm-1"].store
    aids, tids = sorted(aid for aid, _ in ends.values()), sorted(tid for _, tid in ends.values())
    users = sorted(world.phones[name].user for name in ends)
    assert sorted(row.user for row in bank.scan(PHONES)) == users
    assert {row.state for row in bank.scan(PHONES)} == {"INSTALLED"}
    assert sorted((row.aid, row.state) for row in bank.scan(ANONYMOUS_ACCOUNTS)) == [(aid, "ACTIVE") for aid in aids]
    assert [row.state for row in bank.scan(ACCOUNT_SESSIONS)] == ["DONE"] * len(ends)
    assert sorted(row.aid for row in bank.scan(LIVE_GRANTS)) == aids
    assert sorted((row.aid, row.state) for row in bank.scan(GRANTS)) == [(aid, "LIVE") for aid in aids]
    for customer in bank.scan(CUSTOMERS):
        assert (customer.state, customer.granted_minor, customer.wrong_entries) == ("ENROLLED", 500_000, 0)
    assert sorted((row.tid, row.state) for row in tsm.scan(SERVICES)) == [(tid, "ACTIVE") for tid in tids]
    assert sorted((row.tid, row.state) for row in tsm.scan(TID_LIST)) == [(tid, "ACTIVE") for tid in tids]
    assert [row.state for row in tsm.scan(CARD_SESSIONS)] == ["DONE"] * len(ends)
    assert len(tsm.scan(CARDS)) == CARDS_EACH * len(ends)
    for name, (aid, tid) in ends.items():
        element = world.parties[name].store
        issued = {(row.pan, row.modulus_digest) for row in tsm.scan(CARDS) if row.tid == tid and row.state == "ACTIVE"}
        held = {(row.pan, row.modulus_digest) for row in element.scan(VIRTUAL_CARDS) if row.state == "ACTIVE"}
        assert issued == held
        assert len(held) == len(element.scan(VIRTUAL_CARDS)) == CARDS_EACH
        assert [(row.aid, row.state) for row in element.scan(ACCOUNTS)] == [(aid, "ACTIVE")]
        assert [(row.tid, row.state) for row in element.scan(SERVICE_KEYS)] == [(tid, "ACTIVE")]
        assert [row.open for row in element.scan(OWNERS)] == [True]
    for name, party in world.parties.items():
        assert not party.store.scan(OUTBOX), name
        requests = party.store.scan(REQUESTS)
        assert len({row.nonce for row in requests}) == len(requests)
        assert all(row.reply and not row.refusal for row in requests), name
        kept = [row.digest for row in party.store.scan(EVIDENCE)]
        assert set(kept) <= {row.digest for row in requests}


@pytest.mark.parametrize("seed", SEEDS)
def test_five_phases(tmp_path: Path, seed: int) -> None:
    world = Weather(tmp_path, seed=f"weather-{seed}", rng=random.Random(seed))
    names = ("phone-1", "phone-2")[: 1 + seed % 2]
    lives = {name: world.life(world.add_phone(name), CARDS_EACH) for name in names}
    ends = world.interleave(lives)
    world.calm()
    for party in list(world.parties):
        assert world.restart(party) == []
    expect_one_of_everything(world, ends)
    before = {name: world.snapshot(name) for name in world.parties}
    for phone, call in every_copy(world):
        world.stray(phone, call)
    assert {name: world.snapshot(name) for name in world.parties} == before


def test_the_weather_is_bad_enough(tmp_path: Path) -> None:
    """The seeds do what they are for: without them these tests would prove nothing."""
    world = Weather(tmp_path, seed="bad", rng=random.Random(1))
    world.interleave({"phone-1": world.life(world.add_phone("phone-1"), CARDS_EACH)})
    repeated = [call.wire.digest for _, call in world.sent]
    assert len(set(repeated)) == CALLS
    assert len(repeated) > CALLS + 10
    arrived = [wire.digest for _, _, wire, _ in world.calls]
    assert len(arrived) > len(set(arrived)) + 10


# --- one stop, at every possible place -----------------------------------------------------------------------------
PARTIES = ("bank-a", "tsm-1", "sp-1", "phone-1")


@dataclass
class OneStop(Weather):
    """Calm, but for one call: its answer is lost, and all parties and the wallet stop and start again."""

    at: int = 0
    count: int = 0
    before: bool = False

    def attempt(self, phone: Phone, call: Call) -> Wire | None:
        self.count += 1
        if self.count - 1 != self.at:
            return super().attempt(phone, call)
        if not self.before:
            super().attempt(phone, call)
        for party in PARTIES:
            assert self.restart(party) == []
        raise Crash


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("at", range(CALLS))
def test_everybody_stops_once(tmp_path: Path, at: int, before: bool) -> None:
    """Before the request arrives, or after its effect: all go on from what they had stored."""
    world = OneStop(tmp_path, seed="stop", rng=random.Random(1), at=at, before=before)
    world.calm()
    ends = world.interleave({"phone-1": world.life(world.add_phone("phone-1"), CARDS_EACH)})
    assert world.count == CALLS + 1
    expect_one_of_everything(world, ends)


@dataclass
class CutOff(Weather):
    """Calm, but the TSM loses the bank: `cuts` questions of one kind do not arrive, or their answers do not."""

    rpc: str = ""
    where: str = ""
    cuts: int = 1
    resumed: bool = False

    def deliver(self, peer: str, rpc: str, wire: Wire, caller: Peer | None) -> Wire:
        if rpc != self.rpc or not self.cuts:
            return super().deliver(peer, rpc, wire, caller)
        self.cuts -= 1
        if self.where == "answer":
            super().deliver(peer, rpc, wire, caller)
        raise Unavailable

    def attempt(self, phone: Phone, call: Call) -> Wire | None:
        reply = super().attempt(phone, call)
        if reply is None:
            assert len(self.parties["tsm-1"].store.scan(OUTBOX)) == 1
            if self.resumed:
                self.resume_tsm()
        return reply

    def resume_tsm(self) -> None:
        """The TSM starts again until the bank has answered; what it asks are the very same bytes."""
        while self.cuts:
            assert [type(refusal) for refusal in self.restart("tsm-1")] == [Unavailable]
        assert self.restart("tsm-1") == []
        assert self.parties["tsm-1"].store.scan(OUTBOX) == ()


@pytest.mark.parametrize("resumed", [True, False])
@pytest.mark.parametrize("cuts", [1, 3])
@pytest.mark.parametrize("where", ["question", "answer"])
@pytest.mark.parametrize("rpc", ["Bank.ApproveGrant", "Bank.ReleaseGrant"])
def test_a_question_under_way(tmp_path: Path, rpc: str, where: str, cuts: int, resumed: bool) -> None:
    """The TSM finishes by itself after its start, or when the wallet asks again: with one effect at the bank."""
    world = CutOff(tmp_path, seed="cut", rng=random.Random(1), rpc=rpc, where=where, cuts=cuts, resumed=resumed)
    world.calm()
    phone = world.add_phone("phone-1")
    ends = world.interleave({"phone-1": world.life(phone, CARDS_EACH)})
    expect_one_of_everything(world, ends)
    aid, tid = ends["phone-1"]
    closing = world.flow(phone, lambda: close_service(phone.wallet, tsm="tsm-1", tid=tid))
    world.interleave({"phone-1": closing})
    bank, tsm = world.parties["bank-a"].store, world.parties["tsm-1"].store
    assert bank.scan(LIVE_GRANTS) == ()
    assert [(row.aid, row.state) for row in bank.scan(GRANTS)] == [(aid, "RELEASED")]
    assert [row.state for row in tsm.scan(TID_LIST)] == ["RELEASED"]
    assert {row.state for row in tsm.scan(CARDS)} == {"CLOSED"}
    asked = [taken for taken in world.calls if taken[1] == rpc]
    assert len({wire.digest for _, _, wire, _ in asked}) == 1
