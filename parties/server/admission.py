"""Who is let in, and how many at once: what is beyond is shed at once, so that what is let in is served in time.

Each port has its own admission: what strangers do at the open one takes no place from merchants at the other. Within a
port calls go by lanes, so that those which wait for another party, or come from nobody known, leave room for the rest.
A call is looked at here before its message is read, and again before any of its signatures is checked.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import grpc

from protocol.engine import AskingStep, Step
from protocol.errors import Overloaded, ProtocolError, StorageFault, Unavailable

WAIT_S: Final = 0.5
"""For a place at work. Who would wait for longer had better ask again later, or elsewhere."""


class Lane(StrEnum):
    """Calls that are bounded together."""

    MAIN = "main"
    ASKING = "asking"
    """Steps that wait for another party, which may hang."""
    STRANGER = "stranger"
    """What anybody may ask without being known: `Tsm.OpenAccount`."""


class Shed(StrEnum):
    """Why a call was not let in: its lane was full, or for too long; strangers had used up their time; its caller was
    gone; its message did not come; there was no database."""

    FULL = "full"
    WAITED = "waited"
    BUDGET = "budget"
    LATE = "late"
    SLOW = "slow"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """Of a lane: how many calls are worked on at once, and how many are there at all."""

    at_work: int
    present: int


MUTUAL: Final[Mapping[Lane, Bounds]] = {
    Lane.MAIN: Bounds(at_work=64, present=192),
    Lane.ASKING: Bounds(at_work=32, present=48),
    Lane.STRANGER: Bounds(at_work=4, present=16),
}
OPEN: Final[Mapping[Lane, Bounds]] = {
    Lane.MAIN: Bounds(at_work=32, present=160),
    Lane.ASKING: Bounds(at_work=32, present=64),
    Lane.STRANGER: Bounds(at_work=4, present=32),
}
STRANGERS: Final = frozenset({"Tsm.OpenAccount"})
STRANGERS_SHARE: Final = 0.25
"""Of one processor, which strangers' calls may take."""
STRANGERS_BURST_S: Final = 1.0
"""Processor time that they may take at once after a rest."""


def lanes_of(steps: Mapping[str, Step[Any]]) -> dict[str, Lane]:
    """The lane of each RPC."""
    return {rpc: _lane(rpc, step) for rpc, step in steps.items()}


def _lane(rpc: str, step: Step[Any]) -> Lane:
    if rpc in STRANGERS:
        return Lane.STRANGER
    return Lane.ASKING if isinstance(step, AskingStep) else Lane.MAIN


class Turned(Exception):
    """A call is not let in: why, and the refusal that its caller gets."""

    def __init__(self, why: Shed, refusal: type[ProtocolError]) -> None:
        super().__init__(why.value)
        self.why = why
        self.refusal = refusal


class Budget:
    """Processor time that comes in steadily and is spent by work; what was overspent is waited for."""

    def __init__(self, *, share: float, burst_s: float) -> None:
        self._share = share
        self._burst_s = burst_s
        self._left_s = burst_s
        self._at_s = time.monotonic()
        self._lock = threading.Lock()

    @property
    def is_spent(self) -> bool:
        """Is there none left now?"""
        with self._lock:
            now_s = time.monotonic()
            self._left_s = min(self._burst_s, self._left_s + (now_s - self._at_s) * self._share)
            self._at_s = now_s
            return self._left_s <= 0

    def spend(self, seconds: float) -> None:
        """Take off what was used."""
        with self._lock:
            self._left_s -= seconds


class _LaneState:
    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds
        self.present = 0
        self.at_work = threading.BoundedSemaphore(bounds.at_work)


class Admission:
    """The doors of one port."""

    def __init__(
        self, lanes: Mapping[str, Lane] | None = None, bounds: Mapping[Lane, Bounds] = MUTUAL, *,
        wait_s: float = WAIT_S, share: float = STRANGERS_SHARE, burst_s: float = STRANGERS_BURST_S,
    ) -> None:  # fmt: skip
        """An RPC without a lane goes in the main one."""
        self._lanes = dict(lanes or {})
        self._states = {lane: _LaneState(bounds[lane]) for lane in Lane}
        self._wait_s = wait_s
        self._lock = threading.Lock()
        self.strangers = Budget(share=share, burst_s=burst_s)
        self.is_closed = False
        """Nothing is let in: there is no database to serve from."""

    @property
    def present(self) -> int:
        """How many calls are in."""
        return sum(state.present for state in self._states.values())

    @contextmanager
    def enter(self, rpc: str) -> Iterator[None]:
        """A call is there, its message is not yet. Raises: Turned."""
        lane = self._lanes.get(rpc, Lane.MAIN)
        state = self._states[lane]
        if self.is_closed:
            raise Turned(Shed.CLOSED, StorageFault)
        if lane is Lane.STRANGER and self.strangers.is_spent:
            raise Turned(Shed.BUDGET, Overloaded)
        with self._lock:
            if state.present >= state.bounds.present:
                raise Turned(Shed.FULL, Overloaded)
            state.present += 1
        try:
            yield
        finally:
            with self._lock:
                state.present -= 1

    @contextmanager
    def work(self, rpc: str, context: grpc.ServicerContext) -> Iterator[None]:
        """A place at work for a call that entered. Raises: Turned, also if its caller waits no more."""
        lane = self._lanes.get(rpc, Lane.MAIN)
        state = self._states[lane]
        if not state.at_work.acquire(blocking=False):
            remaining_s = context.time_remaining()
            wait_s = self._wait_s if remaining_s is None else min(self._wait_s, remaining_s)
            if not state.at_work.acquire(timeout=wait_s):
                raise Turned(Shed.WAITED, Overloaded)
        try:
            if not context.is_active():  # cancelled, or past its deadline: nobody would hear the answer
                raise Turned(Shed.LATE, Unavailable)
            if lane is not Lane.STRANGER:
                yield
                return
            started_s = time.thread_time()
            try:
                yield
            finally:
                self.strangers.spend(time.thread_time() - started_s)
        finally:
            state.at_work.release()
