"""A grant whose outcome stayed unknown is given back, so that no AID stays granted for nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.claims import Desk
from support.world import Phone, World

from protocol.engine import Peer
from protocol.envelope import Wire
from protocol.errors import AidAlreadyGranted, ProtocolError, Unavailable
from protocol.roles.bank.tables import LIVE_GRANTS
from protocol.roles.tsm.release import STALE_AFTER_S, give_back_stale
from protocol.roles.tsm.tables import TID_LIST
from protocol.roles.wallet import close_service
from protocol.types import Role


class Line:
    """The TSM's line to the banks; `lost` answers never arrive, `cut` questions neither."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.lost = False
        self.cut = False

    def call(self, peer: str, rpc: str, request: Wire) -> Wire:
        if self.cut:
            raise Unavailable
        reply = self.world.deliver(peer, rpc, request, Peer(role=Role.TSM, name="tsm-1"))
        if self.lost:
            raise Unavailable
        return reply


def states(world: World) -> list[str]:
    return [entry.state for entry in world.parties["tsm-1"].store.scan(TID_LIST)]


def give_back(world: World, line: Line) -> int:
    tsm = world.parties["tsm-1"]
    return give_back_stale(tsm.value, tsm.store, line, world.clock.now_s(), world.entropy)


@pytest.fixture
def stuck(tmp_path: Path) -> tuple[World, Phone, str, Line]:
    """The bank granted, and its answer was lost."""
    world = World(tmp_path)
    phone = world.ready()
    aid = world.account(phone)
    line = Line(world)
    world.parties["tsm-1"].engine._peers = line
    line.lost = True
    with pytest.raises(Unavailable):
        world.service(phone, aid)
    line.lost = False
    return world, phone, aid, line


def test_what_is_still_open_is_left_alone(stuck: tuple[World, Phone, str, Line]) -> None:
    world, _, aid, line = stuck
    assert give_back(world, line) == 0
    assert [grant.aid for grant in world.parties["bank-a"].store.scan(LIVE_GRANTS)] == [aid]
    assert states(world) == ["EXPECT_BANK_APPROVAL"]


def test_after_an_outage_the_grant_is_given_back(stuck: tuple[World, Phone, str, Line]) -> None:
    world, phone, aid, line = stuck
    world.clock.time_s += STALE_AFTER_S + 1
    assert all(isinstance(one, ProtocolError) for one in world.parties["tsm-1"].engine.resume())
    assert give_back(world, line) == 1
    assert world.parties["bank-a"].store.scan(LIVE_GRANTS) == ()
    assert states(world) == ["REFUSED"]
    assert give_back(world, line) == 0
    assert world.launch(phone) == ""
    with pytest.raises(AidAlreadyGranted) as refused:  # what was spent of it is not claimed yet, for all the bank knows
        world.service(phone, aid)
    assert refused.value.code == "AID_ALREADY_GRANTED"
    # Of the two sessions the bank granted one, and knows nothing of the other.
    closed = [(row.closing, row.state, row.refusal) for row in Desk(world).next_period()]
    assert sorted(closed) == [(True, "ACCEPTED", ""), (True, "REFUSED", "GRANT_UNKNOWN")]
    assert {row.claims for row in world.parties["tsm-1"].store.scan(TID_LIST)} == {"CLOSED"}
    assert world.launch(phone) == ""
    world.service(phone, aid)
    assert sorted(states(world)) == ["ACTIVE", "REFUSED", "REFUSED"]


def test_what_the_bank_never_granted_ends_too(stuck: tuple[World, Phone, str, Line]) -> None:
    world, _, _, line = stuck
    world.clock.time_s += STALE_AFTER_S + 1
    line.lost = True
    with pytest.raises(Unavailable):  # released, but the answer is lost again
        give_back(world, line)
    assert states(world) == ["EXPECT_BANK_APPROVAL"]
    line.lost = False
    assert give_back(world, line) == 1  # GRANT_UNKNOWN now
    assert states(world) == ["REFUSED"]


def test_a_bank_out_of_reach_is_asked_later(stuck: tuple[World, Phone, str, Line]) -> None:
    world, _, _, line = stuck
    world.clock.time_s += STALE_AFTER_S + 1
    line.cut = True
    with pytest.raises(Unavailable):
        give_back(world, line)
    assert states(world) == ["EXPECT_BANK_APPROVAL"]


def test_a_close_that_was_cut_off_ends(tmp_path: Path) -> None:
    world = World(tmp_path)
    phone = world.ready()
    tid = world.service(phone, world.account(phone))
    line = Line(world)
    world.parties["tsm-1"].engine._peers = line
    line.cut = True
    with pytest.raises(Unavailable):
        world.run(phone, close_service(phone.wallet, tsm="tsm-1", tid=tid))
    line.cut = False
    world.clock.time_s += STALE_AFTER_S + 1
    assert give_back(world, line) == 1
    assert states(world) == ["RELEASED"]
    assert world.parties["bank-a"].store.scan(LIVE_GRANTS) == ()


def test_an_entry_that_was_answered_meanwhile_is_left_alone(stuck: tuple[World, Phone, str, Line]) -> None:
    """Between the look and the end, another thread heard the bank's answer."""
    world, _, _, line = stuck
    world.clock.time_s += STALE_AFTER_S + 1
    tsm = world.parties["tsm-1"]

    class Overtaken(Line):
        def call(self, peer: str, rpc: str, request: Wire) -> Wire:
            reply = super().call(peer, rpc, request)
            give_back(world, line)
            return reply

    overtaken = Overtaken(world)
    before = len(tsm.store.scan(TID_LIST))
    give_back_stale(tsm.value, tsm.store, overtaken, world.clock.now_s(), world.entropy)
    assert (len(tsm.store.scan(TID_LIST)), states(world)) == (before, ["REFUSED"])
