"""`tapveil doctor`: the usual misconfigurations of one party, each named with its mend.

It changes nothing. It starts no server and needs none, but looks at the peers in the settings if they run. Nothing
secret is in a finding: no key, passphrase, name of a person or content of a message.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from parties.doctor.certificates import certificates
from parties.doctor.finding import Finding, Level, fail, ok
from parties.doctor.local import capture, database, open_keystore, rights, role_files
from parties.doctor.peers import peers
from parties.doctor.ports import limits, listening
from parties.settings import Settings, load_settings
from protocol.errors import ProtocolError

__all__ = ["Finding", "Level", "examine"]


def examine(path: Path) -> list[Finding]:
    """All findings about the party of this settings file, in the order in which they are best mended."""
    try:
        settings = load_settings(path)
    except ProtocolError as refusal:
        return [fail("settings", str(refusal), "mend the settings file, or name the right one with --settings")]
    findings = [ok("settings", f"{settings.role} {settings.name}")]
    for name, check in _checks(settings):
        findings += _guarded(name, check)
    return findings


def _checks(settings: Settings) -> Iterator[tuple[str, Callable[[], Iterable[Finding]]]]:
    yield "rights", lambda: rights(settings)
    keystore = open_keystore(settings)
    yield "keystore", lambda: keystore.findings
    yield "certificates", lambda: certificates(settings, keystore.store)
    yield "database", lambda: database(settings)
    yield "files", lambda: role_files(settings, keystore.store)
    yield "capture", lambda: capture(settings)
    yield "port", lambda: listening(settings)
    yield "limits", limits
    yield "peers", lambda: peers(settings, keystore.store)


def _guarded(name: str, check: Callable[[], Iterable[Finding]]) -> list[Finding]:
    """A check that fails itself is a finding too: who is in trouble must not get a traceback on top."""
    findings: list[Finding] = []
    try:
        for finding in check():
            findings.append(finding)  # what was found before the fault counts
    except ProtocolError as refusal:
        findings.append(fail(name, str(refusal), "mend what is named here, then run doctor again"))
    except Exception as fault:  # noqa: BLE001  # doctor must answer whatever is broken
        findings.append(fail(name, f"could not be checked: {type(fault).__name__}", "report this as a bug"))
    return findings
