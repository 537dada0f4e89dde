"""The five phases, all roles joined in memory."""

from __future__ import annotations

from pathlib import Path

from support.world import World

from protocol.roles.bank.tables import ANONYMOUS_ACCOUNTS, LIVE_GRANTS
from protocol.roles.se.tables import VIRTUAL_CARDS
from protocol.roles.tsm.tables import CARDS, SERVICES, TID_LIST
from protocol.roles.wallet import close_service, status


def test_all_phases(tmp_path: Path) -> None:
    world = World(tmp_path)
    phone = world.ready()
    aid = world.account(phone)
    tid = world.service(phone, aid)
    world.cards(phone, tid, number=2)
    bank, tsm = world.parties["bank-a"].store, world.parties["tsm-1"].store
    (account,) = bank.scan(ANONYMOUS_ACCOUNTS)
    assert (account.aid, account.customer, account.state) == (aid, phone.user, "ACTIVE")
    assert [grant.aid for grant in bank.scan(LIVE_GRANTS)] == [aid]
    assert [service.tid for service in tsm.scan(SERVICES)] == [tid]
    assert [(entry.tid, entry.aid, entry.state) for entry in tsm.scan(TID_LIST)] == [(tid, aid, "ACTIVE")]
    assert [card.state for card in tsm.scan(CARDS)] == ["ACTIVE", "ACTIVE"]
    held = world.parties[phone.name].store.scan(VIRTUAL_CARDS)
    assert {card.pan for card in held} == {card.pan for card in tsm.scan(CARDS)}
    state = world.run(phone, status(phone.wallet))
    assert state.open
    assert (state.aids, state.tids, len(state.cards)) == ((aid,), (tid,), 2)
    world.run(phone, close_service(phone.wallet, tsm="tsm-1", tid=tid))
    assert bank.scan(LIVE_GRANTS) == ()
    assert {card.state for card in tsm.scan(CARDS)} == {"CLOSED"}
