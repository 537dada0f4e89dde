"""The parties of an environment as processes on this machine: for the demo, for scenarios and for tests."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from parties.settings import load_settings
from protocol.errors import Unavailable
from protocol.types import Role

START_S: Final = 30.0
STOP_S: Final = 15.0
_SERVED: Final = frozenset({Role.BANK, Role.TSM, Role.MERCHANT, Role.SE, Role.SP})


class Deployment:
    """Starts, stops and kills the servers below one folder made by `tapveil init`. A party is named by its folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ready: dict[str, dict[str, Any]] = {}
        self._processes: dict[str, subprocess.Popen[str]] = {}

    def parties(self) -> list[str]:
        """All servers of the environment, in the order in which they are started."""
        order = [Role.BANK, Role.SP, Role.TSM, Role.SE, Role.MERCHANT]
        found = []
        for path in sorted(self.folder.glob("*/settings.toml")) + sorted(self.folder.glob("*/se/settings.toml")):
            role = load_settings(path).role
            if role in _SERVED:
                found.append((order.index(role), path.parent.relative_to(self.folder).as_posix()))
        return [name for _, name in sorted(found)]

    def settings(self, party: str) -> Path:
        """The settings file of a party."""
        return self.folder / party / "settings.toml"

    def launch(self, party: str) -> None:
        """Start a server process without waiting for it. Its log is `log.jsonl` beside its settings."""
        role = load_settings(self.settings(party)).role
        command = [sys.executable, "-m", "parties", "serve", role.value, "--settings", str(self.settings(party))]
        with (self.folder / party / "log.jsonl").open("ab") as log:
            self._processes[party] = subprocess.Popen(  # noqa: S603  # our own command
                command, stdout=subprocess.PIPE, stderr=log, stdin=subprocess.DEVNULL, text=True,
                start_new_session=True,
            )  # fmt: skip

    def await_ready(self, party: str) -> None:
        """Raises: Unavailable with the last line of the log if the server does not come up."""
        process = self._processes[party]
        assert process.stdout is not None
        deadline_s = time.monotonic() + START_S
        while time.monotonic() < deadline_s:
            if select.select([process.stdout], [], [], 0.2)[0]:
                line = process.stdout.readline()
                if line:
                    self.ready[party] = json.loads(line)
                    return
            if process.poll() is not None:
                break
        self.kill(party)
        lines = (self.folder / party / "log.jsonl").read_text().splitlines()
        raise Unavailable(f"{party} did not start: {lines[-1] if lines else 'no log'}")

    def start(self, *parties: str) -> None:
        """Start these servers (all, if none is named) and wait until each is ready; merchants after those they call."""
        names = parties or tuple(self.parties())
        last = [name for name in names if load_settings(self.settings(name)).role is Role.MERCHANT]
        for group in ([name for name in names if name not in last], last):
            for party in group:
                self.launch(party)
            for party in group:
                self.await_ready(party)

    def pid(self, party: str) -> int:
        """The server's process."""
        return self._processes[party].pid

    def stop(self, party: str) -> int:
        """SIGTERM, which drains; the exit status."""
        process = self._processes.pop(party)
        process.send_signal(signal.SIGTERM)
        try:
            return process.wait(STOP_S)
        finally:
            self._end(process)

    def kill(self, party: str) -> None:
        """SIGKILL: the party gets no chance to tidy up."""
        self._end(self._processes.pop(party))

    def _end(self, process: subprocess.Popen[str]) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if process.stdout is not None:
            process.stdout.close()

    def close(self) -> None:
        """Drain all that still runs."""
        running = list(self._processes)
        for party in running:
            self._processes[party].send_signal(signal.SIGTERM)
        for party in running:
            process = self._processes.pop(party)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(STOP_S)
            self._end(process)

    def __enter__(self) -> Deployment:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
