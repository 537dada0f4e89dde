"""Commands around a database, and what all commands share: one line for a refusal, and a light start."""

from __future__ import annotations

import json
import shutil
import sqlite3
import stat
import subprocess
import sys
import tomllib

import pytest
import sqlalchemy as sa
import tomli_w
from click.testing import CliRunner
from support.postgres import database_url, schema

from parties.assembly.common import Opened
from parties.bench.postgres import binaries
from parties.branch import add_customer
from parties.cli import main
from parties.cli.output import one_line_errors
from parties.keystore import GENERATED
from parties.settings import load_settings
from parties.setup import Plan, create_environment
from parties.storage.postgresql import drop_schemas, in_schema
from parties.storage.store import open_store
from parties.storage.version import check_version
from protocol.errors import SettingsInvalid, Unavailable
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


@pytest.fixture
def on_postgresql(env, tmp_path):
    """The settings of a bank whose tables are in PostgreSQL, with a password that must not be told."""
    folder = tmp_path / "bank-a"
    shutil.copytree(env / "bank-a", folder)
    file = folder / "settings.toml"
    with schema() as url:
        plain = tomllib.loads(file.read_text())
        secret = url.replace("//postgres@", "//postgres:hush@")
        file.write_text(tomli_w.dumps({**plain, "pki": str((env / "pki").resolve()), "database": secret}))
        yield file


def test_a_database_on_postgresql_is_made_checked_taken_back_and_backed_up(on_postgresql, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", f"{binaries()}:/usr/bin:/bin")
    refused = tapveil("db", "check", "--settings", on_postgresql)
    assert (refused.exit_code, "of version none, not" in refused.stderr) == (1, True)
    for command in (("upgrade",), ("check",), ("downgrade", "--to", "bank_0001"), ("upgrade",)):
        ran = tapveil("db", *command, "--settings", on_postgresql, "--json")
        assert (ran.exit_code, ran.stderr) == (0, "")
        assert json.loads(ran.stdout)["database"].startswith("postgresql+psycopg://postgres:***@/postgres?")
    customer = add_customer(on_postgresql, name="Lin Wei", limit_minor=1, currency="TWD", passcode="wq-7351").customer
    target = tmp_path / "bank.dump"
    ran = tapveil("db", "backup", "--settings", on_postgresql, target, "--json")
    assert json.loads(ran.stdout) == {"backup": str(target), "bytes": target.stat().st_size}
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    before = load_settings(on_postgresql)
    assert tapveil("db", "downgrade", "--to", "base", "--settings", on_postgresql).exit_code == 0
    engine = sa.create_engine(before.database, poolclass=sa.NullPool, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        name = connection.exec_driver_sql("SELECT current_schema()").scalar_one()
        connection.exec_driver_sql(f"DROP SCHEMA {name} CASCADE")
    place = engine.url.set(drivername="postgresql").difference_update_query(["options"])
    restoring = ["pg_restore", "--exit-on-error", "-d", place.render_as_string(hide_password=False), target]
    done = subprocess.run(restoring, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    store = open_store(before.database, "bank", Opened.of(before).keystore.data_key())
    assert [row.customer for row in store.scan(CUSTOMERS)] == [customer]
    store.close()


def test_a_backup_without_the_program_for_it_is_one_clear_line(on_postgresql, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    ran = tapveil("db", "backup", "--settings", on_postgresql, tmp_path / "bank.dump")
    assert ran.exit_code == 1
    says = "a backup of PostgreSQL is made by pg_dump: install the PostgreSQL client programs"
    assert ran.stderr == f"tapveil: SETTINGS_INVALID: {says}.\n"
    assert not (tmp_path / "bank.dump").exists()


def test_a_backup_that_fails_leaves_no_file(on_postgresql, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", f"{binaries()}:/usr/bin:/bin")
    file = on_postgresql.read_text()
    on_postgresql.write_text(file.replace("/postgres?", "/nowhere?"))
    ran = tapveil("db", "backup", "--settings", on_postgresql, tmp_path / "bank.dump")
    assert (ran.exit_code, "pg_dump could not back up the database" in ran.stderr) == (1, True)
    assert "hush" not in ran.stderr
    assert not (tmp_path / "bank.dump").exists()


@pytest.mark.parametrize(("command", "says"), [
    (("serve", "bank", "--workers", "2"), "--workers needs PostgreSQL, since one process alone may serve"),
    (("serve", "bank", "--workers", "0"), "--workers takes 1 to 64"),
    (("serve", "bank", "--workers", "65"), "--workers takes 1 to 64"),
])  # fmt: skip
def test_workers_where_there_can_be_none_are_refused_in_one_line(env, command, says):
    ran = tapveil(*command, "--settings", env / "bank-a/settings.toml")
    assert (ran.exit_code, ran.stdout, len(ran.stderr.splitlines())) == (1, "", 1)
    assert ran.stderr.startswith(f"tapveil: SETTINGS_INVALID: {says}")


def test_an_environment_in_one_database_has_a_schema_a_party_and_private_settings(tmp_path):
    plan = Plan(
        banks=("bank-a",), merchants=("shop-1",), phones=("phone-1",), base_port=0, cost=GENERATED,
        database=database_url(), schemas="tapveil_setup",
    )  # fmt: skip
    drop_schemas(database_url(), plan.schemas)
    create_environment(tmp_path / "env", plan, lambda _party: None)
    try:
        for party, role in (("bank-a", "bank"), ("tsm-1", "tsm"), ("shop-1", "merchant")):
            settings = load_settings(tmp_path / "env" / party / "settings.toml")
            assert settings.database == in_schema(database_url(), f"tapveil_setup_{party.replace('-', '_')}")
            check_version(settings.database, role)
            assert stat.S_IMODE(settings.path.stat().st_mode) == 0o600
        assert load_settings(tmp_path / "env/phone-1/se/settings.toml").database.startswith("sqlite:///")
        with pytest.raises(SettingsInvalid, match="has a schema tapveil_setup_bank_a already"):
            create_environment(tmp_path / "again", plan, lambda _party: None)
    finally:
        drop_schemas(database_url(), plan.schemas)


def test_an_environment_in_another_kind_of_database_is_refused_and_not_begun(tmp_path):
    with pytest.raises(SettingsInvalid, match=r"--database takes a postgresql\+psycopg:// URL") as caught:
        create_environment(tmp_path / "env", Plan(database="sqlite:///x.db"), lambda _party: None)
    assert caught.value.code == "SETTINGS_INVALID"
    assert not (tmp_path / "env").exists()
