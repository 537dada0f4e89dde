"""A party that can't start says why in one line with the mend, and ends with a status other than 0."""

from __future__ import annotations

import json
import shutil
import socket
import sqlite3
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from parties.keystore import GENERATED
from parties.setup import Plan, create_environment

pytestmark = pytest.mark.real


def change(settings: Path, **changes: Any) -> None:
    """Alter settings; None takes one away, `option_x` is [options] x."""
    plain = tomllib.loads(settings.read_text())
    for name, value in changes.items():
        table, key = (plain["options"], name.removeprefix("option_")) if name.startswith("option_") else (plain, name)
        if value is None:
            del table[key]
        else:
            table[key] = value
    settings.write_text(tomli_w.dumps(plain))


def newer(folder: Path) -> None:
    """The database of a program from the future."""
    with sqlite3.connect(folder / "data.db") as database:
        database.execute("UPDATE alembic_version SET version_num = 'tsm_9999'")
    database.close()


def unmigrated(folder: Path) -> None:
    (folder / "data.db").unlink()
    sqlite3.connect(folder / "data.db").close()
    with sqlite3.connect(folder / "data.db") as database:
        database.execute("CREATE TABLE other (a INTEGER)")
    database.close()


def overwrite(path: Path, data: bytes) -> None:
    path.write_bytes(data)


FORKER = """
import gc, json, os, sys
from parties.cli import main
import parties.serve

gc.freeze()  # as the template of servers does
statuses = []
for number, role in enumerate(sys.argv[2:]):
    child = os.fork()
    if child == 0:
        for descriptor, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(f"{sys.argv[1]}/{number}/{name}", os.O_WRONLY | os.O_CREAT), descriptor)
        main(["serve", role, "--settings", f"{sys.argv[1]}/{number}/tsm-1/settings.toml"])
    statuses.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
print(json.dumps(statuses))
"""

CASES = {
    "missing file": (
        "tsm", lambda f: (f / "settings.toml").unlink(), "SETTINGS_INVALID", "settings.toml can't be read"
    ),
    "bad TOML": ("tsm", lambda f: overwrite(f / "settings.toml", b"role = tsm"), "SETTINGS_INVALID", "is not TOML"),
    "not a text": ("tsm", lambda f: overwrite(f / "settings.toml", b"\xff\xfe"), "SETTINGS_INVALID", "is not TOML"),
    "unknown key": (
        "tsm", lambda f: change(f / "settings.toml", listne="x"), "SETTINGS_INVALID",
        "unknown setting 'listne': remove it or correct its spelling",
    ),
    "wrong role": ("bank", lambda f: None, "SETTINGS_INVALID", "is for `tapveil serve tsm`, not bank"),
    "no address": (
        "tsm", lambda f: change(f / "settings.toml", listen=None, mutual_listen=None), "SETTINGS_INVALID",
        "set listen or mutual_listen to HOST:PORT",
    ),
    "bad address": (
        "tsm", lambda f: change(f / "settings.toml", listen="localhost"), "SETTINGS_INVALID", "must be HOST:PORT"
    ),
    "another machine's address": (
        "tsm", lambda f: change(f / "settings.toml", listen="192.0.2.1:7000"), "PORT_IN_USE", "192.0.2.1:7000"
    ),
    "bad option": (
        "tsm", lambda f: change(f / "settings.toml", option_card_uses="many"), "SETTINGS_INVALID",
        "card_uses must be a whole number",
    ),
    "wrong passphrase": (
        "tsm", lambda f: overwrite(f / "passphrase", b"another"), "KEYSTORE_LOCKED", "wrong passphrase"
    ),
    "no passphrase": (
        "tsm", lambda f: (f / "passphrase").unlink(), "SETTINGS_INVALID", "passphrase can't be read"
    ),
    "no keystore": ("tsm", lambda f: (f / "keys.sealed").unlink(), "SETTINGS_INVALID", "keys.sealed can't be read"),
    "damaged keystore": ("tsm", lambda f: overwrite(f / "keys.sealed", b"x" * 99), "KEYSTORE_LOCKED", "backup"),
    "no CA": ("tsm", lambda f: (f.parent / "pki/ca.pem").unlink(), "SETTINGS_INVALID", "ca.pem can't be read"),
    "certificate of another key": (
        "tsm",
        lambda f: shutil.copy(f.parent / "pki/tsm.tsm-1.sign.pem", f.parent / "pki/tsm.tsm-1.tls.pem"),
        "SETTINGS_INVALID", "tsm.tsm-1.tls.pem",
    ),
    "certificate of another party": (
        "tsm",
        lambda f: shutil.copy(f.parent / "pki/bank.bank-a.tls.pem", f.parent / "pki/tsm.tsm-1.tls.pem"),
        "SETTINGS_INVALID", "is of another key than the keystore's",
    ),
    "missing certificate": (
        "tsm", lambda f: (f.parent / "pki/tsm.tsm-1.seal.pem").unlink(), "SETTINGS_INVALID", "tsm.tsm-1.seal.pem"
    ),
    "missing database": (
        "tsm", lambda f: (f / "data.db").unlink(), "STORAGE_FAULT", "data.db: run `tapveil db upgrade`"
    ),
    "newer database": ("tsm", newer, "STORAGE_FAULT", "use the program that wrote it"),
    "unmigrated database": ("tsm", unmigrated, "STORAGE_FAULT", "run `tapveil db upgrade`"),
    "damaged database": ("tsm", lambda f: overwrite(f / "data.db", b"x" * 9000), "STORAGE_FAULT", "backup"),
    "no EMV issuer": ("tsm", lambda f: (f / "emv.cbor").unlink(), "SETTINGS_INVALID", "emv.cbor can't be read"),
    "capture that can't be written": (
        "tsm", lambda f: change(f / "settings.toml", capture="passphrase/capture.log"), "SETTINGS_INVALID",
        "capture.log can't be written",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    folder = tmp_path_factory.mktemp("startup") / "env"
    plan = Plan(base_port=0, cost=GENERATED, banks=("bank-a",), merchants=(), phones=())
    create_environment(folder, plan, lambda _party: None)
    return folder


@pytest.fixture(scope="module")
def starts(environment, tmp_path_factory):
    """Every case in a copy and a process of its own, forked from one that has loaded the program, which takes long."""
    folder = tmp_path_factory.mktemp("cases")
    for number, (_, harm, _, _) in enumerate(CASES.values()):
        shutil.copytree(environment, folder / f"{number}")
        harm(folder / f"{number}/tsm-1")
    roles = [role for role, _, _, _ in CASES.values()]
    done = subprocess.run(
        [sys.executable, "-c", FORKER, folder, *roles], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stderr == ""
    statuses = json.loads(done.stdout)
    return {
        case: (status, *((folder / f"{number}" / name).read_text() for name in ("out", "err")))
        for number, (case, status) in enumerate(zip(CASES, statuses, strict=True))
    }


@pytest.mark.parametrize("case", CASES)
def test_what_keeps_a_party_from_starting_is_one_line(starts, case):
    _, _, code, text = CASES[case]
    status, out, err = starts[case]
    assert (status, out) == (1, "")
    (line,) = err.splitlines()
    assert line.startswith(f"tapveil: {code}: ")
    assert text in line


def test_two_servers_on_one_port_are_not_two_servers(town, cli):
    """Without so_reuseport=0 both would run, and each would get half of the calls."""
    second = cli("serve", "tsm", "--settings", town.settings("tsm-1"))
    assert (second.status, second.out) == (1, "")
    (line,) = second.err.splitlines()
    assert line.startswith("tapveil: PORT_IN_USE: can't listen on 127.0.0.1:")
    with socket.create_connection(("127.0.0.1", town.deployment.ready["tsm-1"]["port"])):
        pass  # the first goes on


def test_a_phone_with_another_keys_certificate_is_told_so(environment, town, cli, tmp_path):
    """The bank would only hang up, which looks as if it could not be reached."""
    shutil.copytree(town.folder / "pki", tmp_path / "pki")
    shutil.copytree(town.folder / "phone-8", tmp_path / "phone-8")
    shutil.copy(tmp_path / "pki/se.phone-8.tls.pem", tmp_path / "pki/phone.phone-8.tls.pem")
    ran = cli("wallet", "launch", "--phone", tmp_path / "phone-8")
    assert (ran.status, ran.out) == (1, "")
    (line,) = ran.err.splitlines()
    assert line.startswith("tapveil: SETTINGS_INVALID: ")
    assert "is of another key than the keystore's" in line


def test_init_refuses_a_folder_that_is_not_empty(environment, cli):
    ran = cli("init", environment, "--json")
    assert (ran.status, ran.err.count("\n")) == (1, 1)
    assert "is not empty: name a new folder" in ran.err
