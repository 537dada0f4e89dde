"""A duplicate waits for the first of its kind, others don't, and nothing is kept afterwards."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from parties.server.inflight import InFlight


def test_one_thread_a_digest_and_nothing_left_behind():
    inflight = InFlight()
    inside: dict[bytes, int] = {}
    most: dict[bytes, int] = {}
    guard = threading.Lock()

    def work(number: int) -> None:
        digest = bytes([number % 3])
        with inflight.one(digest):
            with guard:
                inside[digest] = inside.get(digest, 0) + 1
                most[digest] = max(most.get(digest, 0), inside[digest])
            threading.Event().wait(0.001)
            with guard:
                inside[digest] -= 1

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(work, range(120)))
    assert set(most.values()) == {1}
    assert len(inflight) == 0


def test_a_duplicate_waits_and_another_digest_does_not():
    inflight = InFlight()
    order: list[str] = []
    entered, release = threading.Event(), threading.Event()

    def first() -> None:
        with inflight.one(b"a"):
            entered.set()
            release.wait(5)
            order.append("first")

    def second() -> None:
        with inflight.one(b"a"):
            order.append("second")

    threads = [threading.Thread(target=first), threading.Thread(target=second)]
    threads[0].start()
    entered.wait(5)
    threads[1].start()
    with inflight.one(b"b"):
        order.append("other")
    assert len(inflight) == 1
    release.set()
    for thread in threads:
        thread.join()
    assert order == ["other", "first", "second"]
    assert len(inflight) == 0


def test_a_failure_frees_the_digest():
    inflight = InFlight()
    for _ in range(2):
        with pytest.raises(ValueError, match="x"), inflight.one(b"a"):
            raise ValueError("x")
    assert len(inflight) == 0
