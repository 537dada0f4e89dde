"""Servers are killed, cut off and starved while many clients pay: nothing is lost, nothing done twice, all books agree.

After each fault `Reckoning.now` looks, after each run `Reckoning.at_last`. `--long` makes hundreds of kills of it and
says how it goes; `--seed N` takes the same faults in the same order.
"""

from __future__ import annotations

import contextlib
import random
import signal
import threading
import time
from collections import Counter as Tally
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from support.load import CLIENTS, PASSCODE, Desk, Load, Purse, Told
from support.people import MOST_LIVES, Newcomer, Operator, Shopper
from support.postgres import Server
from support.proxy import BadLine, Fault
from support.reckoning import Reckoning
from support.ruin import Ruin, SteppedClock, at_random, stepped_clock, stepped_server

from parties.serve import RESUME_EVERY_S
from protocol.crypto import PrivateKey
from protocol.messages.till import SaleProgress
from protocol.roles.merchant.tables import TERMINAL_KEYS
from protocol.roles.tsm.tables import CARDS, PURCHASES, TERMINALS, TID_LIST
from protocol.rows import Decision, Key, Unit, Update

pytestmark = pytest.mark.real
PAYER, SHOPPER, NEWCOMER, SHOP = "phone-1", "phone-2", "phone-3", "shop-1"
DESKS = ("shop-2", "shop-3")
EVERYBODY = ("shopper", "newcomer", "operator")
FILLED, USES = 4, 32
"""A card's total is 50,000: what is asked for in a run is somewhat more than all its cards may spend."""
KILLS_A_RUN, LONG_RUNS = 31, 16
LONGEST_STEP_S = 600
PLAN: Any = {
    "merchants": (SHOP, *DESKS), "phones": (PAYER, SHOPPER, NEWCOMER),
    "options": {
        "tsm-1": {"card_uses": USES},
        **{f"{phone}/se": {"card_keys_ahead": 1} for phone in (PAYER, SHOPPER, NEWCOMER)},
    },
}  # fmt: skip


@dataclass
class Busy:
    """One run under way."""

    load: Load
    reckoning: Reckoning
    ruin: Ruin
    chance: random.Random

    def faults(self, *faults: tuple[int, Callable[[], object]]) -> None:
        """Each so often, at random moments; what must always hold is looked at after each."""
        for _ in at_random(self.chance, *faults):
            self.reckoning.now()


@dataclass
class Street:
    """A town with a purse full of cards, desks, and people; one run after another."""

    town: Any
    purse: Purse
    shopper: Shopper
    newcomer: Newcomer
    seed: int
    say: Callable[[str], None]
    folder: Path
    told: list[Told] = field(default_factory=list)
    runs: int = 0

    @contextlib.contextmanager
    def busy(
        self, name: str, *, sales: int = 60, address: str = "", people: tuple[str, ...] = EVERYBODY,
        clock: SteppedClock | None = None, may_refuse: frozenset[str] = frozenset(),
    ) -> Iterator[Busy]:  # fmt: skip
        """Clients with so many prepared sales, and people beside them; when all is calm again, everything is compared.

        `address` is where desks find the TSM, if not at its own, and `clock` theirs; `may_refuse` are codes after which
        a desk gives up.
        """
        self.runs += 1
        chance = random.Random(f"{self.seed}/{name}/{self.runs}")
        self.purse.fill(FILLED)
        with ExitStack() as stack:
            settings = [self.town.settings(shop) for shop in DESKS]
            desks = [stack.enter_context(closing(Desk(path, address=address, clock=clock))) for path in settings]
            load = Load(desks, seed=chance.random(), may_refuse=may_refuse)
            stack.callback(load.stop)
            for number in range(sales):
                desk = desks[number % len(desks)]
                load.sales.put((desk, desk.prepare(self.purse, chance.randrange(500, 6_500))))
            work = {
                "shopper": self.shopper.buy, "newcomer": self.newcomer.live, "operator": Operator(self.town).claim,
            }  # fmt: skip
            load.errands = [work[one] for one in people]
            reckoning = Reckoning(self.town, load, self.purse, self.shopper, self.newcomer, self.told)
            stack.callback(reckoning.close)
            ruin = Ruin(self.town, chance)
            load.start(CLIENTS)
            yield Busy(load, reckoning, ruin, chance)
            load.finish()
            if any(SHOP in fault for fault in ruin.done):
                self.town.until(self._has_signed_on, seconds=30)
            reckoning.at_last(self.folder / f"books-{self.runs}")
            self.say(f"{name}: {ruin.report()} | {reckoning.report()}")

    def _has_signed_on(self) -> bool:
        """Has the shop's terminal a key that the TSM knows, and keeps it? One that started anew takes another, when no
        purchase is under way any more."""
        keys = self._keys()
        time.sleep(RESUME_EVERY_S + 1)
        return self._keys() == keys and keys[0] in keys[1]

    def _keys(self) -> tuple[bytes, frozenset[bytes]]:
        """The shop's terminal's, and all that the TSM knows."""
        (own,) = self.town.rows(SHOP, TERMINAL_KEYS)
        known = frozenset(row.terminal_key for row in self.town.rows("tsm-1", TERMINALS))
        return PrivateKey.from_bytes(own.private_key).public.encoded, known


@contextlib.contextmanager
def street_in(town: Any, folder: Path, seed: int, say: Callable[[str], None]) -> Iterator[Street]:
    """Everybody enrolled, every merchant signed on."""
    tids = {}
    for phone in (PAYER, SHOPPER, NEWCOMER):
        town.launched(phone)
        if phone == SHOPPER:
            tids[phone] = town.register(phone, town.open_account(phone))
            town.issue(phone, tids[phone], number=FILLED)
    town.stop(f"{PAYER}/se")
    town.selling(SHOP)
    for name in DESKS:
        with closing(Desk(town.settings(name))) as desk:
            desk.sign_on()
    with (
        closing(Purse(town.folder / PAYER, PASSCODE)) as purse,
        closing(Shopper(town, SHOPPER, SHOP, tids[SHOPPER])) as shopper,
    ):
        yield Street(town, purse, shopper, Newcomer(town, NEWCOMER), seed, say, folder)
    assert {town.stop(party) for party in tuple(town.deployment.ready)} == {0}


@pytest.fixture(scope="module")
def say(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """A line for people, while a long run goes on; else it is shown when a test fails."""
    capture = request.config.pluginmanager.getplugin("capturemanager")

    def line(text: str) -> None:
        with capture.global_and_fixture_disabled() if request.config.getoption("long") else contextlib.nullcontext():
            print(f"\n{text}", flush=True)

    return line


@pytest.fixture(scope="module")
def street(request: pytest.FixtureRequest, make_town: Any, say: Any, tmp_path_factory: Any) -> Iterator[Street]:
    """Each party a process with a SQLite file."""
    folder = tmp_path_factory.mktemp("street")
    seed = request.config.getoption("seed")
    with make_town(folder, **PLAN) as town, street_in(town, folder, seed, say) as made:
        yield made


def test_parties_are_killed_at_random_moments(street: Street, request: pytest.FixtureRequest) -> None:
    """SIGKILL to the TSM, its bank, a merchant, a secure element, or several at once."""
    runs = LONG_RUNS if request.config.getoption("long") else 1
    for number in range(runs):
        street.newcomer.most = (number + 1) * (MOST_LIVES // 2) // runs  # the other half is for the tests below
        with street.busy(f"kills {number}", sales=60) as busy:
            kill, se = partial(partial, busy.ruin.kill), f"{SHOPPER}/se"
            busy.faults(
                (8, kill("tsm-1")), (4, kill("bank-a")), (4, kill(SHOP)), (3, kill(se)), (2, kill(f"{NEWCOMER}/se")),
                (2, kill("tsm-1", "bank-a")), (2, kill("tsm-1", SHOP, se)),
            )  # fmt: skip
        assert busy.ruin.done.total() == KILLS_A_RUN
        assert busy.load.repeats["UNAVAILABLE"] > 0
    street.newcomer.most = MOST_LIVES


@pytest.mark.parametrize(
    ("table", "columns"),
    [
        (PURCHASES, lambda row: {"state": "DECLINED"}), (PURCHASES, lambda row: {"amount_minor": row.amount_minor + 1}),
        (PURCHASES, lambda row: {"state": "REVERSED"}), (TID_LIST, lambda row: {"spent_minor": row.spent_minor - 1}),
        (TID_LIST, lambda row: {"aid_limit_minor": row.spent_minor - 1}), (CARDS, lambda row: {"uses": row.used - 1}),
        (CARDS, lambda row: {"spent_minor": row.spent_minor + 1}),
    ],
)  # fmt: skip
def test_the_reckoning_notices_what_is_wrong(street: Street, table: Any, columns: Callable[[Any], Any]) -> None:
    """A purchase lost, made larger or half undone; credit that came from nowhere, or a limit that was exceeded."""
    if not any(progress is SaleProgress.APPROVED for progress, _ in street.shopper.told.values()):
        street.shopper.buy()
    sale = next(name for name, (ended, _) in street.shopper.told.items() if ended is SaleProgress.APPROVED)
    reckoning = Reckoning(street.town, Load([], seed=0), street.purse, street.shopper, street.newcomer, [])
    with closing(reckoning), street.town.store("tsm-1") as store:
        (bought,) = [row for row in store.scan(PURCHASES) if row.sale.hex() == sale]
        name = {"purchases": "sale", "tid_list": "tid", "cards": "pan_ref"}[table.name]
        (row,) = [row for row in store.scan(table) if getattr(row, name) == getattr(bought, name)]
        reckoning.now()
        key = Key(table, table.key_of(row))
        store.apply(Unit((key,), lambda _: Decision(writes=(Update(table, replace(row, **columns(row))),))))
        try:
            with pytest.raises(AssertionError):
                reckoning.now()
        finally:
            store.apply(Unit((key,), lambda _: Decision(writes=(Update(table, row),))))
        reckoning.now()


@pytest.fixture(scope="module")
def lines(street: Street) -> Iterator[dict[str, BadLine]]:
    """Between desks and TSM, merchant and TSM, TSM and bank."""
    town = street.town
    with ExitStack() as stack:
        found = {}
        for name, party, peer in (("desks", SHOP, "tsm-1"), ("shop", SHOP, "tsm-1"), ("bank", "tsm-1", "bank-a")):
            found[name] = stack.enter_context(BadLine(town.address(party, peer)))
        for name, party, peer in (("shop", SHOP, "tsm-1"), ("bank", "tsm-1", "bank-a")):
            stack.enter_context(town.peer_address(party, peer, found[name].address))
            town.stop(party)
        town.running("tsm-1", SHOP)
        yield found
        for party in (SHOP, "tsm-1"):
            town.stop(party)
    town.running("tsm-1", SHOP)


def test_a_peer_that_hangs_resets_or_answers_twice_or_late(street: Street, lines: dict[str, BadLine]) -> None:
    """On each line each of them, at random moments: who has no answer in time asks again with the same bytes."""
    with street.busy("bad lines", sales=20, address=lines["desks"].address) as busy:

        def misbehave(name: str, fault: Fault) -> None:
            lines[name].fault = fault
            threading.Event().wait(busy.chance.uniform(0.1, 0.5))
            lines[name].fault = Fault.NONE
            busy.ruin.done[fault] += 1

        faults = [fault for fault in Fault if fault is not Fault.NONE]
        busy.faults(*((1, partial(misbehave, name, fault)) for name in lines for fault in faults))
    assert all(sum(line.met[fault] for line in lines.values()) for fault in faults)
    assert busy.load.repeats.keys() <= {"UNAVAILABLE", "INTERNAL"}  # gRPC's words for a line that broke


def test_a_full_disk_refuses_and_recovers(street: Street) -> None:
    """Whoever is refused asks again; what was acknowledged before is there, nothing is by half, and no part of a server
    has ended when there is room again, though it could not even write its log."""
    town, seen = street.town, Tally[str]()
    parties = ("tsm-1", "bank-a", SHOP)
    logged = {party: town.log(party).count("STORAGE_FAULT") for party in parties}
    with street.busy("full disks", sales=20) as busy:
        asking = (busy.load.repeats, street.shopper.repeats, street.newcomer.repeats)

        def fill(party: str) -> None:
            before, until_s = sum(told["STORAGE_FAULT"] for told in asking), time.monotonic() + 10
            with busy.ruin.full_disk(party):
                while not seen[party] and time.monotonic() < until_s:
                    threading.Event().wait(busy.chance.uniform(0.2, 0.4))
                    seen[party] = sum(told["STORAGE_FAULT"] for told in asking) - before
                busy.reckoning.now()

        busy.faults(*((2, partial(fill, party)) for party in parties))
    for party in parties:
        assert seen[party] or town.log(party).count("STORAGE_FAULT") > logged[party], party


def test_clocks_that_step_back_and_forth(street: Street) -> None:
    """The TSM's, by minutes. What it refuses, or says of another time, a desk gives up and has taken back; what it said
    of a time to come is believed when that has come."""
    refusals = frozenset({"NOT_YET_VALID", "EXPIRED", "UNKNOWN_KEY"})
    with (
        stepped_server(street.town, "tsm-1", "tsm") as clock,
        stepped_clock(street.folder / "clock") as desks,
        street.busy("clock steps", sales=20, people=("operator",), clock=desks, may_refuse=refusals) as busy,
    ):

        def step(offset_s: int) -> None:
            clock.step(offset_s)
            threading.Event().wait(0.5)
            busy.reckoning.now()
            clock.step(0)
            busy.ruin.done[f"clock {offset_s:+d} s"] += 1

        for offset_s in (-120, 120, -LONGEST_STEP_S, LONGEST_STEP_S):
            busy.faults((1, partial(step, offset_s)))
        for each in (clock, desks):  # as if so much time had passed
            each.step(LONGEST_STEP_S)
    assert busy.load.repeats["NOT_YET_VALID"]


# --- PostgreSQL ------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def database() -> Iterator[Server]:
    """A server for all institutions and merchants."""
    with closing(Server("fsync=off", "max_connections=200")) as server:
        yield server


@pytest.fixture(scope="module")
def avenue(
    request: pytest.FixtureRequest, database: Server, make_town: Any, say: Any, tmp_path_factory: Any
) -> Iterator[Street]:
    """The same over PostgreSQL; in a long run two processes serve the TSM (else `test_real_workers` has such)."""
    folder, seed = tmp_path_factory.mktemp("avenue"), request.config.getoption("seed")
    workers = {"tsm-1": 2} if request.config.getoption("long") else {}
    with (
        make_town(folder, workers=workers, database=database.url, **PLAN) as town,
        street_in(town, folder, seed, say) as made,
    ):
        yield made


def test_workers_parties_and_the_database_are_killed(
    avenue: Street, database: Server, request: pytest.FixtureRequest
) -> None:
    """One of two workers, whole parties, and PostgreSQL itself, which crashes or is restarted."""
    for number in range(10 if request.config.getoption("long") else 1):
        with avenue.busy(f"PostgreSQL {number}", sales=20) as busy:
            ruin, restart = busy.ruin, partial(partial, busy.ruin.restart, database)
            busy.faults(
                (2, restart(signal.SIGQUIT)), (1, restart(signal.SIGINT)), (2, partial(ruin.kill_worker, "tsm-1")),
                (1, partial(ruin.kill, "tsm-1")), (1, partial(ruin.kill, "bank-a")), (1, partial(ruin.kill, SHOP)),
            )  # fmt: skip
        assert busy.load.repeats["STORAGE_FAULT"] > 0
