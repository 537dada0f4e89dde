"""The phone's trusted launcher (AM of paper §2.3): enrolls, installs, and starts the app only after a good launch.

It belongs to the phone, not to the app: the app is the file it installs, measures and runs.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

from attestation.reference import ReferenceValues, Release, verify_reference_values, verify_release
from parties.wallet.phone import PhoneSession
from protocol.errors import (
    REGISTRY,
    AccountStopped,
    Internal,
    ProtocolError,
    ReleaseInvalid,
    StorageFault,
    Unavailable,
    UnknownAccount,
)
from protocol.messages.se import SeDecision
from protocol.pki import Use
from protocol.roles.wallet import attest, enroll, fetch_reference_values, fetch_release
from protocol.types import Purpose

APP_DEADLINE_S: Final = 120


class Launcher:
    """One phone. `folder` holds `wallet/` and `app/`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def enroll(self, *, bank: str, branch_code: str) -> str:
        """INIT-2 … INIT-4; the user's name at the bank. Raises: ProtocolError."""
        with self._session() as session:
            flow = enroll(session.wallet, bank=bank, branch_code=branch_code)
            return session.run("enroll", flow, bank, branch_code)

    def install(self, *, bank: str, provider: str) -> Release:
        """ATT-D0 … ATT-D7: download, check, approval, installation, report.

        Raises: ReleaseInvalid; the reason of the bank's refusal; any ProtocolError on the way.
        """
        with self._session() as session:
            release, reference = self._download(session, bank, provider)
            software = session.settings.option_text("software")
            self._attest(session, bank, Purpose.INSTALL, software)
            application = session.settings.option_path("application")
            _place(application.with_name(f"{bank}.cose"), reference.wire)
            _place(application, release.package)
            self._attest(session, bank, Purpose.REPORT, software)
        return release

    def launch(self, *, bank: str) -> SeDecision:
        """ATT-L1 … ATT-L6: may the app run, and if not, why. Raises: ProtocolError."""
        with self._session() as session:
            software = session.settings.option_text("software")
            flow = attest(session.wallet, bank=bank, purpose=Purpose.LAUNCH, software=software)
            # A quote made before the launch was cut off says nothing of the phone as it is now.
            return session.run("launch", flow, bank, anew=True)

    def start(self, arguments: list[str], *, bank: str, passcode: str = "") -> dict[str, Any]:
        """Launch, then run the installed file with `arguments`; what it printed.

        Raises: the launch's typed reason; the app's own refusal by its code.
        """
        decision = self.launch(bank=bank)
        if not decision.allowed:
            raise refusal_for(decision.reason, "the app may not run")
        return self.run_app(arguments, passcode=passcode)

    def expect_registered(self, bank: str) -> None:
        """INIT was passed at `bank`. Raises: UnknownAccount, so that no launch is tried there."""
        if bank not in self.run_app(["status"]).get("banks", ()):
            raise UnknownAccount(f"this phone is not registered at {bank}: enroll and install there first")

    def run_app(self, arguments: list[str], *, passcode: str = "") -> dict[str, Any]:
        """Run the installed file. The SE decides by itself what it does for it. Raises: the app's refusal."""
        with self._session() as session:
            application = session.settings.option_path("application")
        command = [sys.executable, "-I", str(application), "--phone", str(self.folder / "wallet"), *arguments]
        try:
            done = subprocess.run(  # noqa: S603  # the file that was measured, with our interpreter
                command, input=f"{passcode}\n".encode(), capture_output=True, timeout=APP_DEADLINE_S, check=False
            )
        except subprocess.TimeoutExpired as exc:
            raise Unavailable(f"the app gave no answer within {APP_DEADLINE_S} s") from exc
        return _answer(done.stdout, done.returncode)

    def _session(self) -> PhoneSession:
        return PhoneSession(self.folder / "wallet")

    def _download(self, session: PhoneSession, bank: str, provider: str) -> tuple[Release, ReferenceValues]:
        """ATT-D1, and ATT-D0: the release is signed by the provider, and its fingerprint is the bank's."""
        wallet, now_s = session.wallet, session.wallet.clock.now_s()
        software = session.settings.option_text("software")
        download = session.run("release", fetch_release(wallet, provider=provider, software=software), provider)
        values = session.run(
            "reference", fetch_reference_values(wallet, provider=provider, software=software, bank=bank),
            provider, bank,
        )  # fmt: skip
        try:
            reference = verify_reference_values(
                values, bank_key=wallet.directory.named(bank, Use.SIGN).key, bank_id=bank, now_s=now_s
            )
        except ProtocolError as exc:
            raise ReleaseInvalid(f"reference values: {exc.code}") from exc
        release = verify_release(
            download.release, download.package, sp_key=wallet.directory.named(provider, Use.SIGN).key, sp_id=provider,
            reference=reference, now_s=now_s,
        )  # fmt: skip
        return release, reference

    def _attest(self, session: PhoneSession, bank: str, purpose: Purpose, software: str) -> None:
        flow = attest(session.wallet, bank=bank, purpose=purpose, software=software)
        decision = session.run(purpose.value, flow, bank, anew=True)
        if not decision.allowed:
            raise refusal_for(decision.reason, f"the bank refused: {purpose}")


def _answer(output: bytes, status: int) -> dict[str, Any]:
    """What the app printed, which is believed to be an answer no more than the app is. Raises: the app's refusal."""
    try:
        answer = json.loads(output)
    except ValueError as exc:
        raise Internal(f"the app ended with status {status} and no answer") from exc
    if not isinstance(answer, dict):
        raise Internal(f"the app ended with status {status} and no answer")
    if "error" in answer:
        raise refusal_for(str(answer["error"]), str(answer.get("detail", "")))
    return answer


def refusal_for(code: str, detail: str) -> ProtocolError:
    """The typed refusal of this code, which came from outside."""
    if code == AccountStopped.code:  # the person can do something about it, but not here
        return AccountStopped(f"{AccountStopped.meaning}: ask your bank, then the TSM, which of them stopped it")
    return REGISTRY[code](detail) if code in REGISTRY else Internal(f"refused for an unknown reason: {detail}")


def _place(path: Path, package: bytes) -> None:
    """Put the package at its fixed place, whole or not at all. Raises: StorageFault."""
    temporary = path.with_suffix(".new")
    try:
        with temporary.open("wb") as file:
            file.write(package)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as exc:
        raise StorageFault(f"the app can't be installed at {path}: {exc.strerror}") from exc
