"""What the actions of a scenario work on: the running deployment, and what earlier steps left for later ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from parties.deployment import Deployment
from parties.launcher import Launcher
from parties.release import SOFTWARE
from parties.scenario.crooked import CrookedCounter


@dataclass
class Stage:
    """The deployment, and what the steps so far left for later ones."""

    deployment: Deployment
    provider: str = "sp-1"
    tsm: str = "tsm-1"
    branch_codes: dict[tuple[str, str], str] = field(default_factory=dict)
    customers: dict[tuple[str, str], str] = field(default_factory=dict)
    """(bank, phone) → the bank's name for the phone's owner."""
    results: dict[str, Any] = field(default_factory=dict)
    counters: dict[str, CrookedCounter] = field(default_factory=dict)
    """The crooked counter of a merchant, once there is one."""
    undo: list[Callable[[], None]] = field(default_factory=list)
    """Takes back, at the end of the run, a fault that would show in an earlier phase's records."""

    def phone(self, name: str) -> Launcher:
        """The launcher of a phone."""
        return Launcher(self.deployment.folder / name)

    def application(self, phone: str) -> Path:
        """The installed file of a phone."""
        return self.deployment.folder / phone / "app" / f"{SOFTWARE}.pyz"


Fields = Mapping[str, Any]
