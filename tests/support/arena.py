"""A world whose parties keep their rows in real databases, each with several engines, as several processes have."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from support.postgres import schema
from support.world import World

from parties.server.gathering import Gathering
from parties.storage.migrations import create_or_upgrade
from parties.storage.store import DatabaseStore, open_store
from protocol.engine import Engine, Peer
from protocol.envelope import Wire
from protocol.errors import ProtocolError, Unavailable

T = TypeVar("T")
DATABASES = ("sqlite", "postgresql")
ENGINES = {"sqlite": 2, "postgresql": 3}


class Arena:
    """The world, and for some of its parties stores and engines over one database."""

    def __init__(self, folder: Path, database: str, stack: contextlib.ExitStack) -> None:
        self.world, self.come = World(folder, seed="races"), 0
        self.stores: dict[str, list[DatabaseStore]] = {}
        self.engines: dict[str, list[Engine]] = {}
        self._doors: dict[str, list[Gathering]] = {}
        self._folder, self._database, self._stack = folder, database, stack

    def settle(self, party: str) -> None:
        """From now on this party keeps its rows in a database; what it had is left behind."""
        here = self.world.parties[party]
        role = here.role.value
        url = f"sqlite:///{self._folder}/{party}.db"
        if self._database == "postgresql":
            url = self._stack.enter_context(schema())
        create_or_upgrade(url, role)
        stores = [open_store(url, role, bytes(32)) for _ in range(ENGINES[self._database])]
        for store in stores:
            self._stack.callback(store.close)
        world, peers = self.world, here.engine._peers
        engines = [
            Engine(here.steps, store=store, clock=world.clock, entropy=world.entropy, peers=peers) for store in stores
        ]
        self.stores[party], self.engines[party] = stores, engines
        self._doors[party] = [Gathering(engine) for engine in engines]
        placed: Any = here
        placed.store, placed.engine = stores[0], engines[0]
        world.refresh_stops(anew=True)

    def number(self) -> int:
        """Of whoever comes next: a phone, a merchant."""
        self.come += 1
        return self.come

    def ask(self, party: str, rpc: str, wire: Wire, peer: Peer, number: int) -> Callable[[], Wire]:
        """A question to one of the party's engines, as a server puts it. What is no answer is asked again."""
        door = self._doors[party][number % len(self._doors[party])]
        return lambda: _until_answered(lambda: door.handle(rpc, wire, peer))


def race(calls: Sequence[Callable[[], T]]) -> list[T | ProtocolError]:
    """All at the same moment; what each returned, or was refused with."""
    ready = threading.Barrier(len(calls))

    def run(call: Callable[[], T]) -> T | ProtocolError:
        ready.wait()
        try:
            return call()
        except ProtocolError as refusal:
            return refusal

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(run, calls))


def _until_answered(call: Callable[[], T]) -> T:
    for _ in range(100):
        try:
            return call()
        except Unavailable:
            continue
    raise AssertionError("no answer")


@contextlib.contextmanager
def arena(folder: Path, database: str, *parties: str) -> Iterator[Arena]:
    """With these parties' rows in databases."""
    with contextlib.ExitStack() as stack:
        made = Arena(folder, database, stack)
        for party in parties:
            made.settle(party)
        yield made
