"""What all server processes of a party have in common: how they are ended, and how many there may be."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Final

MAX_WORKERS: Final = 64
"""Processes that serve one party from the same ports."""


@contextlib.contextmanager
def stopping() -> Iterator[threading.Event]:
    """What SIGTERM and SIGINT set. Afterwards they do nothing."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _signum, _frame: stop.set())
    try:
        yield stop
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)  # it is ending: a second one must not turn that into a crash
