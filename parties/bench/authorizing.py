"""Authorizations on all sites in turns, each beside the floor."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Final

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
IN_FLIGHT: Final = 32
"""Requests under way at once."""
FLIGHT: Final = 2 * IN_FLIGHT
"""Purchases that so many threads ask for on each site and round, a request each."""
A_ROUND: Final = SINGLES + FLIGHT + MAX_BATCH
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
    """A request a purchase, one at a time: each is answered before the next is asked."""
    flights: dict[tuple[str, int], Spent] = field(default_factory=dict)
    """A request a purchase, `IN_FLIGHT` at once."""
    batches: dict[tuple[str, int], Spent] = field(default_factory=dict)
    """A request for `MAX_BATCH` purchases."""
    floor_between_us: float = 0.0
    """The floor, once after each authorization, as a server's processor meets it: with other things in its caches."""
    floor_alone_us: float = 0.0
    """The floor in a loop that does nothing else."""
    floor_by_pow_us: float = 0.0
    """As `floor_between_us`, with RSA by Python's own `pow` in place of GMP's."""


def measure_authorizations(
    sites: list[Site], stock: Stock, purchases: list[EmvPurchase], rounds: int, progress: Callable[[], None]
) -> Authorized:
    """`rounds` times: on each site purchases one at a time, then many at once, then a batch; the floor after each."""
    measured = Authorized()
    entropy = sites[0].opened.entropy
    floor, by_pow = Floor(entropy), Floor(entropy, pow, int)
    between: list[float] = []
    slow: list[float] = []
    waiting = iter(purchases)
    with ThreadPoolExecutor(IN_FLIGHT) as clients:
        for _ in range(rounds):
            progress()
            singles, flight, batch = _requests(stock, waiting, sites[0].opened.clock.now_s())
            for site in sites:
                site.keep_fresh()
                key = (site.kind, site.accounts)
                floors: list[float] = []
                ways = (
                    (measured.singles, _ONE, [[single] for single in singles], SINGLES),
                    (measured.flights, _ONE, [flight], FLIGHT),
                    (measured.batches, _MANY, [[batch]], MAX_BATCH),
                )
                for of, rpc, groups, number in ways:
                    spent = of.setdefault(key, Spent())
                    floors += _measure(site, partial(_ask, site, rpc, clients), groups, number, spent, floor)
                slow.append(by_pow.used_us())
                between += floors
                for of, *_ in ways:
                    of[key].floor.append(statistics.mean(floors))
    alone = [each_us(floor.once, 50) for _ in range(20)]
    measured.floor_between_us, measured.floor_by_pow_us = statistics.median(between), statistics.median(slow)
    measured.floor_alone_us = statistics.median(alone)
    return measured


def _requests(stock: Stock, waiting: Iterator[EmvPurchase], now_s: int) -> tuple[list[Wire], list[Wire], Wire]:
    singles = [stock.single(next(waiting), now_s) for _ in range(SINGLES)]
    flight = [stock.single(next(waiting), now_s) for _ in range(FLIGHT)]
    return singles, flight, stock.batch([next(waiting) for _ in range(MAX_BATCH)], now_s)


def _ask(site: Site, rpc: str, clients: ThreadPoolExecutor, requests: list[Wire]) -> list[Wire]:
    """All at once; one by itself without another thread."""
    handle = partial(site.handle, rpc)
    return list(clients.map(handle, requests)) if len(requests) > 1 else [handle(requests[0])]


def _measure(
    site: Site, ask: Callable[[list[Wire]], list[Wire]], groups: list[list[Wire]], purchases: int, spent: Spent,
    floor: Floor,
) -> list[float]:  # fmt: skip
    """Ask for each group, and after it see what the floor takes: that is returned."""
    used = elapsed = 0.0
    floors = []
    server_ns = site.server.used_ns() if site.server else 0
    for requests in groups:
        began, began_used = time.perf_counter_ns(), time.process_time_ns()
        answers = ask(requests)
        used += (time.process_time_ns() - began_used) / 1e3
        elapsed += (time.perf_counter_ns() - began) / 1e3
        floors.append(floor.used_us())
        assert all(each.verdict is Verdict.APPROVED for answer in answers for each in _decided(answer))
    spent.used.append(used / purchases)
    spent.elapsed.append(elapsed / purchases)
    if site.server:
        spent.server.append((site.server.used_ns() - server_ns) / 1e3 / purchases)
    return floors


def _decided(answer: Wire) -> tuple[Decided, ...]:
    sign1 = envelope.peek(AuthorizationDecisions, answer.cose)
    if sign1.name == AuthorizationDecision.NAME:
        return (AuthorizationDecision.from_bytes(sign1.payload).decided,)
    return AuthorizationDecisions.from_bytes(sign1.payload).decided
