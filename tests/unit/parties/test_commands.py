"""Commands around a database, and what all commands share: one line for a refusal, and a light start."""

from __future__ import annotations

import json
import sqlite3
import stat
import subprocess
import sys

import pytest
from click.testing import CliRunner

from parties.assembly.common import Opened
from parties.branch import add_customer
from parties.cli import main
from parties.cli.output import one_line_errors
from parties.settings import load_settings
from parties.storage.store import open_store
from protocol.errors import Unavailable
from protocol.roles.bank.tables import CUSTOMERS


def tapveil(*arguments: object):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_a_missing_database_is_made_and_an_old_one_named(env):
    settings = env / "bank-a/settings.toml"
    database = env / "bank-a/data.db"
    assert tapveil("db", "check", "--settings", settings).exit_code == 0
    database.unlink()
    refused = tapveil("db", "check", "--settings", settings, "--json")
    assert (refused.exit_code, json.loads(refused.stdout)["error"]) == (1, "STORAGE_FAULT")
    assert refused.stderr == f"tapveil: STORAGE_FAULT: there is no database {database}: run `tapveil db upgrade`.\n"
    assert tapveil("db", "upgrade", "--settings", settings).exit_code == 0
    assert tapveil("db", "upgrade", "--settings", settings).exit_code == 0
    assert tapveil("db", "check", "--settings", settings).exit_code == 0


def test_a_backup_is_whole_private_and_opens_with_the_keystore(env, tmp_path):
    settings, target = env / "bank-a/settings.toml", tmp_path / "copy.db"
    customer = add_customer(settings, name="Lin Wei", limit_minor=1, currency="TWD", passcode="wq-7351").customer
    ran = tapveil("db", "backup", "--settings", settings, target, "--json")
    assert json.loads(ran.stdout)["bytes"] == target.stat().st_size
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    store = open_store(f"sqlite:///{target}", "bank", Opened.of(load_settings(settings)).keystore.data_key())
    assert [row.customer for row in store.scan(CUSTOMERS)] == [customer]
    store.close()
    for bad in (target, tmp_path / "none/copy.db"):
        assert tapveil("db", "backup", "--settings", settings, bad).exit_code == 1


def test_a_party_without_a_database_is_told_so(env):
    for command in ("check", "upgrade"):
        ran = tapveil("db", command, "--settings", env / "sp-1/settings.toml")
        assert (ran.exit_code, "a sp keeps no database" in ran.stderr) == (1, True)


def test_a_newer_database_is_neither_upgraded_nor_served(env):
    settings = env / "bank-a/settings.toml"
    with sqlite3.connect(env / "bank-a/data.db") as database:
        database.execute("UPDATE alembic_version SET version_num = 'bank_9999'")
    database.close()
    for command in ("check", "upgrade"):
        ran = tapveil("db", command, "--settings", settings)
        assert (ran.exit_code, "use the program that wrote it" in ran.stderr) == (1, True)


def test_an_unavailable_party_is_told_with_its_mend(capsys):
    @one_line_errors
    def command(*, as_json: bool) -> None:
        raise Unavailable("no answer")

    with pytest.raises(SystemExit) as ended:
        command(as_json=True)
    out, err = capsys.readouterr()
    assert ended.value.code == 1
    assert json.loads(out) == {"error": "UNAVAILABLE", "detail": "no answer"}
    assert err == "tapveil: UNAVAILABLE: no answer. Run the same command again: it goes on where it was.\n"


def test_the_command_line_loads_nothing_heavy_before_it_knows_the_command():
    code = (
        "import sys, parties.cli.main; print([m for m in ('grpc', 'sqlalchemy', 'cryptography') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_every_command_has_help():
    for path in ([], ["doctor"], ["serve"], ["init"], ["bank"], ["bank", "add-customer"], ["wallet"], ["db"]):
        ran = tapveil(*path, "--help")
        assert (ran.exit_code, "Usage:" in ran.stdout) == (0, True)
