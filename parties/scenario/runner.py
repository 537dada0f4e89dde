"""Runs a scenario in a fresh environment of real processes and keeps what the checker needs."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from parties.deployment import Deployment
from parties.scenario.actions import RUN
from parties.scenario.model import BANKS, Scenario, ScenarioStep
from parties.scenario.stage import Stage
from parties.server.capture import read_capture
from parties.setup import Plan, create_environment
from protocol.errors import ProtocolError, SettingsInvalid, Unavailable

SIGN_ON_S: Final = 15.0
STOPS_EVERY_S: Final = 1
"""Nobody waits a minute for what a step did to be known."""
NAMED: Final = ("aid", "tid", "sale", "case")
"""Which of a step's results later steps know by its name."""
CARD_KEYS_AHEAD: Final = 2
"""Keys that no step asks for are not made."""
BEFORE_TSM: Final = ("INIT", "ATT", "AID")
"""Phases in which no phone talks to the TSM."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepOutcome:
    """What came of a step: `code` is empty if it succeeded. `ok` compares with what was expected. Times in Unix ms."""

    step: ScenarioStep
    code: str
    detail: str
    result: Mapping[str, Any]
    from_ms: int
    until_ms: int

    @property
    def ok(self) -> bool:
        """Did it end as the scenario says?"""
        return self.code == self.step.expect


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """A finished run: where it lies, and every step's outcome; steps after an unexpected end were not reached."""

    scenario: Scenario
    folder: Path
    outcomes: tuple[StepOutcome, ...]
    started_ms: int

    @property
    def reached_all(self) -> bool:
        """Was every step reached and as expected?"""
        return len(self.outcomes) == len(self.scenario.steps) and all(outcome.ok for outcome in self.outcomes)


def run_scenario(
    scenario: Scenario, folder: Path, progress: Callable[[str], None], *, database: str = "", schemas: str = "tapveil"
) -> RunRecord:
    """Set up in `folder`, start all parties, run the steps in order until one ends otherwise than expected, drain.

    `database` is the PostgreSQL database of the institutions, if they are not to keep files; `schemas` is how the names
    of their schemas begin.

    Raises: SettingsInvalid, Unavailable if a party does not start.
    """
    started_ms = _now_ms()
    plan = Plan(
        banks=BANKS[: scenario.banks], phones=tuple(f"phone-{n}" for n in range(1, scenario.phones + 1)),
        merchants=tuple(f"shop-{n}" for n in range(1, scenario.merchants + 1)), base_port=0, capture=True,
        database=database, schemas=schemas,
        stops_every_s=STOPS_EVERY_S, card_keys_ahead=CARD_KEYS_AHEAD,
    )  # fmt: skip
    outcomes = []
    with Deployment(folder) as deployment:  # what servers import is loaded while keys are made
        progress("setting up keys and certificates")
        create_environment(folder, plan, lambda _party: None)
        progress("starting all parties")
        deployment.start(*_asked(deployment, plan, scenario))
        stage = Stage(deployment)
        _await_sign_on(stage, scenario.merchants)
        for step in scenario.steps:
            progress(f"{step.phase}: {step.do}")
            outcome = _perform(stage, step)
            outcomes.append(outcome)
            if not outcome.ok:
                break
        for undo in stage.undo:
            undo()
    return RunRecord(scenario=scenario, folder=folder, outcomes=tuple(outcomes), started_ms=started_ms)


def _asked(deployment: Deployment, plan: Plan, scenario: Scenario) -> list[str]:
    """All servers but those that nobody asks for anything: a TSM without terminals and TIDs, an idle provider."""
    named = {step.fields.get("party") for step in scenario.steps}
    idle = set()
    if not scenario.merchants and all(step.phase in BEFORE_TSM for step in scenario.steps):
        idle.add(plan.tsm)
    if all(step.do != "install" for step in scenario.steps):
        idle.add(plan.provider)
    return [party for party in deployment.parties() if party not in idle - named]


def _await_sign_on(stage: Stage, merchants: int) -> None:
    """Terminals sign on by themselves. Raises: Unavailable if they do not in time."""
    deadline_s = time.monotonic() + SIGN_ON_S
    capture = stage.deployment.folder / stage.tsm / "capture.log"
    while sum(1 for one in read_capture(capture) if one.rpc == "Tsm.SignOn" and one.code == "OK") < merchants:
        if time.monotonic() > deadline_s:
            raise Unavailable("the merchants' terminals did not sign on")
        time.sleep(0.05)


def _perform(stage: Stage, step: ScenarioStep) -> StepOutcome:
    from_ms, code, detail, result = _now_ms(), "", "", {}
    try:
        result = RUN[step.do](stage, _resolved(step, stage))
        if step.name:
            stage.results[step.name] = next((result[name] for name in NAMED if result.get(name)), "")
    except ProtocolError as refusal:
        if isinstance(refusal, SettingsInvalid):
            raise
        code, detail = refusal.code, str(refusal)
    return StepOutcome(step=step, code=code, detail=detail, result=result, from_ms=from_ms, until_ms=_now_ms())


def _resolved(step: ScenarioStep, stage: Stage) -> dict[str, Any]:
    fields = {}
    for name, value in step.fields.items():
        if type(value) is str and value.startswith("$"):
            if value[1:] not in stage.results:
                raise SettingsInvalid(f"step {step.do}: nothing is known as {value}")
            value = stage.results[value[1:]]  # noqa: PLW2901  # the resolved value takes its place
        fields[name] = value
    return fields


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
