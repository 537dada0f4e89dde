"""The parties of an environment as processes on this machine: for the demo, for scenarios and for tests."""

from __future__ import annotations

import json
import select
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from parties.settings import load_settings
from parties.template import ServerProcess, Template
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
        self.workers: dict[str, int] = {}
        """How many processes serve a party, where it is not one."""
        self._processes: dict[str, ServerProcess] = {}
        self._template: Template | None = None
        self._lock = threading.Lock()

    def parties(self) -> list[str]:
        """All servers of the environment, in the order in which they are started."""
        order = [Role.BANK, Role.SP, Role.TSM, Role.SE, Role.MERCHANT]
        found = []
        for path in sorted(self.folder.glob("*/settings.toml")) + sorted(self.folder.glob("*/se/settings.toml")):
            role = load_settings(path).role
            if role in _SERVED:
                found.append((order.index(role), path.parent.relative_to(self.folder).as_posix()))
        return [name for _, name in sorted(found)]

    def of_role(self, role: Role) -> list[str]:
        """The servers of one role."""
        return [name for name in self.parties() if load_settings(self.settings(name)).role is role]

    def settings(self, party: str) -> Path:
        """The settings file of a party."""
        return self.folder / party / "settings.toml"

    def launch(self, party: str) -> None:
        """Start a server process without waiting for it. Its log is `log.jsonl` beside its settings.

        Raises: Unavailable if no process can be started.
        """
        settings = self.settings(party).absolute()
        arguments = ["serve", load_settings(settings).role.value, "--settings", str(settings)]
        if party in self.workers:
            arguments += ["--workers", str(self.workers[party])]
        with (self.folder / party / "log.jsonl").open("ab") as log:
            self._processes[party] = self._loaded().fork(arguments, log)

    def _loaded(self) -> Template:
        with self._lock:
            if self._template is not None and not self._template.alive:
                self._template.close()
                self._template = None
            if self._template is None:
                self._template = Template()
            return self._template

    def await_ready(self, party: str) -> None:
        """Raises: Unavailable with the last line of the log if the server does not come up."""
        process = self._processes[party]
        deadline_s = time.monotonic() + START_S
        while time.monotonic() < deadline_s:
            if select.select([process.stdout], [], [], 0.2)[0]:
                line = process.stdout.readline()
                if line:
                    self.ready[party] = json.loads(line)
                    return
            if process.wait(0) is not None:
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
        """SIGTERM, which drains; the exit status. Raises: TimeoutError if it does not end, and is killed."""
        process = self._processes.pop(party)
        process.terminate()
        try:
            status = process.wait(STOP_S)
        finally:
            process.end()
        if status is None:
            raise TimeoutError(f"{party} did not end within {STOP_S} s")
        return status

    def kill(self, party: str) -> None:
        """SIGKILL: the party gets no chance to tidy up."""
        self._processes.pop(party).end()

    def close(self) -> None:
        """Drain all that still runs."""
        running = list(self._processes)
        for party in running:
            self._processes[party].terminate()
        for party in running:
            process = self._processes.pop(party)
            process.wait(STOP_S)
            process.end()
        if self._template is not None:
            self._template.close()
            self._template = None

    def __enter__(self) -> Deployment:
        self._loaded()  # so that it loads while the caller makes the environment
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
