"""How the tests share the machine: ports, what runs in one worker, and which tests count for coverage."""

from __future__ import annotations

import functools
import gc
import os
from collections.abc import Generator
from pathlib import Path

import coverage
import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

WORKERS = 8
worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % WORKERS
first = 20_000 + worker * 1_500
# Each worker makes its environments in a range of ports of its own, so that none takes another's.
os.environ["TAPVEIL_PORTS"] = f"{first}-{first + 1_499}"

TESTS = Path(__file__).parent
COVERING = ("unit/protocol", "unit/card", "unit/attestation", "unit/contract", "negative", "attacks")
"""The tests that hold `protocol` and `attestation` to their bounds. Tracing slows whatever runs, so others go without:
what only a run between processes would reach is not tested well enough."""
MEASURED = ("protocol.", "attestation.")
SHARED = ("integration/test_real", "conformance")
"""Tests that share servers which are started once for the session: they stay in one worker."""
FIRST = (*SHARED, "integration", "interop", "simulation", "")
"""The order of tests, by how their place starts: what takes long begins first."""


class Scheduling(LoadScopeScheduling):
    """Tests that share servers go to one worker, and so do those of each other file."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return next((shared for shared in SHARED if file.removeprefix("tests/").startswith(shared)), file)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="hundreds of kills instead of dozens, with a line on each run")
    parser.addoption("--seed", type=int, default=1, help="which faults come when in tests of killed servers")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Scheduling | None:
    """With `--dist loadfile`."""
    return Scheduling(config, log) if config.getoption("dist") == "loadfile" else None


def place(item: pytest.Item) -> str:
    """The item's file below `tests`."""
    return item.path.relative_to(TESTS).as_posix()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: next(n for n, start in enumerate(FIRST) if place(item).startswith(start)))


class Tracing:
    """Coverage, if it is measured: on for the tests that count, off for the others."""

    def __init__(self) -> None:
        self.measured = coverage.Coverage.current()
        self.on = True

    def wanted(self, on: bool) -> None:
        if self.measured is not None and on != self.on:
            (self.measured.start if on else self.measured.stop)()
            self.on = on
            if on:
                forget_results()


def forget_results() -> None:
    """What was kept from calls that were not measured: else a line is counted or not by which test came first."""
    for cached in gc.get_objects():
        if isinstance(cached, functools._lru_cache_wrapper) and cached.__module__.startswith(MEASURED):
            cached.cache_clear()


TRACING = pytest.StashKey[Tracing]()


@pytest.hookimpl(wrapper=True)
def pytest_runtestloop(session: pytest.Session) -> Generator[None, object, object]:
    session.stash[TRACING] = Tracing()
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    item.session.stash[TRACING].wanted(place(item).startswith(COVERING))
    return (yield)
