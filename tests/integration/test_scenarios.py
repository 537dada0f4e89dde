"""Scripted runs: faults in the middle, healed, a grant given back, sales that end well or not; the checker agrees."""

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
merchants = 1
banks = 1
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
expect = "AID_ALREADY_GRANTED"
about = "what the first grant spent is not claimed yet"
[[step]]
phase = "TID"
do = "claim"
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
number = 5
[[step]]
phase = "PAY"
do = "start-sale"
merchant = "shop-1"
amount = 500
as = "changed-mind"
[[step]]
phase = "PAY"
do = "pay"
merchant = "shop-1"
phone = "phone-1"
tid = "$tid2"
amount = 500
expect = "WRONG_STATE"
[[step]]
phase = "PAY"
do = "cancel-sale"
merchant = "shop-1"
sale = "$changed-mind"
[[step]]
phase = "PAY"
do = "set-pin"
phone = "phone-1"
pin = "8265"
[[step]]
phase = "PAY"
do = "pay"
merchant = "shop-1"
phone = "phone-1"
tid = "$tid2"
amount = 30000
ends = "CANCELED"
[[step]]
phase = "PAY"
do = "pay"
merchant = "shop-1"
phone = "phone-1"
tid = "$tid2"
amount = 60000
expect = "NO_CARD"
[[step]]
phase = "PAY"
do = "restart"
party = "shop-1"
[[step]]
phase = "PAY"
do = "pay"
merchant = "shop-1"
phone = "phone-1"
tid = "$tid2"
amount = 500
ceiling = 800
as = "bread"
[[step]]
phase = "PAY"
do = "void"
merchant = "shop-1"
sale = "$bread"
[[step]]
phase = "PAY"
do = "refund"
merchant = "shop-1"
sale = "$bread"
amount = 1
expect = "WRONG_STATE"
[[step]]
phase = "PAY"
do = "declines"
merchant = "shop-1"
phone = "phone-1"
tid = "$tid2"
reasons = ["CARD_USED_UP", "VERIFICATION_MISSING", "REVERSED_BEFORE"]
"""


BUYER = 'phase = "PAY"\nmerchant = "shop-1"\nphone = "phone-1"\ntid = "t"\n'
PAY = f'name = "x"\n[[step]]\ndo = "pay"\n{BUYER}'
DECLINES = f'name = "x"\n[[step]]\ndo = "declines"\n{BUYER}'


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
        ('name = "x"\n[parties]\nbanks = 5', "banks"),
        ('name = "x"\n[parties]\nghosts = 1', "banks"),
        (f"{PAY}amount = -1", "amount"),
        (f'{PAY}amount = "12"', "amount"),
        (f'{PAY}amount = 12\nends = "HAPPILY"', "ends"),
        (f"{PAY}amount = 12\npin = 8265", "pin"),
        (f"{PAY}amount = 12\ntip = 1", "tip"),
        (f'{DECLINES}reasons = ["BAD_MOOD"]', "reasons"),
        (f'{DECLINES}reasons = "DATA_INVALID"', "reasons"),
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
