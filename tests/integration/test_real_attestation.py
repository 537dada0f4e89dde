"""One changed byte on a real phone: the app may not run, no pass is given, nothing is issued until it is healed."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.proxy import FaultProxy

from parties.launcher import Launcher
from protocol.errors import PaymentClosed, PlatformChanged, SoftwareChanged, Unavailable
from protocol.roles.bank.tables import ANONYMOUS_ACCOUNTS
from protocol.roles.se.tables import ACCOUNTS
from protocol.roles.tsm.tables import CARDS, TID_LIST

pytestmark = pytest.mark.real
PHONE = "phone-3"


def flip(path: Path, at: int) -> None:
    """Change one byte; again: as it was."""
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


@pytest.fixture
def account(town):
    """A phone with an active account and a service, whose last launch was good."""
    launcher = town.launched(PHONE)
    aid = town.open_account(PHONE)
    tid = town.register(PHONE, aid)
    return launcher, aid, tid


@pytest.mark.parametrize(
    ("file", "at", "refusal"),
    [
        ("app/tapveil-wallet.pyz", 5000, SoftwareChanged),
        ("platform/os", 3, PlatformChanged),
    ],
)
def test_one_changed_byte_closes_the_phone_until_it_is_healed(town, cli, account, file, at, refusal):
    launcher, aid, tid = account
    changed = town.folder / PHONE / file
    command = ("--phone", town.folder / PHONE, "--json")
    before = {table.name: len(town.rows("tsm-1", table)) for table in (CARDS, TID_LIST)}
    passes = [row.launch_pass for row in town.rows(f"{PHONE}/se", ACCOUNTS) if row.aid == aid]
    flip(changed, at)
    try:
        launch = cli("wallet", "launch", *command)
        assert (launch.status, launch.json["error"]) == (1, refusal.code)
        assert launch.err == f"tapveil: {refusal.code}: the app may not run.\n"
        decision = launcher.launch(bank="bank-a")
        assert (decision.allowed, decision.reason, decision.passes) == (False, refusal.code, 0)
        assert [r.launch_pass for r in town.rows(f"{PHONE}/se", ACCOUNTS) if r.aid == aid] == passes
        with pytest.raises(refusal):
            launcher.start(["issue", "--tsm", "tsm-1", "--tid", tid, "--number", "1"], bank="bank-a")
        _nothing_goes_without_launch(town, launcher, aid, tid, runs="platform" in file)
    finally:
        flip(changed, at)
    assert {table.name: len(town.rows("tsm-1", table)) for table in (CARDS, TID_LIST)} == before
    with pytest.raises(PaymentClosed):  # healed, but not launched yet
        launcher.run_app(["issue", "--tsm", "tsm-1", "--tid", tid, "--number", "1"])
    assert launcher.launch(bank="bank-a").allowed
    issued = launcher.run_app(["issue", "--tsm", "tsm-1", "--tid", tid, "--number", "1"])
    assert issued["state"] == "ACTIVE"


def _nothing_goes_without_launch(town, launcher: Launcher, aid: str, tid: str, *, runs: bool) -> None:
    """The app's own file, run by hand, and its flows run by another program: the SE refuses them all."""
    if runs:
        for arguments in (["issue", "--tsm", "tsm-1", "--tid", tid], ["register", "--tsm", "tsm-1", "--aid", aid]):
            with pytest.raises(PaymentClosed):
                launcher.run_app(arguments)
    accounts = len(town.rows("bank-a", ANONYMOUS_ACCOUNTS))
    with pytest.raises(PaymentClosed):
        town.issue(PHONE, tid)
    with pytest.raises(PaymentClosed):
        town.register(PHONE, aid)
    with pytest.raises(PaymentClosed):
        town.open_account(PHONE)
    assert len(town.rows("bank-a", ANONYMOUS_ACCOUNTS)) == accounts


def test_a_launch_that_was_cut_off_is_judged_anew(town):
    """Else a thief stops a good launch halfway, changes the app, and lets the journal finish the launch."""
    launcher = town.launched(PHONE)
    app = town.folder / PHONE / "app/tapveil-wallet.pyz"
    with FaultProxy(town.address(f"{PHONE}/wallet", "bank-a")) as proxy:
        proxy.cut_when = town.after_next("bank-a", "Bank.VerifyLaunch")
        with town.peer_address(f"{PHONE}/wallet", "bank-a", proxy.address), pytest.raises(Unavailable):
            launcher.launch(bank="bank-a")
        assert proxy.cuts == 1
    flip(app, 5000)
    try:
        decision = launcher.launch(bank="bank-a")
        assert (decision.allowed, decision.reason) == (False, "SOFTWARE_CHANGED")
    finally:
        flip(app, 5000)
    assert launcher.launch(bank="bank-a").allowed


def test_an_installation_that_was_cut_off_is_done_again(town):
    launcher = town.launched("phone-4")
    with FaultProxy(town.address("phone-4/wallet", "bank-a")) as proxy:
        proxy.cut_when = town.after_next("bank-a", "Bank.ReportInstall")
        with town.peer_address("phone-4/wallet", "bank-a", proxy.address), pytest.raises(Unavailable):
            launcher.install(bank="bank-a", provider="sp-1")
        assert proxy.cuts == 1
    assert launcher.install(bank="bank-a", provider="sp-1").software.software_id == "tapveil-wallet"
    assert launcher.launch(bank="bank-a").allowed
