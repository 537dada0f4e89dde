"""`tapveil serve --workers N`: several processes of one party over one PostgreSQL database, on the same ports.

The parent binds the ports and never listens: so they stay taken while workers come and go. Each worker is a process of
its own, started and not forked, that listens beside the others (SO_REUSEPORT), and the kernel deals connections out to
them. A worker that dies is started again. SIGTERM drains all; a worker whose parent is gone, and whose standard input
therefore ends, drains too.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from parties.server.logs import configure_logs, log
from parties.server.process import MAX_WORKERS, stopping
from parties.settings import Settings, load_settings
from parties.storage.database import is_postgresql
from parties.storage.version import check_version
from protocol.errors import PortInUse, ProtocolError, SettingsInvalid, Unavailable
from protocol.types import Role

START_S: Final = 30.0
DRAIN_S: Final = 13.0
"""A little longer than a worker takes at most to finish what is under way."""
LOOK_EVERY_S: Final = 0.05
RESTART_S: Final = (0.1, 5.0)
"""Before a worker that died is started again: at first, and at most when it dies again and again."""
STEADY_S: Final = 30.0
"""A worker that lived for this long did not die of how it was started."""
_SHARING: Final = frozenset({Role.BANK, Role.TSM, Role.MERCHANT})


def check_workers(settings: Settings, workers: int) -> None:
    """May this party have so many? Raises: SettingsInvalid."""
    if not 1 <= workers <= MAX_WORKERS:
        raise SettingsInvalid(f"--workers takes 1 to {MAX_WORKERS}")
    if settings.role not in _SHARING:
        sharing = ", ".join(sorted(_SHARING))
        raise SettingsInvalid(f"--workers is for {sharing}: one process alone serves a party as {settings.role}")
    if not is_postgresql(settings.database):
        raise SettingsInvalid(
            "--workers needs PostgreSQL, since one process alone may serve a SQLite file: "
            "set database to a postgresql+psycopg:// URL, or leave --workers out"
        )


def serve_with_workers(path: Path, role: Role, workers: int) -> None:
    """Run until SIGTERM or SIGINT, then drain all workers. Prints one JSON line when all are ready.

    Raises: SettingsInvalid, StorageFault, PortInUse, Unavailable if a worker does not start; it said why.
    """
    configure_logs()
    settings = load_settings(path, role)
    check_workers(settings, workers)
    check_version(settings.database, role.value)  # said once, before each worker would say it
    with stopping() as stop, held_ports(settings) as held:
        command = [sys.executable, "-m", "parties.workers", role.value, str(path.absolute()), json.dumps(held)]
        crew = Crew(command, workers)
        try:
            ready = crew.start(stop)
            if ready is not None:
                sys.stdout.write(json.dumps({**ready, "workers": workers}) + "\n")
                sys.stdout.flush()
                crew.keep(stop)
        finally:
            crew.drain()


@contextlib.contextmanager
def held_ports(settings: Settings) -> Iterator[dict[str, str]]:
    """Bind the addresses of the settings; the same addresses with the ports that were got. Raises: PortInUse."""
    with contextlib.ExitStack() as sockets:
        held = {}
        for name in ("listen", "mutual_listen"):
            address = getattr(settings, name)
            if address:
                holder = sockets.enter_context(_hold(address))
                held[name] = f"{address.rpartition(':')[0]}:{holder.getsockname()[1]}"
        if not held:
            raise SettingsInvalid(f"{settings.path}: set listen or mutual_listen to HOST:PORT")
        yield held


def _hold(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    try:
        found = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
        family, kind, protocol, _, where = found[0]
        with socket.socket(family, kind, protocol) as alone:  # sharing is for workers, not with whoever listens there
            alone.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            alone.bind(where)
        holder = socket.socket(family, kind, protocol)
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        holder.bind(where)
    except OSError as exc:
        raise PortInUse(f"can't listen on {address}: another program does, or it is not this machine's") from exc
    return holder


@dataclass
class Worker:
    """One place in the crew, and the process that fills it."""

    process: subprocess.Popen[str] | None = None
    started_s: float = 0.0
    wait_s: float = RESTART_S[0]
    ready: dict[str, Any] = field(default_factory=dict)
    has_spoken: threading.Event = field(default_factory=threading.Event)

    def start(self, command: list[str]) -> None:
        """Start it; it says by itself when it is ready."""
        self.has_spoken = threading.Event()
        self.started_s = time.monotonic()
        self.process = subprocess.Popen(  # noqa: S603  # our own command
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        threading.Thread(target=self._listen, args=(self.process, self.has_spoken), daemon=True).start()

    def _listen(self, process: subprocess.Popen[str], has_spoken: threading.Event) -> None:
        assert process.stdout is not None
        line = process.stdout.readline()
        if line:
            self.ready = json.loads(line)
        has_spoken.set()  # or it ended without a word

    def has_ended(self) -> bool:
        """Is there no process any more? Then nothing of it is kept."""
        if self.process is None:
            return True
        if self.process.poll() is None:
            return False
        self.close()
        return True

    def close(self) -> None:
        """Wait for the end of a process that ends."""
        if self.process is not None:
            self.process.wait()
            self.has_spoken.wait()
            for pipe in (self.process.stdin, self.process.stdout):
                assert pipe is not None
                with contextlib.suppress(OSError):
                    pipe.close()
            self.process = None


class Crew:
    """The workers of one party."""

    def __init__(self, command: list[str], number: int) -> None:
        self._command = command
        self._workers = [Worker() for _ in range(number)]

    def start(self, stop: threading.Event) -> dict[str, Any] | None:
        """Start all, the first one before the others; what they say when all are ready, None if stopped meanwhile.

        Raises: Unavailable if one does not come up.
        """
        for group in (self._workers[:1], self._workers[1:]):
            for worker in group:
                worker.start(self._command)
            for worker in group:
                self._await(worker, stop)
        return None if stop.is_set() else self._workers[0].ready

    def _await(self, worker: Worker, stop: threading.Event) -> None:
        until_s = time.monotonic() + START_S
        while not stop.is_set() and not worker.has_spoken.wait(LOOK_EVERY_S):
            if time.monotonic() > until_s:
                raise Unavailable(f"a worker was not ready within {START_S:.0f} s")
        if not stop.is_set() and not worker.ready:
            raise Unavailable("a worker did not start; it said why")

    def keep(self, stop: threading.Event) -> None:
        """Start again whoever dies, until `stop` is set."""
        due_s: dict[int, float] = {}
        while not stop.wait(LOOK_EVERY_S):
            now_s = time.monotonic()
            for place, worker in enumerate(self._workers):
                if place not in due_s and worker.has_ended():
                    if now_s - worker.started_s > STEADY_S:
                        worker.wait_s = RESTART_S[0]
                    due_s[place] = now_s + worker.wait_s
                    log.warning("worker ended", count=place)
                if place in due_s and now_s >= due_s[place]:
                    del due_s[place]
                    worker.wait_s = min(2 * worker.wait_s, RESTART_S[1])
                    worker.start(self._command)

    def drain(self) -> None:
        """End all: what they have begun is finished, within `DRAIN_S`."""
        running = [worker.process for worker in self._workers if worker.process is not None]
        for process in running:
            process.terminate()
        until_s = time.monotonic() + DRAIN_S
        for process in running:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, until_s - time.monotonic()))
            process.kill()
        for worker in self._workers:
            worker.close()


def main() -> None:
    """`python -m parties.workers ROLE SETTINGS ADDRESSES`: one worker, started by the parent."""
    from parties.serve import serve_until

    role, path, held = Role(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
    configure_logs()
    try:
        with stopping() as stop:
            threading.Thread(target=_watch, args=(stop,), daemon=True).start()
            serve_until(stop, replace(load_settings(path, role), **held), shares_port=True)
    except ProtocolError as refusal:
        sys.stderr.write(f"tapveil: {refusal.code}: {refusal}.\n")
        sys.exit(1)


def _watch(stop: threading.Event) -> None:
    """Standard input says nothing, and ends with the parent."""
    while os.read(0, 1):
        pass
    stop.set()


if __name__ == "__main__":
    main()
