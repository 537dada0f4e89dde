"""Processor time of a piece of work, and medians of it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Sequence


def used_us(work: Callable[[], object]) -> float:
    """Processor time in microseconds of all threads of this process, the system's part of it included."""
    before_ns = time.process_time_ns()
    work()
    return (time.process_time_ns() - before_ns) / 1e3


def elapsed_us(work: Callable[[], object]) -> float:
    """Time in microseconds."""
    before_ns = time.perf_counter_ns()
    work()
    return (time.perf_counter_ns() - before_ns) / 1e3


def each_us(work: Callable[[], None], times: int) -> float:
    """Processor time in microseconds of `work` in a loop that does nothing else."""
    before_ns = time.process_time_ns()
    for _ in range(times):
        work()
    return (time.process_time_ns() - before_ns) / 1e3 / times


def ratio(pairs: Iterable[tuple[float, float]]) -> float:
    """Median of what each round's measurement is over its own yardstick."""
    return statistics.median(one / other for one, other in pairs)


def at(values: Sequence[float], part: float) -> float:
    """The value that `part` of all do not exceed."""
    return sorted(values)[min(len(values) - 1, int(len(values) * part))]
