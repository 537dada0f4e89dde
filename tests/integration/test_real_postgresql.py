"""`tapveil run` with all institutions in one PostgreSQL database: the same verdict, and nothing is left over."""

from __future__ import annotations

import json

import pytest
import sqlalchemy as sa
from support.postgres import database_url

from parties.settings import load_settings
from parties.storage.postgresql import drop_schemas

pytestmark = pytest.mark.real

SCRIPT = """
name = "a customer enrolls"
[parties]
phones = 1
merchants = 0
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
"""


def schemas() -> set[str]:
    """Those of runs in the database of this test process."""
    engine = sa.create_engine(database_url(), poolclass=sa.NullPool)
    with engine.connect() as connection:
        query = "SELECT nspname FROM pg_namespace WHERE nspname LIKE 'tapveil\\_________\\_%%'"
        return set(connection.exec_driver_sql(query).scalars())


@pytest.fixture
def script(tmp_path):
    path = tmp_path / "script.toml"
    path.write_text(SCRIPT)
    return path


def test_a_run_over_postgresql_is_judged_and_takes_its_schemas_with_it(cli, script):
    before = schemas()
    ran = cli("run", script, "--database", database_url(), "--json")
    verdict = json.loads(ran.out)
    assert {phase["id"]: phase["ok"] for phase in verdict["phases"]}["INIT"], ran.out
    assert schemas() == before


def test_a_report_keeps_the_schemas_that_its_settings_name(cli, script, tmp_path):
    before, report = schemas(), tmp_path / "report"
    cli("run", script, "--database", database_url(), "--json", "--report", report)
    kept = schemas() - before
    assert {name.split("_", 2)[2] for name in kept} == {"bank_a", "tsm_1"}
    used = load_settings(report / "bank-a/settings.toml").database
    assert used.partition("search_path%3D")[2] in kept
    drop_schemas(database_url(), min(kept).rsplit("_bank", 1)[0])
    assert schemas() == before


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("sqlite:///x.db", "SETTINGS_INVALID: --database takes a postgresql+psycopg:// URL"),
        ("mysql://host/x", "SETTINGS_INVALID: the database URL must name a SQLite file or a PostgreSQL database"),
        ("postgresql+psycopg://hush:hush@127.0.0.1:1/x", "STORAGE_FAULT: the database server can't be reached"),
    ],
)
def test_a_database_that_cannot_be_used_is_one_clear_line(cli, script, url, says):
    ran = cli("run", script, "--database", url)
    assert (ran.status, ran.out, len(ran.err.splitlines())) == (1, "", 1)
    assert ran.err.startswith(f"tapveil: {says}")
    assert "hush" not in ran.err
