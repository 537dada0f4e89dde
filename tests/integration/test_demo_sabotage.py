"""Each phase broken by a real fault: the demo must say so, and only from that phase on."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from parties.demo import SABOTAGE
from parties.scenario.model import PHASES as MODEL_PHASES

pytestmark = pytest.mark.real
PHASES = ["INIT", "ATT", "AID", "TID", "CARD", "PAY", "SETTLE", "RENEW", "RECREDIT", "FREEZE", "TRACE"]


def demo(*arguments: str) -> tuple[int, dict]:
    done = subprocess.run(
        [sys.executable, "-m", "parties", "demo", "--json", *arguments], capture_output=True, text=True, check=False
    )
    assert "Traceback" not in done.stderr
    return done.returncode, json.loads(done.stdout)


@pytest.mark.parametrize("phase", PHASES)
def test_a_sabotaged_phase_fails_and_the_phases_before_it_hold(phase: str) -> None:
    status, verdict = demo("--sabotage", phase)
    assert status != 0
    assert not verdict["ok"]
    good = {one["id"]: one["ok"] for one in verdict["phases"]}
    # Phases in which only others take part are left out; the paper's five and PAY never are.
    assert set(PHASES[: min(PHASES.index(phase), 6)]) <= good.keys()
    assert good == {name: name != phase for name in good}


def test_every_phase_can_be_sabotaged() -> None:
    assert list(SABOTAGE) == PHASES == list(MODEL_PHASES)
