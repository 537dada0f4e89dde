"""What waits is answered together, everybody gets his own answer, and nobody is left waiting."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from parties.server.gathering import Gathering, _Place
from protocol.engine import Peer
from protocol.envelope import Wire
from protocol.errors import Internal, Replay
from protocol.types import Role

ASKED = "Counter.Add"
PEER = Peer(role=Role.MERCHANT, name="shop-1")


class Answering:
    """In an engine's place: answers a request with its own bytes, refuses `no`, and can be held up."""

    gathers = frozenset({ASKED})

    def __init__(self) -> None:
        self.groups: list[list[bytes]] = []
        self.alone: list[tuple[str, bytes, Peer | None]] = []
        self.fault: BaseException | None = None
        self.entered, self.released = threading.Semaphore(0), threading.Event()
        self.released.set()

    def handle(self, rpc: str, wire: Wire, peer: Peer | None) -> Wire:
        self.alone.append((rpc, wire.cose, peer))
        return wire

    def handle_all(self, rpc: str, requests: Sequence[tuple[Wire, Peer | None]]) -> list[Wire | Exception]:
        assert rpc == ASKED
        assert all(peer is PEER for _, peer in requests)
        self.groups.append([wire.cose for wire, _ in requests])
        self.entered.release()
        self.released.wait(10)
        if self.fault is not None:
            raise self.fault
        return [Replay("seen") if wire.cose == b"no" else wire for wire, _ in requests]


class Crowd:
    """Requests that come while the first of them is being answered."""

    def __init__(self, answering: Answering, *, most: int = 32) -> None:
        self.answering = answering
        self.gathering = Gathering(answering, most=most)
        self._pool = ThreadPoolExecutor(64)

    def come(self, data: bytes) -> Future[Wire]:
        return self._pool.submit(self.gathering.handle, ASKED, Wire(cose=data), PEER)

    def behind(self, *waiting: bytes) -> list[Future[Wire]]:
        """The first is at work when the others come, and goes on when all are in line."""
        self.answering.released.clear()
        futures = [self.come(b"first")]
        assert self.answering.entered.acquire(timeout=10)
        line = self.gathering._lines[ASKED]
        for number, data in enumerate(waiting, start=1):
            futures.append(self.come(data))
            while len(line._waiting) < number:
                threading.Event().wait(0.001)
        self.answering.released.set()
        return futures


def test_one_that_comes_alone_is_answered_at_once() -> None:
    crowd = Crowd(answering := Answering())
    for data in (b"1", b"2"):
        assert crowd.come(data).result(10) == Wire(cose=data)
    assert answering.groups == [[b"1"], [b"2"]]


def test_what_came_meanwhile_is_answered_together_and_to_each_his_own() -> None:
    crowd = Crowd(answering := Answering())
    *answered, refused = crowd.behind(b"1", b"2", b"3", b"no")
    assert [future.result(10).cose for future in answered] == [b"first", b"1", b"2", b"3"]
    with pytest.raises(Replay):
        refused.result(10)
    assert answering.groups == [[b"first"], [b"1", b"2", b"3", b"no"]]


def test_a_group_is_bounded_and_the_next_in_line_leads_the_next() -> None:
    crowd = Crowd(answering := Answering(), most=2)
    futures = crowd.behind(*(bytes([n]) for n in range(5)))
    assert [future.result(10).cose for future in futures] == [b"first", *(bytes([n]) for n in range(5))]
    assert answering.groups == [[b"first"], [b"\0", b"\1"], [b"\2", b"\3"], [b"\4"]]


class Coming(deque[Any]):
    """A line in which somebody else stands whenever one looks."""

    def __init__(self, *others: bytes) -> None:
        super().__init__()
        self.others = [*others]

    def __len__(self) -> int:
        if self.others and super().__len__():
            self.append(_Place(Wire(cose=self.others.pop(0)), PEER))
        return super().__len__()


@pytest.mark.parametrize(
    ("most", "groups"), [(32, [[b"first", b"1", b"2"]]), (2, [[b"first", b"1"]])], ids=["all that come", "a full group"]
)
def test_the_first_waits_as_long_as_others_come(most: int, groups: list[list[bytes]]) -> None:
    gathering = Gathering(answering := Answering(), most=most)
    gathering._lines[ASKED]._waiting = Coming(b"1", b"2")
    assert gathering.handle(ASKED, Wire(cose=b"first"), PEER).cose == b"first"
    assert answering.groups == groups


@pytest.mark.parametrize(("fault", "raised"), [(RuntimeError("bug"), RuntimeError), (SystemExit(), Internal)])
def test_a_fault_of_all_is_told_to_all_and_the_line_goes_on(
    fault: BaseException, raised: type[BaseException]
) -> None:  # fmt: skip
    crowd = Crowd(answering := Answering(), most=3)
    answering.fault = fault
    first, *others = crowd.behind(b"1", b"2", b"3")
    with pytest.raises(type(fault)):
        first.result(10)
    leading, led, second = others
    with pytest.raises(type(fault)):
        leading.result(10)
    for future in (led, second):
        with pytest.raises(raised):
            future.result(10)
    answering.fault = None
    assert crowd.come(b"4").result(10).cose == b"4"


def test_other_requests_are_not_held_up() -> None:
    answering = Answering()
    assert Gathering(answering).handle("Counter.Peek", Wire(cose=b"1"), PEER) == Wire(cose=b"1")
    assert answering.alone == [("Counter.Peek", b"1", PEER)]
    assert answering.groups == []


def test_a_thousand_requests_of_many_threads_are_each_answered_once() -> None:
    crowd = Crowd(answering := Answering())
    futures = [crowd.come(n.to_bytes(2, "big")) for n in range(1000)]
    assert [int.from_bytes(future.result(10).cose, "big") for future in futures] == list(range(1000))
    assert sorted(data for group in answering.groups for data in group) == [n.to_bytes(2, "big") for n in range(1000)]
