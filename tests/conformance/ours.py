"""Starts this project's own bank and TSM, as subprocesses of the command `tapveil`, and has a bundle made for them."""

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

USES = 3
"""Purchases of one card, by the TSM's setting: with one only, a used opening could not be told from a used-up card."""
START_S = 30.0
STOP_S = 10.0


def tapveil(*arguments: str) -> None:
    """Run the command; its last words are in the error if it fails."""
    done = subprocess.run(
        [sys.executable, "-m", "parties", *arguments], capture_output=True, text=True, check=False, timeout=120
    )
    if done.returncode:
        raise RuntimeError(f"tapveil {' '.join(arguments[:2])}: {done.stderr.strip()[-500:]}")


class Servers:
    """Bank and TSM of a fresh environment below `folder`."""

    def __init__(self, folder: Path) -> None:
        environment = folder / "environment"
        self.bundle = folder / "bundle"
        tapveil("init", str(environment), "--phones", "0", "--merchants", "0", "--base-port", "0", "--json")
        settings = environment / "tsm-1" / "settings.toml"
        plain = settings.read_text()
        # Lists of stops come so often that no test has to wait for a minute.
        for name, value, wanted in (("card_uses", 1, USES), ("stops_every_s", 60, 1)):
            assert f"{name} = {value}\n" in plain
            plain = plain.replace(f"{name} = {value}\n", f"{name} = {wanted}\n")
        settings.write_text(plain)
        self._processes = [self._launch(environment, "bank", "bank-a"), self._launch(environment, "tsm", "tsm-1")]
        try:
            tapveil("conformance", "bundle", str(environment), str(self.bundle), "--json")
            for process in self._processes:
                self._await_ready(process)
        except BaseException:
            self.close()
            raise

    def _launch(self, environment: Path, role: str, name: str) -> subprocess.Popen[str]:
        settings = environment / name / "settings.toml"
        with (environment / name / "log.jsonl").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "parties", "serve", role, "--settings", str(settings)],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True,
            )  # fmt: skip

    def _await_ready(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        deadline_s = time.monotonic() + START_S
        while time.monotonic() < deadline_s and process.poll() is None:
            if select.select([process.stdout], [], [], 0.2)[0]:
                json.loads(process.stdout.readline())
                return
        raise RuntimeError("a server did not start")

    def close(self) -> None:
        """SIGTERM, and SIGKILL for who does not listen."""
        for process in self._processes:
            process.send_signal(signal.SIGTERM)
        for process in self._processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(STOP_S)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if process.stdout is not None:
                process.stdout.close()
