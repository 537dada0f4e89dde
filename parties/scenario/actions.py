"""What each action of a scenario does to a running deployment. A fault is a real one: a byte, a key, a process."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from parties.assembly.common import Opened
from parties.branch import add_customer
from parties.keystore import Keystore
from parties.scenario.lifecycle import LIFECYCLE
from parties.scenario.paying import PAYING
from parties.scenario.stage import Fields, Stage
from parties.settings import load_settings
from parties.system import SystemEntropy
from protocol.crypto import PrivateKey
from protocol.errors import SettingsInvalid
from protocol.roles.se.tables import ACCOUNTS, Account
from protocol.rows import Decision, Rows, Unit, Update, Where

APP_DOCSTRING: Final = b"The released app's own commands"
PASSCODE: Final = "lantern-4402"


def _add_customer(stage: Stage, step: Fields) -> dict[str, Any]:
    opened = add_customer(
        stage.deployment.settings(step["bank"]), name=step.get("person", "A. Person"),
        limit_minor=step.get("limit", 2_000_000), currency=step.get("currency", "TWD"), passcode=PASSCODE,
    )  # fmt: skip
    stage.branch_codes[step["bank"], step["phone"]] = opened.branch_code
    stage.customers[step["bank"], step["phone"]] = opened.customer
    return {"customer": opened.customer}


def _enroll(stage: Stage, step: Fields) -> dict[str, Any]:
    code = stage.branch_codes.get((step["bank"], step["phone"]))
    if code is None:
        raise SettingsInvalid("enroll needs an add-customer step of this bank and phone before it")
    return {"user": stage.phone(step["phone"]).enroll(bank=step["bank"], branch_code=code)}


def _install(stage: Stage, step: Fields) -> dict[str, Any]:
    release = stage.phone(step["phone"]).install(bank=step["bank"], provider=stage.provider)
    return {"software": release.software.software_id, "sha256": release.software.digest.hex()}


def _launch(stage: Stage, step: Fields) -> dict[str, Any]:
    from protocol.errors import REGISTRY

    decision = stage.phone(step["phone"]).launch(bank=step["bank"])
    if not decision.allowed:
        raise REGISTRY[decision.reason]("the app may not run")
    return {"passes": decision.passes}


def _app(stage: Stage, step: Fields, arguments: list[str], passcode: str = "") -> dict[str, Any]:
    """A command of the installed app; `launch = false` runs the file without asking the bank first."""
    phone = stage.phone(step["phone"])
    if step.get("launch", True):
        return phone.start(arguments, bank=step["bank"], passcode=passcode)
    return phone.run_app(arguments, passcode=passcode)


def _open_account(stage: Stage, step: Fields) -> dict[str, Any]:
    arguments = ["open-account", "--bank", step["bank"], "--tsm", stage.tsm]
    return _app(stage, step, arguments, step.get("passcode", PASSCODE))


def _register(stage: Stage, step: Fields) -> dict[str, Any]:
    maximum = str(step.get("maximum", 0))
    return _app(stage, step, ["register", "--tsm", stage.tsm, "--aid", step["aid"], "--maximum", maximum])


def _issue(stage: Stage, step: Fields) -> dict[str, Any]:
    number = str(step.get("number", 1))
    return _app(stage, step, ["issue", "--tsm", stage.tsm, "--tid", step["tid"], "--number", number])


def _close(stage: Stage, step: Fields) -> dict[str, Any]:
    return _app(stage, step, ["close", "--tsm", stage.tsm, "--tid", step["tid"]])


def _recredit(stage: Stage, step: Fields) -> dict[str, Any]:
    arguments = ["recredit", "--tsm", stage.tsm, "--tid", step["tid"], "--bank", step["bank"]]
    return _app(stage, step, arguments, step.get("passcode", PASSCODE))


def _status(stage: Stage, step: Fields) -> dict[str, Any]:
    return _app(stage, step, ["status"])


def _kill(stage: Stage, step: Fields) -> dict[str, Any]:
    stage.deployment.kill(step["party"])
    return {}


def _start(stage: Stage, step: Fields) -> dict[str, Any]:
    stage.deployment.start(step["party"])
    return {}


def _restart(stage: Stage, step: Fields) -> dict[str, Any]:
    stage.deployment.stop(step["party"])
    stage.deployment.start(step["party"])
    return {}


def _flip(path: Path, place: int) -> dict[str, Any]:
    data = bytearray(path.read_bytes())
    data[place] ^= 0x20  # the other case of a letter
    path.write_bytes(data)
    return {"byte": place}


def _tamper_app(stage: Stage, step: Fields) -> dict[str, Any]:
    """One letter of a docstring: the app still runs, and only measuring it shows the change."""
    path = stage.application(step["phone"])
    return _flip(path, path.read_bytes().index(APP_DOCSTRING))


def _tamper_platform(stage: Stage, step: Fields) -> dict[str, Any]:
    return _flip(stage.deployment.folder / step["phone"] / "platform" / "os", 0)


def _wrong_attestation_key(stage: Stage, step: Fields) -> dict[str, Any]:
    """The phone quotes with a key that its certificate does not certify."""
    party = f"{step['phone']}/se"
    stage.deployment.stop(party)
    settings = load_settings(stage.deployment.settings(party))
    keystore = Keystore.open(settings.keystore, settings.passphrase())
    keystore.put({"attestation": PrivateKey.generate(SystemEntropy()).to_bytes()})
    stage.deployment.start(party)
    return {}


def _change_account(stage: Stage, phone: str, aid: str, change: Callable[[Account], Account]) -> None:
    """Alter what the SE keeps of an account, as an attacker with the SE's storage key could, beside its server."""
    store = Opened.of(load_settings(stage.deployment.settings(f"{phone}/se"))).store()

    def decide(rows: Rows) -> Decision:
        (account,) = rows.find(ACCOUNTS, "aid", aid)
        return Decision(writes=(Update(ACCOUNTS, change(account)),))

    try:
        store.apply(Unit((Where(ACCOUNTS, "aid", aid),), decide))
    finally:
        store.close()


def _forge_bank_key(stage: Stage, step: Fields) -> dict[str, Any]:
    """BINFO will be sealed under a key that is not K_AID,B: nobody at the bank made it."""
    kept: list[bytes] = []

    def forge(row: Account) -> Account:
        kept.append(row.k_aid)
        return replace(row, k_aid=secrets.token_bytes(32))

    _change_account(stage, step["phone"], step["aid"], forge)
    stage.undo.append(
        lambda: _change_account(stage, step["phone"], step["aid"], lambda row: replace(row, k_aid=kept[0]))
    )
    return {}


def _foreign_pass(stage: Stage, step: Fields) -> dict[str, Any]:
    """The pass will be the one of another AID of the same phone: good in itself, but not for this account."""
    party = f"{step['phone']}/se"
    store = Opened.of(load_settings(stage.deployment.settings(party))).store()
    foreign = next(row.launch_pass for row in store.scan(ACCOUNTS) if row.aid not in ("", step["aid"]))
    store.close()
    _change_account(stage, step["phone"], step["aid"], lambda row: replace(row, launch_pass=foreign))
    return {}


def _restore_app(stage: Stage, step: Fields) -> dict[str, Any]:
    package = stage.deployment.folder / stage.provider / "package.pyz"
    stage.application(step["phone"]).write_bytes(package.read_bytes())
    return {}


RUN: Final[Mapping[str, Callable[[Stage, Fields], dict[str, Any]]]] = {
    **PAYING,
    **LIFECYCLE,
    "add-customer": _add_customer,
    "enroll": _enroll,
    "install": _install,
    "launch": _launch,
    "open-account": _open_account,
    "register": _register,
    "issue": _issue,
    "close": _close,
    "recredit": _recredit,
    "status": _status,
    "kill": _kill,
    "start": _start,
    "restart": _restart,
    "tamper-app": _tamper_app,
    "restore-app": _restore_app,
    "tamper-platform": _tamper_platform,
    "wrong-attestation-key": _wrong_attestation_key,
    "forge-bank-key": _forge_bank_key,
    "foreign-pass": _foreign_pass,
}
