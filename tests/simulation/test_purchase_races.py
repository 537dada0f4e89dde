"""Racing purchases over a real database, decided by two engines as two processes would: one outcome each, and no more.

UNIQUE(PAN, ATC) and UNIQUE(PAN, opening) are held by the table; who loses a race is declined like who came late.
"""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from support.counter import TSM, Counter, applet_of, open_card
from support.postgres import schema
from support.stopping import freeze_account, freeze_customer, lift_account, lift_customer
from support.world import Phone, World

from parties.server.gathering import Gathering
from parties.storage.migrations import create_or_upgrade
from parties.storage.store import DatabaseStore, open_store
from protocol.engine import Engine, Peer
from protocol.envelope import Wire
from protocol.errors import Unavailable
from protocol.messages.pay import Authorization, AuthorizationDecision, EmvPurchase, Reversal, ReversalReason, Reversed
from protocol.roles.ledger import LEDGER
from protocol.roles.tsm.stops import refresh_stops
from protocol.roles.tsm.tables import CARDS, PURCHASES, TID_LIST
from protocol.types import Role

RACERS = 8
MERCHANT = Peer(role=Role.MERCHANT, name="shop-1")


class Town:
    """A world whose TSM keeps its rows in a database, with two engines over it."""

    def __init__(self, folder: Path, url: str) -> None:
        self.world = World(folder, seed="races")
        create_or_upgrade(url, "tsm")
        self.stores: list[DatabaseStore] = [open_store(url, "tsm", bytes(32)) for _ in range(2)]
        tsm = self.world.parties[TSM]
        peers: Any = tsm.engine._peers
        self.engines = [
            Engine(tsm.steps, store=store, clock=self.world.clock, entropy=self.world.entropy, peers=peers)
            for store in self.stores
        ]
        self.doors = [Gathering(engine) for engine in self.engines]
        tsm.store, tsm.engine = self.stores[0], self.engines[0]
        self.world.refresh_stops()
        self.phone: Phone = self.world.ready()
        self.tid = self.world.service(self.phone, self.world.account(self.phone))
        self.world.cards(self.phone, self.tid, RACERS)
        self.counter = Counter.open(self.world)

    def race(self, wires: list[Wire], rpc: str = "Tsm.Authorize") -> list[Wire]:
        """All at once, in turns over the two engines: those at one of them are answered together, as a server does."""
        with ThreadPoolExecutor(len(wires)) as pool:
            return list(pool.map(lambda n: self.doors[n % 2].handle(rpc, wires[n], MERCHANT), range(len(wires))))

    def request(self, purchase: EmvPurchase) -> Wire:
        return self.counter.signed(Authorization(terminal=self.counter.terminal.terminal, purchase=purchase))

    def verdicts(self, wires: list[Wire]) -> Tally[str]:
        replies = self.race(wires)
        opened = [self.counter.opened(AuthorizationDecision, *pair) for pair in zip(wires, replies, strict=True)]
        return Tally(one.decided.verdict for one in opened)

    def reasons(self) -> Tally[str]:
        return Tally(row.reason for row in self.stores[0].scan(PURCHASES))

    def spent(self) -> tuple[int, int]:
        """What the grant and all cards say was spent."""
        cards = self.stores[0].scan(CARDS)
        return sum(row.spent_minor for row in self.stores[0].scan(TID_LIST)), sum(card.spent_minor for card in cards)


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty database of each kind."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/tsm.db"
        return
    with schema() as made:
        yield made


@pytest.fixture
def town(tmp_path: Path, url: str) -> Iterator[Town]:
    made = Town(tmp_path, url)
    yield made
    for store in made.stores:
        store.close()


def renamed(town: Town, purchase: EmvPurchase) -> EmvPurchase:
    return replace(purchase, sale=town.world.entropy.bytes(16))


def test_one_cryptogram_under_many_names_is_approved_once(town: Town) -> None:
    purchase = town.counter.ask(town.phone, town.tid, 5_000)
    verdicts = town.verdicts([town.request(renamed(town, purchase)) for _ in range(RACERS)])
    assert verdicts == {"approved": 1, "declined": RACERS - 1}
    assert town.reasons() == {"": 1, "ATC_REUSED": RACERS - 1}
    assert town.spent() == (5_000, 5_000)


def test_many_taps_of_one_opening_are_approved_once(town: Town) -> None:
    open_card(town.world, town.phone, town.tid, 5_000)
    taps = [town.counter.tap(applet_of(town.world, town.phone), 5_000).online for _ in range(RACERS)]
    verdicts = town.verdicts([town.request(town.counter.purchase(online)) for online in taps if online is not None])
    assert verdicts == {"approved": 1, "declined": RACERS - 1}
    assert town.reasons() == {"": 1, "OPENING_USED": RACERS - 1}
    assert town.spent() == (5_000, 5_000)


def test_the_same_bytes_many_times_are_one_purchase_with_one_answer(town: Town) -> None:
    wire = town.request(town.counter.ask(town.phone, town.tid, 5_000))
    assert len({reply.cose for reply in town.race([wire] * RACERS)}) == 1
    assert town.reasons() == {"": 1}
    assert town.spent() == (5_000, 5_000)


def test_the_last_of_a_balance_is_spent_once(town: Town) -> None:
    (grant,) = town.stores[0].scan(TID_LIST)
    _set_spent(town, grant.aid_limit_minor - 12_000)
    purchases = [town.counter.ask(town.phone, town.tid, 5_000) for _ in range(RACERS)]
    assert town.verdicts([town.request(one) for one in purchases]) == {"approved": 2, "declined": RACERS - 2}
    assert town.reasons() == {"": 2, "OVER_BALANCE": RACERS - 2}
    assert town.spent() == (grant.aid_limit_minor - 2_000, 10_000)


@pytest.mark.parametrize("side", ["bank", "tsm"])
def test_a_freeze_and_a_purchase_are_decided_one_way(town: Town, side: str) -> None:
    """The bank's list comes in, or the TSM freezes by itself, while purchases are decided: each is paid whole or not
    at all, and none that comes after the freeze is."""
    user = town.phone.user
    paid_minor = 0
    for number in range(RACERS - 1):
        town.world.cards(town.phone, town.tid, 2)
        asked, late = (town.counter.ask(town.phone, town.tid, 1_000) for _ in range(2))
        wire = town.request(asked)
        if side == "bank":
            freeze_customer(town.world, user)
        stop = partial(_list_comes, town) if side == "bank" else partial(freeze_account, town.world, town.tid)
        with ThreadPoolExecutor(2) as pool:
            stopped = pool.submit(stop, store=town.stores[number % 2])
            answered = pool.submit(town.engines[1 - number % 2].handle, "Tsm.Authorize", wire, MERCHANT)
        stopped.result()
        verdict = town.counter.opened(AuthorizationDecision, wire, answered.result()).decided.verdict
        row = town.counter.row(asked.sale)
        assert (verdict.value, row.state, row.reason) in (
            ("approved", "APPROVED", ""), ("declined", "DECLINED", "ACCOUNT_STOPPED")
        )  # fmt: skip
        paid_minor += 1_000 if verdict == "approved" else 0
        assert town.verdicts([town.request(late)]) == {"declined": 1}
        assert town.counter.reason(late.sale) == "ACCOUNT_STOPPED"
        assert town.spent() == (paid_minor, paid_minor)
        assert sum(row.amount_minor for row in town.stores[0].scan(LEDGER)) == paid_minor
        if side == "bank":
            lift_customer(town.world, user)
            _list_comes(town, store=town.stores[0])
        else:
            lift_account(town.world, town.tid)


def _list_comes(town: Town, *, store: DatabaseStore) -> None:
    tsm, world = town.world.parties[TSM], town.world
    refresh_stops(tsm.value, "bank-a", store, tsm.engine._peers, world.clock.now_s(), world.entropy)


def test_a_reversal_and_its_purchase_leave_nothing_charged(town: Town) -> None:
    """Whichever comes first. A reversal that meets its purchase in the making is told to come again, and does."""
    for _ in range(RACERS):
        purchase = town.counter.ask(town.phone, town.tid, 1_000)
        reversal = Reversal(terminal=town.counter.terminal.terminal, sale=purchase.sale, reason=ReversalReason.VOID)
        asking, undoing = town.request(purchase), town.counter.signed(reversal)
        with ThreadPoolExecutor(2) as pool:
            asked = pool.submit(town.engines[0].handle, "Tsm.Authorize", asking, MERCHANT)
            undone = pool.submit(_until_answered, lambda wire=undoing: town.engines[1].handle(
                "Tsm.Reverse", wire, MERCHANT))  # fmt: skip
        verdict = town.counter.opened(AuthorizationDecision, asking, asked.result()).decided.verdict
        back = town.counter.opened(Reversed, undoing, undone.result())
        assert (verdict, back.amount_minor) in (("approved", 1_000), ("declined", 0))
    assert {row.state for row in town.stores[0].scan(PURCHASES)} <= {"REVERSED", "NEVER"}
    assert town.spent() == (0, 0)


def _until_answered(call: Callable[[], Wire]) -> Wire:
    while True:
        try:
            return call()
        except Unavailable:
            continue


def _set_spent(town: Town, spent_minor: int) -> None:
    from protocol.rows import Decision, Key, Unit, Update

    (grant,) = town.stores[0].scan(TID_LIST)
    spent = replace(grant, spent_minor=spent_minor)
    town.stores[0].apply(
        Unit((Key(TID_LIST, (grant.sid_digest,)),), lambda _: Decision(writes=(Update(TID_LIST, spent),)))
    )
