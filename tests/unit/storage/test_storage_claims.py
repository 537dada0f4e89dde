"""Grants of a database that is older than claims: they are claimed at the end of the period, like all others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from support.claims import PERIOD_S
from support.counter import TSM, Counter
from support.world import World

from parties.server.claims import ClaimSender
from parties.storage.migrations import create_or_upgrade, downgrade
from parties.storage.store import open_store
from protocol.engine import Engine
from protocol.roles.bank.tables import GRANTS
from protocol.roles.tsm.tables import CLAIMS, PURCHASES, TID_LIST


def test_what_was_spent_before_the_upgrade_is_claimed_after_it(tmp_path: Path) -> None:
    world = World(tmp_path, seed="upgrade")
    url = f"sqlite:///{tmp_path}/tsm.db"
    create_or_upgrade(url, "tsm")
    tsm = world.parties[TSM]
    peers: Any = tsm.engine._peers

    def opened() -> Any:
        tsm.store = store = open_store(url, "tsm", bytes(32))
        tsm.engine = Engine(tsm.steps, store=store, clock=world.clock, entropy=world.entropy, peers=peers)
        return store

    store = opened()
    world.refresh_stops()
    phone = world.ready()
    tid = world.service(phone, world.account(phone))
    world.cards(phone, tid, 2)
    counter = Counter.open(world)
    counter.authorize(counter.ask(phone, tid, 12_000))
    store.close()
    downgrade(url, "tsm", "tsm_0002")
    create_or_upgrade(url, "tsm")
    store = opened()
    assert [(row.spent_minor, row.claims) for row in store.scan(TID_LIST)] == [(12_000, "OPEN")]
    world.clock.time_s += PERIOD_S
    ClaimSender(tsm.value, store, peers, world.clock, world.entropy).run_once()
    assert [(row.sequence, row.claimed_minor, row.state) for row in store.scan(CLAIMS)] == [(1, 10_000, "ACCEPTED")]
    assert [row.claim for row in store.scan(PURCHASES)] == [1]
    assert [row.claimed_minor for row in world.parties["bank-a"].store.scan(GRANTS)] == [10_000]
    store.close()


def test_a_bank_goes_back_and_forth(tmp_path: Path) -> None:
    """Grants keep what they were; what was claimed of them is the later version's."""
    url = f"sqlite:///{tmp_path}/bank.db"
    create_or_upgrade(url, "bank")
    downgrade(url, "bank", "bank_0001")
    create_or_upgrade(url, "bank")
    store = open_store(url, "bank", bytes(32))
    assert store.scan(GRANTS) == ()
    store.close()
