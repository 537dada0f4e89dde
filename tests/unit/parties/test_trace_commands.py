"""`tapveil bank trace`, officers and `tapveil audit` over a bank's real keystore and database."""

from __future__ import annotations

import json
import sqlite3
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from support.tracing import CASE, SHOP, Dispute
from support.world import World

from parties.assembly.common import Opened
from parties.assembly.roles import build_bank
from parties.auditing import verify_file
from parties.branch import add_customer
from parties.cli import main
from parties.directory import read_certificate, write_certificate
from parties.keystore import GENERATED, Keystore
from parties.settings import load_settings
from parties.storage.store import open_store
from parties.system import SystemClock, SystemEntropy
from parties.trace import add_officer
from protocol.codec import decode, encode
from protocol.crypto import PrivateKey
from protocol.engine import EVIDENCE
from protocol.errors import LogBroken
from protocol.pki import Issuer, Use, issue
from protocol.roles.bank.officers import appoint, remove
from protocol.roles.bank.tables import OFFICERS, TRACE_CASES, TRACE_SIGNATURES
from protocol.rows import Decision, Insert, Unit
from protocol.types import Role

NAME = "Lin Wei"
OTHER_CASE = "ff" * 16


def tapveil(*arguments: object, code: int = 0) -> Any:
    """One command; its JSON."""
    ran = CliRunner().invoke(main, [*(str(argument) for argument in arguments), "--json"])
    assert ran.exit_code == code, (ran.output, ran.exception)
    return json.loads(ran.stdout) if ran.stdout.startswith("{") else ran.output


def refused(*arguments: object) -> str:
    """The code of its refusal."""
    code: str = tapveil(*arguments, code=1)["error"]
    return code


class Bank:
    """The bank's folder, its officers' folders, and the commands of both."""

    def __init__(self, env: Path) -> None:
        self.env = env
        self.settings = env / "bank-a/settings.toml"

    def command(self, *arguments: object, code: int = 0) -> Any:
        return tapveil(*arguments, "--settings", self.settings, code=code)

    def appoint(self, name: str) -> Path:
        folder, word = self.env / name, self.env / f"{name}.passphrase"
        word.write_text(f"the passphrase of {name}\n")
        add_officer(self.settings, name, folder, word.read_bytes().strip(), cost=GENERATED)
        return folder

    def sign(self, verb: str, name: str, case: str = CASE.hex(), code: int = 0, word: str = "") -> Any:
        passphrase = self.env / f"{word or name}.passphrase"
        return self.command(
            "bank", "trace", verb, case, "--officer", self.env / name, "--passphrase-file", passphrase, code=code
        )

    def log(self, make: Any, **about: Any) -> None:
        """A unit of the bank's that is logged."""
        opened = Opened.of(load_settings(self.settings))
        store = open_store(opened.settings.database, "bank", opened.keystore.data_key())
        store.apply(make(build_bank(opened), now_s=opened.clock.now_s(), entropy=opened.entropy, **about))
        store.close()

    def store(self) -> Any:
        opened = Opened.of(load_settings(self.settings))
        return open_store(opened.settings.database, "bank", opened.keystore.data_key())


@pytest.fixture(scope="module")
def proved(tmp_path_factory: pytest.TempPathFactory) -> Dispute:
    """A case in a world of its own, to be put into the bank's tables."""
    dispute = Dispute.arise(World(tmp_path_factory.mktemp("world"), seed="commands"))
    dispute.ask(dispute.chain(dispute.buy()))
    return dispute


@pytest.fixture
def bank(env: Path, proved: Dispute) -> Bank:
    bank = Bank(env)
    customer = add_customer(bank.settings, name=NAME, limit_minor=1, currency="TWD", passcode="wq-7351").customer
    (evidence,) = [row for row in proved.bank.store.scan(EVIDENCE) if row.message == "trace-request"]
    writes = (Insert(TRACE_CASES, replace(proved.case(), customer=customer)), Insert(EVIDENCE, evidence))
    store = bank.store()
    store.apply(Unit((), lambda rows: Decision(writes=writes)))
    store.close()
    return bank


def test_two_officers_and_the_requester(bank: Bank, tmp_path: Path) -> None:
    for name in ("officer-1", "officer-2"):
        folder = bank.appoint(name)
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert stat.S_IMODE((folder / "keys.sealed").stat().st_mode) == 0o600
    (listed,) = bank.command("bank", "trace", "list")["cases"]
    assert (listed["case"], listed["state"], listed["reason"]) == (CASE.hex(), "EXPECT_OFFICERS", "dispute")
    shown = bank.command("bank", "trace", "show", CASE.hex())
    assert (shown["merchant"], shown["amount_minor"], shown["currency"], shown["date"]) == (
        SHOP, 9_000, "TWD", "2027-01-15"
    )  # fmt: skip
    assert NAME not in json.dumps(shown)
    assert shown["verdicts"] == {}
    answer = tmp_path / "answer"
    assert refused("bank", "trace", "answer", CASE.hex(), "--out", answer, "--settings", bank.settings) == (
        "OFFICERS_INSUFFICIENT"
    )
    assert bank.sign("approve", "officer-1")["state"] == "EXPECT_OFFICERS"
    assert bank.sign("approve", "officer-1", code=1)["error"] == "OFFICERS_INSUFFICIENT"
    assert bank.sign("approve", "officer-2")["state"] == "ANSWERED"
    bank.command("bank", "trace", "answer", CASE.hex(), "--out", answer)
    told = tapveil("audit", "open-answer", "--settings", bank.env / "shop-1/settings.toml", answer)
    assert (told["person"], told["bank"], told["case"]) == (NAME, "bank-a", CASE.hex())
    tsm = bank.env / "tsm-1/settings.toml"
    assert refused("tsm", "open-trace", "--settings", tsm, answer) == "DECRYPTION_FAILED"
    verdicts = bank.command("bank", "trace", "show", CASE.hex())["verdicts"]
    assert verdicts == {"officer-1": "approve", "officer-2": "approve"}


def test_a_refusal_and_what_is_wrong_around_officers(bank: Bank) -> None:
    bank.appoint("officer-1")
    folder = bank.env / "officer-1"
    assert bank.command("bank", "add-officer", "officer-1", "--out", bank.env / "again", "--passphrase-file",
                        bank.env / "officer-1.passphrase", code=1)["error"] == "IDENTIFIER_TAKEN"  # fmt: skip
    for name, out in (("officer-2", folder), ("Officer 2", bank.env / "new"), ("x" * 65, bank.env / "new")):
        ran = bank.command("bank", "add-officer", name, "--out", out, "--passphrase-file",
                           bank.env / "officer-1.passphrase", code=1)  # fmt: skip
        assert ran["error"] == "SETTINGS_INVALID"
    (bank.env / "wrong.passphrase").write_text("guess")
    assert bank.sign("refuse", "officer-1", code=1, word="wrong")["error"] == "KEYSTORE_LOCKED"
    assert bank.sign("refuse", "officer-1", code=1, word="missing")["error"] == "SETTINGS_INVALID"
    assert bank.sign("refuse", "officer-1", OTHER_CASE, code=1)["error"] == "WRONG_STATE"
    assert "32 hexadecimal digits" in bank.sign("refuse", "officer-1", "zz" * 16, code=2)
    assert "32 hexadecimal digits" in bank.sign("refuse", "officer-1", "ff", code=2)
    certificate = (folder / "officer.pem").read_bytes()
    for other in ("bank.bank-b.sign.pem", "se.phone-1.sign.pem"):
        (folder / "officer.pem").write_bytes((bank.env / "pki" / other).read_bytes())
        assert bank.sign("refuse", "officer-1", code=1)["error"] == "CERTIFICATE_INVALID"
    (folder / "officer.pem").write_bytes(certificate)
    assert bank.sign("refuse", "officer-1")["state"] == "REFUSED"
    bank.command("bank", "remove-officer", "officer-1")
    assert bank.command("bank", "remove-officer", "officer-1", code=1)["error"] == "WRONG_STATE"
    store = bank.store()
    assert [(row.officer, row.state) for row in store.scan(OFFICERS)] == [("officer-1", "REMOVED")]
    assert [row.verdict for row in store.scan(TRACE_SIGNATURES)] == ["refuse"]
    store.close()


def test_the_certificate_of_another_officer(bank: Bank) -> None:
    one, two = bank.appoint("officer-1"), bank.appoint("officer-2")
    (one / "officer.pem").write_bytes((two / "officer.pem").read_bytes())
    assert bank.sign("approve", "officer-1", code=1)["error"] == "CERTIFICATE_INVALID"


def test_cases_are_listed_one_a_line_for_people(bank: Bank) -> None:
    ran = CliRunner().invoke(main, ["bank", "trace", "list", "--settings", str(bank.settings)])
    assert ran.output == f"{CASE.hex()} EXPECT_OFFICERS dispute tsm-1 shop-1\n"


def test_a_passphrase_is_asked_for_twice_when_it_is_made(bank: Bank) -> None:
    arguments = ["bank", "add-officer", "officer-1", "--out", str(bank.env / "o"), "--settings", str(bank.settings)]
    ran = CliRunner().invoke(main, arguments, input="a word\na word\n")
    assert ran.exit_code == 0
    (bank.env / "o.passphrase").write_text("a word")
    assert bank.sign("refuse", "o")["state"] == "REFUSED"


# --- the log ---------------------------------------------------------------------------------------------------------
@pytest.fixture
def logged(env: Path) -> Bank:
    """Two officers were appointed, and one removed."""
    bank = Bank(env)
    bank.log(appoint, officer="officer-1", key=PrivateKey.from_bytes(b"\x01" * 32).public)
    bank.log(appoint, officer="officer-2", key=PrivateKey.from_bytes(b"\x02" * 32).public)
    bank.log(remove, officer="officer-1")
    return bank


def written_to(bank: Bank, *changes: str) -> None:
    """By somebody who has the file: no trigger holds them."""
    with sqlite3.connect(bank.env / "bank-a/data.db") as database:
        for (trigger,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
            database.execute(f"DROP TRIGGER {trigger}")
        for change in changes:
            database.execute(change)
    database.close()


def test_the_log_is_verified_in_place_and_from_a_file(logged: Bank, tmp_path: Path) -> None:
    verified = logged.command("audit", "verify")
    assert (verified["entries"], verified["appointment"], verified["removal"]) == (3, 2, 1)
    head = verified["head"]
    assert logged.command("audit", "verify", "--head", head)["head"] == head
    path, pki = tmp_path / "log", logged.env / "pki"
    assert logged.command("audit", "export", "--out", path)["head"] == head
    for ca in (pki, pki / "ca.pem"):
        read = tapveil("audit", "verify", "--file", path, "--ca", ca, "--head", head)
        assert (read["bank"], read["head"], read["entries"]) == ("bank-a", head, 3)
    assert NAME.encode() not in path.read_bytes()
    logged.log(remove, officer="officer-2")
    later = logged.command("audit", "verify", "--head", head)
    assert later["entries"] == 4
    assert refused("audit", "verify", "--file", path, "--ca", pki, "--head", later["head"]) == "LOG_BROKEN"
    for arguments in (
        [], ["--file", path], ["--file", path, "--ca", pki, "--settings", logged.settings],
        ["--settings", logged.settings, "--ca", pki],
    ):  # fmt: skip
        assert "give --settings" in tapveil("audit", "verify", *arguments, code=2)


def test_an_empty_log(env: Path, tmp_path: Path) -> None:
    settings, path = env / "bank-a/settings.toml", tmp_path / "log"
    exported = tapveil("audit", "export", "--settings", settings, "--out", path)
    assert (exported["entries"], exported["head"]) == (0, "")
    assert tapveil("audit", "verify", "--file", path, "--ca", env / "pki")["entries"] == 0


CHANGES = (
    "UPDATE audit_log SET signed = x'00' WHERE number = 1",
    "UPDATE audit_log SET digest = x'00' WHERE number = 1",
    "DELETE FROM audit_log WHERE number = 2",
    "DELETE FROM audit_log WHERE number = 0",
    "DELETE FROM audit_log",
    "DELETE FROM audit_heads",
    "UPDATE audit_log SET signed = (SELECT signed FROM audit_log WHERE number = 0) WHERE number = 1",
    "UPDATE audit_log SET number = 7 WHERE number = 2",
)


def test_a_database_in_which_somebody_wrote(logged: Bank) -> None:
    database, out = logged.env / "bank-a/data.db", logged.env / "log"
    whole = database.read_bytes()
    for change in CHANGES:
        database.write_bytes(whole)
        logged.command("audit", "verify")
        written_to(logged, change)
        assert refused("audit", "verify", "--settings", logged.settings) == "LOG_BROKEN", change
        assert refused("audit", "export", "--settings", logged.settings, "--out", out) == "LOG_BROKEN"
        assert not out.exists()


def test_a_log_cut_with_its_head_is_noticed_by_who_remembers(logged: Bank) -> None:
    head = logged.command("audit", "verify")["head"]
    written_to(
        logged, "DELETE FROM audit_log WHERE number = 2",
        "UPDATE audit_heads SET number = 1, digest = (SELECT digest FROM audit_log WHERE number = 1)",
    )  # fmt: skip
    assert logged.command("audit", "verify")["entries"] == 2
    assert refused("audit", "verify", "--settings", logged.settings, "--head", head) == "LOG_BROKEN"


def test_files_that_are_no_log(logged: Bank, env: Path, tmp_path: Path) -> None:
    path, pki = tmp_path / "log", env / "pki"
    logged.command("audit", "export", "--out", path)
    plain = decode(path.read_bytes(), max_bytes=1 << 20)
    others = {use: certificate(pki / f"bank.bank-a.{use}.pem") for use in ("seal", "tls")}
    foreign = certificate(pki / "bank.bank-b.sign.pem")
    shop = certificate(pki / "merchant.shop-1.sign.pem")
    for changes in (
        {"bank": "bank-b"}, {"certificates": [foreign]}, {"certificates": [foreign], "bank": "bank-b"},
        {"certificates": [shop]}, {"certificates": [shop], "bank": "shop-1"}, {"certificates": [others["seal"]]},
        {"certificates": [others["tls"]]}, {"certificates": [b"\x00"]}, {"certificates": []},
        {"entries": plain["entries"][1:]}, {"entries": [b"\x00"]}, {"more": 1},
    ):  # fmt: skip
        path.write_bytes(encode({**plain, **changes}))
        with pytest.raises(LogBroken) as refusal:
            verify_file(path, pki)
        assert refusal.value.code == "LOG_BROKEN"
    path.write_bytes(b"no log at all")
    assert refused("audit", "verify", "--file", path, "--ca", pki) == "LOG_BROKEN"
    assert refused("audit", "verify", "--file", tmp_path / "none", "--ca", pki) == "SETTINGS_INVALID"
    assert refused("audit", "export", "--settings", logged.settings, "--out", tmp_path / "no/log") == "SETTINGS_INVALID"


def certificate(path: Path) -> bytes:
    return read_certificate(path)


def test_a_log_goes_on_when_the_bank_renews_its_key(logged: Bank, tmp_path: Path) -> None:
    """The old certificate is kept, and given to who verifies; a file has both."""
    pki = logged.env / "pki"
    certificate_file, former, path = pki / "bank.bank-a.sign.pem", tmp_path / "former.pem", tmp_path / "log"
    former.write_bytes(certificate_file.read_bytes())
    authority = Keystore.open(logged.env / "ca/keys.sealed", (logged.env / "ca/passphrase").read_bytes().strip())
    root = Issuer(key=PrivateKey.from_bytes(authority.entry("ca")), certificate=certificate(pki / "ca.pem"))
    key, entropy, now_s = PrivateKey.generate(SystemEntropy()), SystemEntropy(), SystemClock().now_s()
    renewed = issue(
        root, key.public, role=Role.BANK, name="bank-a", use=Use.SIGN, from_s=now_s - 60, until_s=now_s + 3600,
        entropy=entropy,
    )  # fmt: skip
    write_certificate(certificate_file, renewed)
    passphrase = (logged.env / "bank-a/passphrase").read_bytes().strip()
    Keystore.open(logged.env / "bank-a/keys.sealed", passphrase).put({"sign": key.to_bytes()})
    for reference in (logged.env / "bank-a/references").iterdir():  # they were signed with the old key
        reference.unlink()
    logged.log(remove, officer="officer-2")
    assert refused("audit", "verify", "--settings", logged.settings) == "LOG_BROKEN"
    assert logged.command("audit", "verify", "--former", former)["entries"] == 4
    assert logged.command("audit", "export", "--former", former, "--out", path)["entries"] == 4
    assert tapveil("audit", "verify", "--file", path, "--ca", pki)["entries"] == 4
