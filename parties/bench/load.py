"""Latency at half load: purchases that come when they come, whether or not the ones before them are answered."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Final

from parties.bench.authorizing import IN_FLIGHT
from parties.bench.clocks import at
from parties.bench.purchases import Stock
from parties.bench.sites import Site
from protocol.envelope import Wire
from protocol.messages.pay import EmvPurchase

THREADS: Final = 64
"""As many as a server has."""
_RPC: Final = "Tsm.Authorize"
_SEED: Final = 7


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadCost:
    """Requests a second that one process answers with 32 in flight, and its processor's microseconds for each;
    milliseconds of latency at half of that rate. `ratio` is the median over the windows of p99 over p50."""

    per_second: float
    processor_us: float
    p50_ms: float
    p99_ms: float
    ratio: float


def needed(window: int, windows: int) -> int:
    """How many purchases a measurement takes."""
    return (windows + 1) * window


def measure_load(
    site: Site, stock: Stock, purchases: list[EmvPurchase], window: int, windows: int, progress: Callable[[], None]
) -> LoadCost:
    """Capacity first; then windows of Poisson arrivals at half of it, in process: no network, no other machine."""
    waiting = iter(purchases)
    site.keep_fresh()
    with ThreadPoolExecutor(IN_FLIGHT) as pool:
        requests = _sign(site, stock, waiting, window)
        began_s, began_ns = time.perf_counter(), time.process_time_ns()
        for answer in [pool.submit(site.handle, _RPC, request) for request in requests]:
            answer.result()
        per_second = window / (time.perf_counter() - began_s)
        processor_us = (time.process_time_ns() - began_ns) / 1e3 / window
    chance = random.Random(_SEED)  # when purchases come is no secret
    taken = []
    with ThreadPoolExecutor(THREADS) as pool:
        for _ in range(windows):
            progress()
            site.keep_fresh()
            taken.append(_window(site, _sign(site, stock, waiting, window), per_second / 2, pool, chance))
    return LoadCost(
        per_second=per_second, processor_us=processor_us,
        p50_ms=statistics.median(at(window, 0.5) for window in taken),
        p99_ms=statistics.median(at(window, 0.99) for window in taken),
        ratio=statistics.median(at(window, 0.99) / at(window, 0.5) for window in taken),
    )  # fmt: skip


def _sign(site: Site, stock: Stock, waiting: Iterator[EmvPurchase], number: int) -> list[Wire]:
    now_s = site.opened.clock.now_s()
    return [stock.single(purchase, now_s) for purchase in islice(waiting, number)]


def _window(
    site: Site, requests: Sequence[Wire], rate: float, pool: ThreadPoolExecutor, chance: random.Random
) -> list[float]:  # fmt: skip
    """Latency of each in milliseconds, from the moment at which it was to come."""
    answers: list[Future[float]] = []
    due_s = time.perf_counter() + 0.01
    for request in requests:
        due_s += chance.expovariate(rate)
        while (left_s := due_s - time.perf_counter()) > 0:
            time.sleep(left_s)
        answers.append(pool.submit(_answer, site, request, due_s))
    return [answer.result() for answer in answers]


def _answer(site: Site, request: Wire, due_s: float) -> float:
    site.handle(_RPC, request)
    return (time.perf_counter() - due_s) * 1e3
