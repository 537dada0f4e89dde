"""`tapveil demo` and `tapveil run`: a scenario between real processes, judged by the checker."""

from __future__ import annotations

import json
import secrets
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
from parties.storage.database import faults, is_postgresql
from parties.storage.postgresql import drop_schemas
from protocol.errors import SettingsInvalid

SABOTAGE: Final[dict[str, tuple[str, str, dict[str, Any]]]] = {
    "INIT": ("enroll", "wrong-attestation-key", {"phone": "phone-1"}),
    "ATT": ("launch", "tamper-app", {"phone": "phone-1"}),
    "AID": ("open-account", "tamper-app", {"phone": "phone-1"}),
    "TID": ("register", "forge-bank-key", {"phone": "phone-1", "aid": "$aid1"}),
    "CARD": ("issue", "foreign-pass", {"phone": "phone-1", "aid": "$aid1"}),
    "PAY": ("pay", "forge-card-key", {"phone": "phone-1", "tid": "$tid1"}),
    "SETTLE": ("settle", "change-books", {"merchant": "shop-1"}),
    "RENEW": ("renew", "forge-service-key", {"phone": "phone-1", "tid": "$tid1"}),
    "RECREDIT": ("recredit", "forge-service-key", {"phone": "phone-2", "tid": "$tid2"}),
    "FREEZE": ("freeze", "kill", {"party": "bank-a"}),
    "TRACE": ("trace", "swap-card", {"merchant": "shop-1", "sale": "$soup"}),
}
"""Phase → the action before whose first step the fault is made, and the fault."""
ABOUT: Final = {
    "INIT": "the phone quotes with a key that no certificate vouches for",
    "ATT": "one byte of the installed app is changed",
    "AID": "the app is changed after its launch was allowed, before the key is certified",
    "TID": "BINFO is sealed under a forged key",
    "CARD": "a launch pass of another account is shown",
    "PAY": "the cards in the phone compute cryptograms under other keys than the TSM's",
    "SETTLE": "the merchant's books have one unit too much",
    "RENEW": "the SE's key of the service account is not the TSM's",
    "RECREDIT": "the SE's key of the service account is not the TSM's",
    "FREEZE": "the bank is dead when a phone is reported lost, so the TSM does not hear of it",
    "TRACE": "the TSM shows another card's key for the purchase",
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
        if PHASES.index(step.phase) > PHASES.index(phase):
            break
        if step.expect or not _takes_part(step, phase):
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
    if phase == "RECREDIT":
        return replace(scenario, name=name, steps=tuple(steps))
    merchants = 1 if PHASES.index(phase) >= PHASES.index("PAY") else 0
    return replace(scenario, name=name, banks=1, phones=1, merchants=merchants, steps=tuple(steps))


def _takes_part(step: ScenarioStep, phase: str) -> bool:
    """Is the step the hero's, or an operator's in the phase itself? Further credit is the second phone's."""
    if step.do == "declines":
        return False
    if phase == "RECREDIT":
        return step.fields.get("phone") == "phone-2"
    if step.fields.get("merchant", SHOP) != SHOP:
        return False
    return step.fields.get("phone") == "phone-1" or ("phone" not in step.fields and step.phase == phase)


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


@contextmanager
def working_schemas(database: str, report: Path | None) -> Iterator[str]:
    """How the names of this run's schemas begin; these go afterwards, unless a report is kept. Raises: StorageFault."""
    schemas = f"tapveil_{secrets.token_hex(4)}"
    try:
        yield schemas
    finally:
        if database and is_postgresql(database) and report is None:
            with faults():
                drop_schemas(database, schemas)


def run_and_judge(
    scenario: Scenario, report: Path | None, progress: Callable[[str], None], *, database: str = ""
) -> Verdict:
    """Run, judge, and keep `verdict.json` with the environment if a report folder is given.

    `database` is a PostgreSQL database, in which every institution gets a schema; without it each keeps a file.
    """
    with working_schemas(database, report) as schemas, working_folder(report) as folder:
        record = run_scenario(scenario, folder, progress, database=database, schemas=schemas)
        progress("checking databases and captured messages")
        verdict = judge(record)
        if report is not None:
            (folder / "verdict.json").write_text(json.dumps(verdict.plain(), indent=2) + "\n")
    return verdict
