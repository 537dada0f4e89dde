"""Authorizations on all sites in turns, each beside the floor."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

import gmpy2

from parties.bench.clocks import each_us, ratio
from parties.bench.floor import Floor
from parties.bench.purchases import Stock
from parties.bench.sites import Site
from protocol import envelope
from protocol.envelope import Wire
from protocol.messages.pay import (
    MAX_BATCH,
    AuthorizationDecision,
    AuthorizationDecisions,
    Decided,
    EmvPurchase,
    Verdict,
)

SINGLES: Final = 6
"""Purchases one at a time on each site and round."""
A_ROUND: Final = SINGLES + MAX_BATCH
_ONE: Final = "Tsm.Authorize"
_MANY: Final = "Tsm.AuthorizeBatch"


@dataclass(kw_only=True)
class Spent:
    """Microseconds of each round for one purchase: the TSM's processor, the database server's, and in all."""

    used: list[float] = field(default_factory=list)
    server: list[float] = field(default_factory=list)
    elapsed: list[float] = field(default_factory=list)
    floor: list[float] = field(default_factory=list)

    @property
    def used_us(self) -> float:
        """Median of the TSM's processor time."""
        return statistics.median(self.used)

    @property
    def server_us(self) -> float | None:
        """Median of the database server's processor time, where it is known."""
        return statistics.median(self.server) if self.server else None

    @property
    def elapsed_us(self) -> float:
        """Median of the time in all."""
        return statistics.median(self.elapsed)

    @property
    def over_floor(self) -> float:
        """Median of each round's processor time over that round's floor."""
        return ratio(zip(self.used, self.floor, strict=True))

    def over(self, other: Spent) -> float:
        """Median of each round's processor time over another site's in the same round."""
        return ratio(zip(self.used, other.used, strict=True))


@dataclass(kw_only=True)
class Authorized:
    """What one run measured, by (kind, accounts)."""

    singles: dict[tuple[str, int], Spent] = field(default_factory=dict)
    batches: dict[tuple[str, int], Spent] = field(default_factory=dict)
    floor_between_us: float = 0.0
    """The floor, once after each authorization, as a server's processor meets it: with other things in its caches."""
    floor_alone_us: float = 0.0
    """The floor in a loop that does nothing else."""
    floor_by_pow_us: float = 0.0
    """As `floor_between_us`, with RSA by Python's own `pow` in place of GMP's."""


def measure_authorizations(
    sites: list[Site], stock: Stock, purchases: list[EmvPurchase], rounds: int, progress: Callable[[], None]
) -> Authorized:
    """`rounds` times: on each site some purchases one at a time, then a batch, the floor after each."""
    measured = Authorized()
    entropy = sites[0].opened.entropy
    floor, by_pow = Floor(entropy, _gmp), Floor(entropy, pow)
    between: list[float] = []
    slow: list[float] = []
    waiting = iter(purchases)
    for _ in range(rounds):
        progress()
        singles, batch = _requests(stock, waiting, sites[0].opened.clock.now_s())
        for site in sites:
            site.keep_fresh()
            key = (site.kind, site.accounts)
            floors: list[float] = []
            spent = measured.singles.setdefault(key, Spent())
            _measure(site, _ONE, singles, spent, len(singles), floor, floors)
            slow.append(by_pow.used_us())
            many = measured.batches.setdefault(key, Spent())
            _measure(site, _MANY, [batch], many, MAX_BATCH, floor, floors)
            between += floors
            for one in (spent, many):
                one.floor.append(statistics.mean(floors))
    alone = [each_us(floor.once, 50) for _ in range(20)]
    measured.floor_between_us, measured.floor_by_pow_us = statistics.median(between), statistics.median(slow)
    measured.floor_alone_us = statistics.median(alone)
    return measured


def _gmp(number: int, exponent: int, modulus: int) -> int:
    return int(gmpy2.powmod(number, exponent, modulus))


def _requests(stock: Stock, waiting: Iterator[EmvPurchase], now_s: int) -> tuple[list[Wire], Wire]:
    singles = [stock.single(next(waiting), now_s) for _ in range(SINGLES)]
    return singles, stock.batch([next(waiting) for _ in range(MAX_BATCH)], now_s)


def _measure(
    site: Site, rpc: str, requests: list[Wire], spent: Spent, purchases: int, floor: Floor, floors: list[float]
) -> None:  # fmt: skip
    used = elapsed = 0.0
    server_ns = site.server.used_ns() if site.server else 0
    for request in requests:
        began, began_used = time.perf_counter_ns(), time.process_time_ns()
        answer = site.handle(rpc, request)
        used += (time.process_time_ns() - began_used) / 1e3
        elapsed += (time.perf_counter_ns() - began) / 1e3
        floors.append(floor.used_us())
        _expect_approved(rpc, answer)
    spent.used.append(used / purchases)
    spent.elapsed.append(elapsed / purchases)
    if site.server:
        spent.server.append((site.server.used_ns() - server_ns) / 1e3 / purchases)


def _expect_approved(rpc: str, answer: Wire) -> None:
    decided: tuple[Decided, ...]
    if rpc == _ONE:
        decided = (AuthorizationDecision.from_bytes(envelope.peek(AuthorizationDecision, answer.cose).payload).decided,)
    else:
        payload = envelope.peek(AuthorizationDecisions, answer.cose).payload
        decided = AuthorizationDecisions.from_bytes(payload).decided
    assert all(each.verdict is Verdict.APPROVED for each in decided)
