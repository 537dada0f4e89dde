"""What a party does by itself goes on after a fault, and does not hold up its end."""

from __future__ import annotations

import threading
import time

from parties.serve import STOP_S, Housekeeping
from protocol.errors import Unavailable


def test_a_task_goes_on_after_a_refusal_and_after_a_fault():
    runs: list[str] = []
    done = threading.Event()

    def refused() -> None:
        runs.append("refused")
        raise Unavailable

    def faulty() -> None:
        runs.append("faulty")
        if runs.count("faulty") >= 3 and runs.count("refused") >= 3:
            done.set()
        raise KeyError("a bug")

    housekeeping = Housekeeping(((0.01, refused), (0.01, faulty)))
    housekeeping.start()
    assert done.wait(5)
    housekeeping.stop()
    count = len(runs)
    time.sleep(0.05)
    assert len(runs) == count


def test_stopping_does_not_wait_for_a_task_that_hangs():
    release, entered = threading.Event(), threading.Event()

    def hang() -> None:
        entered.set()
        release.wait(30)

    housekeeping = Housekeeping(((1.0, hang), (1.0, hang), (1.0, hang)))
    housekeeping.start()
    entered.wait(5)
    started = time.monotonic()
    housekeeping.stop()
    assert time.monotonic() - started < STOP_S + 1
    release.set()
