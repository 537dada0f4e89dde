"""How long each server takes to start as a process of its own, and what memory it then holds."""

from __future__ import annotations

import select
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from parties.settings import load_settings
from parties.setup import Plan, create_environment
from protocol.errors import Unavailable

START_S: Final = 30.0
PARTIES: Final = ("bank-a", "sp-1", "tsm-1", "phone-1/se", "shop-1")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerCost:
    """Seconds from the start of the interpreter until the server takes requests, and resident memory in MiB then."""

    party: str
    start_s: float
    resident_mib: float


def measure_servers(folder: Path, progress: Callable[[], None]) -> list[ServerCost]:
    """Each of the parties of a fresh environment below `folder`, one after the other. Raises: Unavailable."""
    create_environment(folder, Plan(merchants=("shop-1",), phones=("phone-1",), base_port=0), lambda _party: None)
    measured = []
    for party in PARTIES:
        progress()
        if (folder / party / "settings.toml").is_file():
            measured.append(_measure(folder, party))
    return measured


def _measure(folder: Path, party: str) -> ServerCost:
    settings = folder / party / "settings.toml"
    command = [
        sys.executable, "-m", "parties", "serve", load_settings(settings).role.value, "--settings",
        str(settings),
    ]  # fmt: skip
    began_s = time.monotonic()
    with subprocess.Popen(  # noqa: S603  # this program
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=folder
    ) as process:
        try:
            assert process.stdout is not None
            ready = select.select([process.stdout], [], [], START_S)[0]
            if not ready or not process.stdout.readline():
                raise Unavailable(f"{party} did not start")
            start_s = time.monotonic() - began_s
            return ServerCost(party=party, start_s=start_s, resident_mib=_resident_mib(process.pid))
        finally:
            process.kill()  # how it drains is not measured here


def _resident_mib(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise Unavailable("the kernel does not say how much memory a process holds")
