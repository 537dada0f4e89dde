"""Scripted runs: faults in the middle, healed, and a grant given back; the checker agrees with the script."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from parties.scenario.model import load_scenario
from protocol.errors import SettingsInvalid

pytestmark = pytest.mark.real

SCRIPT = """
name = "faults and healing"
[parties]
phones = 1
merchants = 0
[[step]]
phase = "INIT"
do = "add-customer"
bank = "bank-a"
phone = "phone-1"
[[step]]
phase = "INIT"
do = "enroll"
bank = "bank-a"
phone = "phone-1"
[[step]]
phase = "ATT"
do = "install"
bank = "bank-a"
phone = "phone-1"
[[step]]
phase = "ATT"
do = "tamper-app"
phone = "phone-1"
[[step]]
phase = "ATT"
do = "launch"
bank = "bank-a"
phone = "phone-1"
expect = "SOFTWARE_CHANGED"
[[step]]
phase = "AID"
do = "open-account"
bank = "bank-a"
phone = "phone-1"
launch = false
expect = "PAYMENT_CLOSED"
[[step]]
phase = "ATT"
do = "restore-app"
phone = "phone-1"
[[step]]
phase = "AID"
do = "open-account"
bank = "bank-a"
phone = "phone-1"
passcode = "wrong-passcode"
expect = "FACTORS_INSUFFICIENT"
[[step]]
phase = "AID"
do = "kill"
party = "bank-a"
[[step]]
phase = "AID"
do = "start"
party = "bank-a"
[[step]]
phase = "AID"
do = "open-account"
bank = "bank-a"
phone = "phone-1"
as = "aid"
[[step]]
phase = "TID"
do = "restart"
party = "tsm-1"
[[step]]
phase = "TID"
do = "register"
bank = "bank-a"
phone = "phone-1"
aid = "$aid"
as = "tid"
[[step]]
phase = "TID"
do = "close"
bank = "bank-a"
phone = "phone-1"
tid = "$tid"
[[step]]
phase = "TID"
do = "register"
bank = "bank-a"
phone = "phone-1"
aid = "$aid"
as = "tid2"
[[step]]
phase = "CARD"
do = "issue"
bank = "bank-a"
phone = "phone-1"
tid = "$tid2"
number = 3
"""


def run(path: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "parties", "run", str(path), "--json"], capture_output=True, text=True, check=False
    )


def test_a_scripted_run_with_faults_ends_as_the_script_says(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text(SCRIPT)
    done = run(tmp_path / "run.toml")
    verdict = json.loads(done.stdout)
    assert verdict["ok"], verdict
    assert done.returncode == 0


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("name = 1", "name"),
        ('name = "x"\nsurprise = 1', "surprise"),
        ('name = "x"\n[[step]]\ndo = "dance"\nphase = "INIT"', "do"),
        ('name = "x"\n[[step]]\ndo = "enroll"\nphase = "NEVER"', "phase"),
        ('name = "x"\n[[step]]\ndo = "enroll"\nphase = "INIT"\nphone = "phone-1"', "bank"),
        ('name = "x"\n[[step]]\ndo = "kill"\nphase = "INIT"\nparty = "bank-a"\nexpect = "NO_CODE"', "NO_CODE"),
        ('name = "x"\n[parties]\nphones = -1', "phones"),
        ("name = ", "TOML"),
    ],
)
def test_a_wrong_script_is_named_with_what_is_wrong(tmp_path: Path, text: str, named: str) -> None:
    (tmp_path / "run.toml").write_text(text)
    with pytest.raises(SettingsInvalid) as caught:
        load_scenario(tmp_path / "run.toml")
    assert caught.value.code == "SETTINGS_INVALID"
    assert named in str(caught.value)


def test_a_wrong_script_gives_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text('name = "x"\nsurprise = 1')
    done = run(tmp_path / "run.toml")
    assert done.returncode != 0
    assert "surprise" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
