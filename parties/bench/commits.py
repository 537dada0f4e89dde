"""Group commit at the storage layer: units that are in flight together, beside the same units one commit each."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from parties.bench.clocks import elapsed_us
from parties.bench.sites import Site
from parties.storage.store import DatabaseStore
from parties.storage.writer import MAX_BATCH
from protocol.ports import Entropy
from protocol.roles.ledger import LEDGER, Entry
from protocol.rows import Decision, Insert, Key, Rows, Unit

SYNCS: Final = 50
_BLOCK: Final = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitCost:
    """Microseconds for one unit, 32 in flight: median over all rounds, and the median of each round's ratio."""

    single_us: float
    group_us: float
    ratio: float


def measure_sync(folder: Path) -> float:
    """Median microseconds until a written block of 4 KiB is on the disk below `folder`."""
    path = folder / "sync"
    handle = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
    try:
        os.pwrite(handle, bytes(_BLOCK * SYNCS), 0)
        os.fsync(handle)
        taken = []
        for n in range(SYNCS):
            os.pwrite(handle, os.urandom(_BLOCK), n * _BLOCK)
            before_ns = time.perf_counter_ns()
            os.fdatasync(handle)
            taken.append((time.perf_counter_ns() - before_ns) / 1e3)
    finally:
        os.close(handle)
        path.unlink()
    return statistics.median(taken)


def measure_commits(site: Site, rounds: int, progress: Callable[[], None]) -> CommitCost:
    """In turns over two stores of one database: 32 units that are committed one by one, 32 that are committed together.

    A unit looks for an entry of the ledger and adds it.
    """
    entropy = site.opened.entropy
    single, group = [], []
    with closing(site.another(max_batch=1)) as one, closing(site.another(max_batch=MAX_BATCH)) as many:
        for store in (one, many):
            _submit(store, entropy)
        for _ in range(rounds):
            progress()
            single.append(elapsed_us(lambda: _submit(one, entropy)) / MAX_BATCH)
            group.append(elapsed_us(lambda: _submit(many, entropy)) / MAX_BATCH)
    ratios = [slow / fast for slow, fast in zip(single, group, strict=True)]
    return CommitCost(
        single_us=statistics.median(single), group_us=statistics.median(group), ratio=statistics.median(ratios)
    )


def _submit(store: DatabaseStore, entropy: Entropy) -> None:
    waiting = [store.submit(_unit(entropy.bytes(32))) for _ in range(MAX_BATCH)]
    for future in waiting:
        future.result()


def _unit(name: bytes) -> Unit:
    entry = Entry(
        entry=name, debit="grant/bench", credit="merchant/bench", amount_minor=1, currency="TWD", kind="purchase",
        ref=name, at_s=0,
    )  # fmt: skip

    def decide(rows: Rows) -> Decision:
        assert rows.get(LEDGER, name) is None
        return Decision(writes=(Insert(LEDGER, entry),))

    return Unit((Key(LEDGER, (name,)),), decide)
