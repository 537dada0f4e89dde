"""Claims over bad lines and two processes: each accepted once and in order, and both books agree in the end."""

from __future__ import annotations

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from support.claims import PERIOD_S, TRANCHE
from support.counter import TSM, Counter
from support.world import Phone, World

from parties.server.claims import ClaimSender
from parties.storage.migrations import create_or_upgrade
from parties.storage.store import DatabaseStore, open_store
from protocol.engine import Engine, Peer
from protocol.envelope import Wire
from protocol.errors import Unavailable
from protocol.roles.bank.tables import CUSTOMERS, GRANTS, RECEIVED_CLAIMS, owed_minor
from protocol.roles.ledger import LEDGER, balances
from protocol.roles.tsm.claim_tree import prove_receipt, verify_receipt
from protocol.roles.tsm.tables import CLAIMS, PURCHASES, TID_LIST
from protocol.roles.wallet import close_service
from protocol.types import Role

LOST = 0.35


class Days:
    """Customers of one bank who buy, are refunded, and leave, day by day, over a line that loses both ways."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.rng = random.Random(seed)
        self.world = World(folder, seed=f"loss-{seed}")
        self.people: dict[str, tuple[Phone, str]] = {}
        for number in range(3):
            phone = self.world.ready(f"phone-{number}")
            tid = self.world.service(phone, self.world.account(phone))
            self.world.cards(phone, tid, 8)
            self.people[phone.name] = (phone, tid)
        self.counter = Counter.open(self.world)
        self.sales: list[tuple[bytes, int]] = []
        self.lost = LOST
        self.sender = self.restarted()

    def restarted(self) -> ClaimSender:
        tsm = self.world.parties[TSM]
        return ClaimSender(tsm.value, tsm.store, self, self.world.clock, self.world.entropy)

    def call(self, peer: str, rpc: str, request: Wire) -> Wire:
        if self.rng.random() < self.lost:
            raise Unavailable
        answer = self.world.deliver(peer, rpc, request, Peer(role=Role.TSM, name=TSM))
        if self.rng.random() < self.lost:
            raise Unavailable
        return answer

    def live(self) -> None:
        """Some of a day: at most one purchase each, some refunds, and somebody may leave."""
        for name, (phone, tid) in sorted(self.people.items()):
            if self.rng.random() < 0.6:
                amount_minor = self.rng.randrange(1, 20_001)
                decided = self.counter.authorize(self.counter.ask(phone, tid, amount_minor))
                self.sales.append((decided.sale, amount_minor))
            if self.rng.random() < 0.1:
                self.world.run(phone, close_service(phone.wallet, tsm=TSM, tid=tid))
                del self.people[name]
        if self.sales and self.rng.random() < 0.4:
            sale, amount_minor = self.sales.pop(self.rng.randrange(len(self.sales)))
            self.counter.refund(sale, self.rng.randrange(1, amount_minor + 1))

    def claim(self) -> None:
        for _ in range(self.rng.randrange(4)):
            if self.rng.random() < 0.3:
                self.sender = self.restarted()
            self.sender.run_once()
            self.world.clock.time_s += 60


@pytest.mark.parametrize("seed", range(6))
def test_every_claim_is_accepted_once_and_both_books_agree(tmp_path: Path, seed: int) -> None:
    days = Days(tmp_path, seed)
    world = days.world
    for _ in range(7):
        days.live()
        world.clock.time_s += PERIOD_S
        days.claim()
    days.lost = 0
    for _ in range(2):
        world.clock.time_s += PERIOD_S
        days.restarted().run_once()
    bank, tsm = world.parties["bank-a"].store, world.parties[TSM].store
    entries = {row.sid_digest: row for row in tsm.scan(TID_LIST)}
    for grant in bank.scan(GRANTS):
        numbers = [row.sequence for row in bank.scan(RECEIVED_CLAIMS) if row.sid_digest == grant.sid_digest]
        assert numbers == list(range(1, grant.sequence + 1))
        carried_minor = entries[grant.sid_digest].spent_minor - owed_minor(grant)
        assert carried_minor == 0 if grant.closed else 0 <= carried_minor < TRANCHE
    assert {row.state for row in tsm.scan(CLAIMS)} == {"ACCEPTED"}
    theirs, ours = balances(bank.scan(LEDGER)), balances(tsm.scan(LEDGER))
    assert sum(theirs.values()) == sum(ours.values()) == 0
    assert -theirs.get(("tsm/tsm-1", "TWD"), 0) == ours.get(("bank/bank-a", "TWD"), 0)
    granted_minor = sum(row.granted_minor for row in bank.scan(CUSTOMERS))
    assert granted_minor == sum(owed_minor(row) if row.closed else row.limit_minor for row in bank.scan(GRANTS))
    roots = {(row.sid_digest, row.sequence): row.root for row in bank.scan(RECEIVED_CLAIMS)}
    for row in tsm.scan(PURCHASES):
        proof = prove_receipt(tsm, row.merchant, row.sale)
        root = roots[proof.sid_digest, proof.sequence]
        verify_receipt(proof, receipt_digest=row.receipt_digest, root=root)


@pytest.fixture
def stores(tmp_path: Path) -> Iterator[list[DatabaseStore]]:
    create_or_upgrade(f"sqlite:///{tmp_path}/tsm.db", "tsm")
    opened = [open_store(f"sqlite:///{tmp_path}/tsm.db", "tsm", bytes(32)) for _ in range(2)]
    yield opened
    for store in opened:
        store.close()


def test_server_and_command_at_once_make_one_claim_each(tmp_path: Path, stores: list[DatabaseStore]) -> None:
    """Two processes over one database: whoever comes second finds the claim made, sent, or answered."""
    world = World(tmp_path, seed="both")
    tsm = world.parties[TSM]
    peers: Any = tsm.engine._peers
    tsm.store = stores[0]
    tsm.engine = Engine(tsm.steps, store=stores[0], clock=world.clock, entropy=world.entropy, peers=peers)
    world.refresh_stops()
    for number in range(4):
        phone = world.ready(f"phone-{number}")
        world.service(phone, world.account(phone))
    senders = [ClaimSender(tsm.value, store, peers, world.clock, world.entropy) for store in stores]
    for period in range(1, 4):
        world.clock.time_s += PERIOD_S
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda sender: sender.run_once(), senders))
        for sender in senders:
            sender.run_once()
        assert [row.state for row in stores[1].scan(CLAIMS)] == ["ACCEPTED"] * 4 * period
    received = world.parties["bank-a"].store.scan(RECEIVED_CLAIMS)
    assert sorted(row.sequence for row in received) == sorted([1, 2, 3] * 4)
