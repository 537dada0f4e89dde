"""What breaks real processes, at moments from a seed: SIGKILL, disks that are full, lines that hang or lie, clocks."""

from __future__ import annotations

import contextlib
import mmap
import os
import random
import resource
import signal
import struct
import subprocess
import sys
import threading
from collections import Counter as Tally
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from support.postgres import Server

from parties.system import SystemClock

PAGE = 4096
_OFFSET = struct.Struct("<q")


@dataclass
class Ruin:
    """Faults for the parties of a town. `done` counts them by name."""

    town: Any
    chance: random.Random
    done: Tally[str] = field(default_factory=Tally)

    def kill(self, *parties: str, down_s: float = 0.1) -> None:
        """SIGKILL one after the other at once, and start them again after a moment."""
        for party in parties:
            self.town.kill(party)
            self.done[f"kill {party}"] += 1
        threading.Event().wait(self.chance.uniform(0, down_s))
        self.town.running(*parties)

    def kill_worker(self, party: str) -> None:
        """SIGKILL one of the processes that serve a party, if another is left; their parent starts a new one."""
        pid = self.town.deployment.pid(party)
        children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        if len(children) > 1:
            os.kill(self.chance.choice(children), signal.SIGKILL)
            self.done[f"kill a worker of {party}"] += 1

    def restart(self, database: Server, how: signal.Signals) -> None:
        """End a database server, by SIGQUIT as a crash does, and start it again after a moment."""
        database.stop(how)
        threading.Event().wait(self.chance.uniform(0, 0.5))
        database.start()
        self.done[f"database {how.name}"] += 1

    @contextlib.contextmanager
    def full_disk(self, party: str) -> Iterator[None]:
        """While it lasts no file of this party, its log neither, can be written but at its beginning: the system
        refuses the write as it does on a full disk or over a quota, which this needs no rights for."""
        pid = self.town.deployment.pid(party)
        _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (PAGE, hard))
        self.done[f"full disk of {party}"] += 1
        try:
            yield
        finally:
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (hard, hard))

    def report(self) -> str:
        """What was done, in a line."""
        return ", ".join(f"{name}: {number}" for name, number in sorted(self.done.items()))


# --- clocks --------------------------------------------------------------------------------------------------------
class SteppedClock(SystemClock):
    """The system's clock, set forth or back by as many seconds as a file says: a `Clock` for a server under test."""

    def __init__(self, path: Path) -> None:
        with path.open("r+b") as file:
            self._file = mmap.mmap(file.fileno(), _OFFSET.size)

    def now_s(self) -> int:
        return super().now_s() + int(_OFFSET.unpack(self._file[:])[0])

    def close(self) -> None:
        self._file.close()

    def step(self, offset_s: int) -> None:
        """From now on the clock is this far from the system's."""
        self._file[:] = _OFFSET.pack(offset_s)


@contextlib.contextmanager
def stepped_clock(path: Path) -> Iterator[SteppedClock]:
    """A clock that is right, until it is stepped."""
    path.write_bytes(_OFFSET.pack(0))
    clock = SteppedClock(path)
    yield clock
    clock.close()


@contextlib.contextmanager
def stepped_server(town: Any, party: str, role: str) -> Iterator[SteppedClock]:
    """The party's server with a clock that can be set, in the place of its usual one."""
    path = town.folder / party / "clock"
    town.stop(party)
    command = [sys.executable, "-m", "support.stepped", role, str(town.settings(party)), str(path)]
    search = os.pathsep.join(filter(None, [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]))
    with stepped_clock(path) as clock, (town.folder / party / "log.jsonl").open("ab") as log:
        server = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=log, env={**os.environ, "PYTHONPATH": search}
        )  # fmt: skip
        assert server.stdout is not None
        try:
            assert b'"ready"' in server.stdout.readline(), town.log(party)[-500:]
            yield clock
            server.terminate()
            assert server.wait(15) == 0
        finally:
            server.kill()
            server.wait()
            server.stdout.close()
    town.running(party)


def at_random(chance: random.Random, *faults: tuple[int, Callable[[], object]]) -> Iterator[None]:
    """Each as many times as it says, in any order, with a pause before each; after each one, whoever iterates looks."""
    actions = [action for times, action in faults for _ in range(times)]
    chance.shuffle(actions)
    for action in actions:
        threading.Event().wait(chance.uniform(0.0, 0.15))
        action()
        yield
