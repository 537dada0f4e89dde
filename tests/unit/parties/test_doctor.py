"""Doctor on one machine: each usual mistake is one finding with its mend, and nothing secret is in any."""

from __future__ import annotations

import json
import shutil
import socket
import sqlite3
import subprocess
import sys
import threading
import tomllib
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from click.testing import CliRunner
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from attestation.measurement import MeasurementList
from attestation.reference import Software, sign_reference_values
from parties.assembly.common import Opened
from parties.cli import main
from parties.doctor import Finding, Level, examine
from parties.doctor.local import room
from parties.keystore import Keystore
from parties.metrics import Metrics, MetricsServer
from parties.settings import load_settings
from parties.wallet.journal import Journal
from protocol.crypto import PrivateKey
from protocol.envelope import Wire
from protocol.pki import Issuer, Use, issue
from protocol.types import Role

PARTIES = ("bank-a", "tsm-1", "sp-1", "shop-1", "phone-1/se", "phone-1/wallet")


def change(settings: Path, **changes: Any) -> None:
    plain = tomllib.loads(settings.read_text())
    for name, value in changes.items():
        table, key = (plain["options"], name.removeprefix("option_")) if name.startswith("option_") else (plain, name)
        if value is None:
            del table[key]
        else:
            table[key] = value
    settings.write_text(tomli_w.dumps(plain))


def found(env: Path, party: str, level: Level = Level.FAIL) -> dict[str, Finding]:
    """The findings of this level, but for peers, since nothing runs here."""
    findings = examine(env / party / "settings.toml")
    return {f.check: f for f in findings if f.level is level and not f.check.startswith("peer")}


@pytest.mark.parametrize("party", PARTIES)
def test_a_fresh_environment_has_no_failure(env, party):
    assert found(env, party) == {}
    assert set(found(env, party, Level.WARN)) == ({"app"} if "wallet" in party else set())


def recertify(env: Path, use: Use = Use.TLS, *, alter: Any = None, **changes: Any) -> None:
    """A certificate of bank-a by the CA, with something else in it."""
    ca = Keystore.open(env / "ca/keys.sealed", (env / "ca/passphrase").read_bytes().strip())
    root = x509.load_pem_x509_certificate((env / "pki/ca.pem").read_bytes()).public_bytes(Encoding.DER)
    opened = Opened.of(load_settings(env / "bank-a/settings.toml"))
    key = PrivateKey.from_bytes(opened.keystore.entry(use.value))
    now_s = opened.clock.now_s()
    given = {
        "role": Role.BANK, "name": "bank-a", "use": use, "from_s": now_s - 60, "until_s": now_s + 9_000_000,
        "entropy": opened.entropy,
    }  # fmt: skip
    der = issue(Issuer(key=PrivateKey.from_bytes(ca.entry("ca")), certificate=root), key.public, **(given | changes))
    pem = x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM)
    (env / f"pki/bank.bank-a.{use}.pem").write_bytes(pem)


def references(env: Path, *, days: int) -> None:
    """Reference values of bank-a that were signed long ago for so many days."""
    opened = Opened.of(load_settings(env / "bank-a/settings.toml"))
    now_s = opened.clock.now_s()
    signed = sign_reference_values(
        Software.of(b"x", software_id="tapveil-wallet", version="1.0.0"),
        MeasurementList.from_bytes((env / "bank-a/platform.list").read_bytes()),
        bank_key=PrivateKey.from_bytes(opened.keystore.entry("sign")), bank_id="bank-a",
        valid_from_s=now_s - 8_640_000, valid_until_s=now_s + days * 86_400, entropy=opened.entropy,
    )  # fmt: skip
    (env / "bank-a/references/tapveil-wallet.cose").write_bytes(signed)


def newer(env: Path) -> None:
    with sqlite3.connect(env / "bank-a/data.db") as database:
        database.execute("UPDATE alembic_version SET version_num = 'bank_9999'")
    database.close()


def empty(env: Path) -> None:
    (env / "bank-a/data.db").write_bytes(b"")


def read_only(env: Path) -> None:
    url = f"sqlite:///file:{env.resolve()}/bank-a/data.db?mode=ro&uri=true"
    change(env / "bank-a/settings.toml", database=url)


def password(env: Path) -> None:
    """A database's password in settings that others may read."""
    change(env / "bank-a/settings.toml", database="postgresql+psycopg://bank_a:xyz@127.0.0.1:1/bank_a")
    (env / "bank-a/settings.toml").chmod(0o644)


def now_s() -> int:
    from parties.system import SystemClock

    return SystemClock().now_s()


CASES = {
    "TOML": ("bank-a", lambda e: (e / "bank-a/settings.toml").write_text("role ="), "settings", "is not TOML"),
    "no file": ("bank-a", lambda e: (e / "bank-a/settings.toml").unlink(), "settings", "can't be read"),
    "spelling": ("bank-a", lambda e: change(e / "bank-a/settings.toml", lisen="x"), "settings", "unknown setting"),
    "passphrase": ("bank-a", lambda e: (e / "bank-a/passphrase").write_text("no"), "keystore", "wrong passphrase"),
    "no passphrase": ("bank-a", lambda e: (e / "bank-a/passphrase").unlink(), "keystore", "can't be read"),
    "empty passphrase": ("bank-a", lambda e: (e / "bank-a/passphrase").write_text(""), "keystore", "passphrase"),
    "no keystore": ("bank-a", lambda e: (e / "bank-a/keys.sealed").unlink(), "keystore", "can't be read"),
    "damage": ("bank-a", lambda e: (e / "bank-a/keys.sealed").write_bytes(b"x" * 99), "keystore", "damaged"),
    "another's keystore": (
        "bank-a", lambda e: [shutil.copy(e / f"bank-b/{f}", e / f"bank-a/{f}") for f in ("keys.sealed", "passphrase")],
        "certificate sign", "is of another key than the keystore's",
    ),
    "no CA": ("bank-a", lambda e: (e / "pki/ca.pem").unlink(), "certificate ca.pem", "can't be read"),
    "CA is no certificate": ("bank-a", lambda e: (e / "pki/ca.pem").write_text("x"), "certificate ca.pem", "PEM"),
    "wrong CA": (
        "bank-a", lambda e: shutil.copy(e / "pki/manufacturer.pem", e / "pki/ca.pem"), "certificate tls",
        "was not issued by the CA",
    ),
    "missing": ("bank-a", lambda e: (e / "pki/bank.bank-a.seal.pem").unlink(), "certificate seal", "can't be read"),
    "expired": (
        "bank-a", lambda e: recertify(e, from_s=now_s() - 9000, until_s=now_s() - 60), "certificate tls", "expired on"
    ),
    "too early": ("bank-a", lambda e: recertify(e, from_s=now_s() + 900), "certificate tls", "is not valid before"),
    "another name": (
        "bank-a", lambda e: recertify(e, name="bank-c"), "certificate tls", "is for bank bank-c, and this party is bank"
    ),
    "another role": ("bank-a", lambda e: recertify(e, role=Role.SP), "certificate tls", "is for sp bank-a"),
    "another use": (
        "bank-a", lambda e: shutil.copy(e / "pki/bank.bank-a.tls.pem", e / "pki/bank.bank-a.seal.pem"),
        "certificate seal", "is of another key",
    ),
    "no host": (
        "bank-a", lambda e: recertify(e, Use.SIGN) or _tls_without_host(e), "certificate tls",
        "does not name the host bank-a",
    ),
    "no database": ("bank-a", lambda e: (e / "bank-a/data.db").unlink(), "database", "there is no database"),
    "none set": ("bank-a", lambda e: change(e / "bank-a/settings.toml", database=None), "database", "name none"),
    "newer": ("bank-a", newer, "database", "unknown here"),
    "unmigrated": ("bank-a", empty, "database", "is of version none"),
    "read-only": ("bank-a", read_only, "database", "read-only"),
    "damaged database": (
        "bank-a", lambda e: (e / "bank-a/data.db").write_bytes(b"x" * 5000), "database", "not a database"
    ),
    "no platform": ("bank-a", lambda e: (e / "bank-a/platform.list").unlink(), "platform list", "can't be read"),
    "bad platform": (
        "bank-a", lambda e: (e / "bank-a/platform.list").write_text("x"), "platform list", "not a measurement list"
    ),
    "references expired": (
        "bank-a", lambda e: references(e, days=-1), "reference values tapveil-wallet.cose", "have expired"
    ),
    "references of another bank": (
        "bank-a",
        lambda e: shutil.copy(e / "bank-b/references/tapveil-wallet.cose", e / "bank-a/references/tapveil-wallet.cose"),
        "reference values tapveil-wallet.cose", "are not good",
    ),
    "option missing": (
        "bank-a", lambda e: change(e / "bank-a/settings.toml", option_references=None), "files", "references must be"
    ),
    "no EMV": ("tsm-1", lambda e: (e / "tsm-1/emv.cbor").unlink(), "files", "emv.cbor can't be read"),
    "no release": ("sp-1", lambda e: (e / "sp-1/release.cose").unlink(), "release", "release.cose can't be read"),
    "changed package": (
        "sp-1", lambda e: (e / "sp-1/package.pyz").write_bytes(b"x"), "release", "fingerprint of the package"
    ),
    "no references": (
        "sp-1", lambda e: shutil.rmtree(e / "sp-1/references"), "reference values", "no phone can install"
    ),
    "no attestation certificate": (
        "phone-1/se", lambda e: (e / "phone-1/se/attestation.der").unlink(), "attestation key", "can't be read"
    ),
    "bad attestation certificate": (
        "phone-1/se", lambda e: (e / "phone-1/se/attestation.der").write_bytes(b"x"), "attestation key", "certificate"
    ),
    "no image": ("phone-1/se", lambda e: (e / "phone-1/platform/os").unlink(), "platform", "platform/os"),
    "no wallet key": ("phone-1/se", lambda e: (e / "pki/phone.phone-1.sign.pem").unlink(), "wallet key", "phone-1"),
    "merchant without TSM": (
        "shop-1", lambda e: change(e / "shop-1/settings.toml", peers={}), "settings", "no address of tsm-1"
    ),
    "nowhere to listen": (
        "bank-a", lambda e: change(e / "bank-a/settings.toml", mutual_listen=None), "port", "is set"
    ),
    "unknown host": (
        "bank-a", lambda e: change(e / "bank-a/settings.toml", mutual_listen="no-such.invalid:7000"),
        "port mutual_listen", "is not known",
    ),
    "passphrase for all": ("bank-a", lambda e: (e / "bank-a/passphrase").chmod(0o644), "rights", "passphrase"),
    "folder for all": ("bank-a", lambda e: (e / "bank-a").chmod(0o777), "rights", "may change the folder"),
    "password for all": ("bank-a", password, "rights", "settings.toml may be used by others"),
    "metrics for all": (
        "bank-a", lambda e: change(e / "bank-a/settings.toml", metrics_listen="0.0.0.0:9401"), "settings",
        "is not on this machine",
    ),
    "PKI for all": ("bank-a", lambda e: (e / "pki").chmod(0o775), "rights", "may change the folder"),
}  # fmt: skip


def _tls_without_host(env: Path) -> None:
    """The signing certificate's form for the TLS key: it names the host, so it is built by hand without."""
    from cryptography.hazmat.primitives import hashes

    ca = Keystore.open(env / "ca/keys.sealed", (env / "ca/passphrase").read_bytes().strip())
    path = env / "pki/bank.bank-a.tls.pem"
    old = x509.load_pem_x509_certificate(path.read_bytes())
    builder = x509.CertificateBuilder(
        old.issuer, old.subject, old.public_key(), old.serial_number, old.not_valid_before_utc, old.not_valid_after_utc
    )
    for extension in old.extensions:
        if not isinstance(extension.value, x509.SubjectAlternativeName):
            builder = builder.add_extension(extension.value, extension.critical)
    signed = builder.sign(PrivateKey.from_bytes(ca.entry("ca")).native(), hashes.SHA256())
    path.write_bytes(signed.public_bytes(Encoding.PEM))


@pytest.mark.parametrize("case", CASES)
def test_each_mistake_is_found_with_its_mend(env, case):
    party, harm, check, text = CASES[case]
    secrets = [path.read_text().strip() for path in env.rglob("passphrase")]
    keystore = Opened.of(load_settings(env / "bank-a/settings.toml")).keystore
    secrets += [keystore.entry(name).hex() for name in keystore.names()]
    harm(env)
    findings = found(env, party)
    assert check in findings, findings
    finding = findings[check]
    assert text in finding.what
    assert finding.mend
    assert "\n" not in finding.what + finding.mend
    command = ["doctor", "--settings", str(env / party / "settings.toml")]
    for ran in (CliRunner().invoke(main, command), CliRunner().invoke(main, [*command, "--json"])):
        assert (ran.exit_code, ran.stderr) == (1, "")
        assert not [secret for secret in (*secrets, "PRIVATE", "Traceback") if secret in ran.output]
    assert json.loads(ran.stdout)["ok"] is False


@pytest.mark.parametrize(
    ("harm", "party", "check"),
    [
        (lambda e: (e / "bank-a/keys.sealed").chmod(0o640), "bank-a", "rights"),
        (lambda e: change(e / "bank-a/settings.toml", capture="capture.log"), "bank-a", "capture"),
        (lambda e: references(e, days=3), "bank-a", "reference values tapveil-wallet.cose"),
        (lambda e: shutil.rmtree(e / "bank-a/references"), "bank-a", "reference values"),
        (lambda e: recertify(e, until_s=now_s() + 86_400), "bank-a", "certificate tls"),
    ],
)
def test_what_should_not_stay_so_is_a_warning(env, harm, party, check):
    harm(env)
    assert found(env, party) == {}
    assert check in found(env, party, Level.WARN)


def _hang_up(server: socket.socket) -> None:
    server.accept()[0].close()


def test_another_program_on_the_port_is_found(env):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        threading.Thread(target=_hang_up, args=(taken,)).start()
        change(env / "bank-a/settings.toml", mutual_listen=f"127.0.0.1:{taken.getsockname()[1]}")
        assert "another program listens" in found(env, "bank-a")["port mutual_listen"].what


def test_metrics_on_our_port_are_told_from_another_program(env):
    metrics = Metrics(())
    metrics.gauge("tapveil_serving", "1 if all is well", lambda: 1)
    with closing(MetricsServer("127.0.0.1:0", metrics)) as server:
        change(env / "bank-a/settings.toml", metrics_listen=f"127.0.0.1:{server.port}")
        assert "metrics are told" in found(env, "bank-a", Level.OK)["port metrics_listen"].what
    with socket.create_server(("127.0.0.1", 0)) as taken:
        threading.Thread(target=_hang_up, args=(taken,)).start()
        change(env / "bank-a/settings.toml", metrics_listen=f"127.0.0.1:{taken.getsockname()[1]}")
        assert "another program listens" in found(env, "bank-a")["port metrics_listen"].what
    change(env / "bank-a/settings.toml", metrics_listen="0.0.0.0:0", option_metrics_anywhere=True)
    assert "whoever reaches" in found(env, "bank-a", Level.WARN)["metrics"].what


FEW_FILES = """
import resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (400, 400))
from pathlib import Path
from parties.doctor import examine
print([f.what for f in examine(Path(sys.argv[1])) if f.check == "limits"])
"""


def test_a_bound_on_open_files_that_is_too_low_is_found(env):
    command = [sys.executable, "-c", FEW_FILES, env / "bank-a/settings.toml"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "each port takes 100 connections at most" in done.stdout


def test_little_room_on_the_disk_is_found(tmp_path):
    assert list(room(tmp_path, little_bytes=0)) == []
    (finding,) = room(tmp_path, little_bytes=2**62)
    assert (finding.check, finding.level) == ("disk", Level.WARN)
    assert "make room" in finding.mend


def test_commands_that_were_cut_off_are_named(env):
    opened = Opened.of(load_settings(env / "phone-1/wallet/settings.toml"))
    journal = Journal(env / "phone-1/wallet/journal.db", opened.keystore.blind("journal", b""))
    journal.put_request("open-account/1234", 0, Wire(cose=b"x"))
    journal.close()
    warned = found(env, "phone-1/wallet", Level.WARN)
    assert warned["journal"].what == "cut off: open-account"


def test_a_bug_in_a_check_is_a_finding_too(env):
    change(env / "phone-1/se/settings.toml", option_platform=["a"])
    ran = CliRunner().invoke(main, ["doctor", "--settings", str(env / "phone-1/se/settings.toml")])
    assert ran.exit_code == 1
    assert "FAIL" in ran.stdout
    assert ran.stderr == ""
