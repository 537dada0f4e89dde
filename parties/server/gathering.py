"""Requests of one kind that are there at the same time are answered together, by one of the threads that brought them.

Python runs one thread at a time. Threads that each answer a request take the processor from one another at every look
at the database, each finds its caches full of the others' things, and each waits for the disk by itself. So whoever
comes first answers what is there; what comes meanwhile waits, and is answered together next.
"""

from __future__ import annotations

import threading
import time
from collections import deque

from parties.storage.writer import MAX_BATCH
from protocol.attempt import attempt
from protocol.engine import Engine, Peer
from protocol.envelope import Wire
from protocol.errors import Internal


class _Place:
    """One request in line. Its thread waits at `turn` until it has its `outcome`, or is to lead."""

    __slots__ = ("outcome", "peer", "turn", "wire")

    def __init__(self, wire: Wire, peer: Peer | None) -> None:
        self.wire = wire
        self.peer = peer
        self.outcome: Wire | Exception | None = None
        self.turn = threading.Lock()
        self.turn.acquire()


class _Line:
    """The requests for one RPC. At most one thread leads: it answers those in front, and hands on to the next."""

    def __init__(self, engine: Engine, rpc: str, most: int) -> None:
        self._engine = engine
        self._rpc = rpc
        self._most = most
        self._lock = threading.Lock()
        self._waiting: deque[_Place] = deque()
        self._is_led = False

    def handle(self, wire: Wire, peer: Peer | None) -> Wire:
        place = _Place(wire, peer)
        with self._lock:
            self._waiting.append(place)
            leads, self._is_led = not self._is_led, True
        if not leads:
            place.turn.acquire()
        if place.outcome is None:
            self._lead()
        if isinstance(place.outcome, Wire):
            return place.outcome
        raise place.outcome or Internal

    def _lead(self) -> None:
        """Answer those in front, the own one first, and wake them; and who is next in line, to lead."""
        seen = 0
        while seen < (there := len(self._waiting)) < self._most:
            seen = there
            time.sleep(0)  # threads that are about to come are let in, such as those that were just answered
        with self._lock:
            taken = [self._waiting.popleft() for _ in range(min(len(self._waiting), self._most))]
        outcomes: list[Wire | Exception] = [Internal() for _ in taken]
        try:
            found = attempt(self._engine.handle_all, self._rpc, [(place.wire, place.peer) for place in taken])
            outcomes = [found for _ in taken] if isinstance(found, Exception) else found
        finally:
            with self._lock:
                successor = self._waiting[0] if self._waiting else None
                self._is_led = successor is not None
            for place, outcome in zip(taken, outcomes, strict=True):
                place.outcome = outcome
            for place in (*taken[1:], *((successor,) if successor else ())):
                place.turn.release()


class Gathering:
    """An engine whose requests are answered together, where its steps say so: as many as the store commits together."""

    def __init__(self, engine: Engine, *, most: int = MAX_BATCH) -> None:
        self._engine = engine
        self._lines = {rpc: _Line(engine, rpc, most) for rpc in engine.gathers}

    def handle(self, rpc: str, wire: Wire, peer: Peer | None) -> Wire:
        """As `Engine.handle`."""
        line = self._lines.get(rpc)
        return self._engine.handle(rpc, wire, peer) if line is None else line.handle(wire, peer)
