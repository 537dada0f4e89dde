"""`tapveil demo` and `tapveil run`: a scenario between real processes, judged by the checker."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from parties.checker.report import Verdict, judge
from parties.scenario.model import PHASES, Scenario, ScenarioStep, load_scenario
from parties.scenario.runner import run_scenario
from protocol.errors import SettingsInvalid

SABOTAGE: Final[dict[str, tuple[str, str, dict[str, Any]]]] = {
    "INIT": ("enroll", "wrong-attestation-key", {"phone": "phone-1"}),
    "ATT": ("launch", "tamper-app", {"phone": "phone-1"}),
    "AID": ("open-account", "tamper-app", {"phone": "phone-1"}),
    "TID": ("register", "forge-bank-key", {"phone": "phone-1", "aid": "$aid1"}),
    "CARD": ("issue", "foreign-pass", {"phone": "phone-1", "aid": "$aid1"}),
    "PAY": ("pay", "forge-card-key", {"phone": "phone-1", "tid": "$tid1"}),
}
"""Phase → the action before whose first step the fault is made, and the fault."""
ABOUT: Final = {
    "INIT": "the phone quotes with a key that no certificate vouches for",
    "ATT": "one byte of the installed app is changed",
    "AID": "the app is changed after its launch was allowed, before the key is certified",
    "TID": "BINFO is sealed under a forged key",
    "CARD": "a launch pass of another account is shown",
    "PAY": "the cards in the phone compute cryptograms under other keys than the TSM's",
}
SHOP: Final = "shop-1"
"""The one shop of a sabotaged run, where there is one."""


def demo_scenario() -> Scenario:
    """The built-in scenario."""
    return load_scenario(Path(str(files("parties") / "scenarios" / "demo.toml")))


def sabotaged(scenario: Scenario, phase: str) -> Scenario:
    """The scenario of one phone with one real fault in `phase`, met there: the step after it skips its own launch.

    It is as short as that allows: nobody takes part who has nothing to do, and nothing comes after the phase.
    Raises: SettingsInvalid.
    """
    if phase not in SABOTAGE:
        raise SettingsInvalid(f"--sabotage takes one of {', '.join(PHASES)}")
    action, fault, fields = SABOTAGE[phase]
    steps: list[ScenarioStep] = []
    made = False
    for step in scenario.steps:
        if step.fields.get("phone") != "phone-1" or step.fields.get("merchant", SHOP) != SHOP:
            continue
        if PHASES.index(step.phase) > PHASES.index(phase):
            break
        if step.expect:
            continue
        if not made and step.do == action and step.phase == phase:
            if phase == "CARD":  # a second account, whose pass is good in itself
                steps.append(_second_account(scenario))
            steps.append(ScenarioStep(phase=phase, do=fault, fields=fields, about=ABOUT[phase]))
            made = True
            if phase in ("AID", "TID", "CARD"):
                steps.append(replace(step, fields={**step.fields, "launch": False}))
                continue
        steps.append(step)
    name = f"{scenario.name}, sabotaged in {phase}"
    merchants = 1 if phase == "PAY" else 0
    return replace(scenario, name=name, banks=1, phones=1, merchants=merchants, steps=tuple(steps))


def _second_account(scenario: Scenario) -> ScenarioStep:
    opened = next(step for step in scenario.steps if step.do == "open-account")
    return replace(opened, name="aid9", about="a second account on the same phone")


@contextmanager
def working_folder(report: Path | None) -> Iterator[Path]:
    """A temporary folder that goes afterwards, or the folder the caller wants to keep. Raises: SettingsInvalid."""
    if report is not None:
        if report.exists() and any(report.iterdir()):
            raise SettingsInvalid(f"{report} is not empty: name a new folder for the report")
        yield report
        return
    folder = Path(tempfile.mkdtemp(prefix="tapveil-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def run_and_judge(scenario: Scenario, report: Path | None, progress: Callable[[str], None]) -> Verdict:
    """Run, judge, and keep `verdict.json` with the environment if a report folder is given."""
    with working_folder(report) as folder:
        record = run_scenario(scenario, folder, progress)
        progress("checking databases and captured messages")
        verdict = judge(record)
        if report is not None:
            (folder / "verdict.json").write_text(json.dumps(verdict.plain(), indent=2) + "\n")
    return verdict
