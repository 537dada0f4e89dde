"""Databases of the right version, the wrong one, another role's and none; and drafts that match the declared tables."""

from __future__ import annotations

import shutil
import stat
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest
import sqlalchemy as sa

from parties.storage.database import open_database
from parties.storage.migrations import create_or_upgrade
from parties.storage.migrations.draft import differences, draft
from parties.storage.roles import TABLES
from parties.storage.schema import metadata_for
from parties.storage.store import open_store
from parties.storage.version import VERSIONS, check_version
from protocol.engine import EVIDENCE, Evidence
from protocol.errors import SettingsInvalid, StorageFault
from protocol.rows import ALL_TABLES, Decision, Insert, Table, Unit


@dataclass(frozen=True, slots=True, kw_only=True)
class Visit:
    place: str
    day: int
    until_s: int
    guide: str


@pytest.fixture
def grown(sample):
    """The sample table of visits as a later program declares it."""
    table = Table("sample_visits", Visit, ("place", "day"), index=("guide",), expires="until_s")
    ALL_TABLES["sample_visits"] = sample.visits
    return table


@pytest.mark.parametrize("role", [str(role) for role in TABLES])
def test_the_migrations_of_a_role_give_its_declared_tables(role, tmp_path):
    """If this fails: python -m parties.storage.migrations.draft ROLE "what changed"."""
    metadata = metadata_for(TABLES[role])
    assert differences(role, metadata) == []
    create_or_upgrade(f"sqlite:///{tmp_path}/role.db", role)
    database = open_database(f"sqlite:///{tmp_path}/role.db")
    with database.readers.begin() as connection:
        inspector = sa.inspect(connection)
        for name, stored in metadata.tables.items():  # Alembic does not compare primary keys
            assert inspector.get_pk_constraint(name)["constrained_columns"] == [c.name for c in stored.primary_key]
    database.close()


def test_a_new_database_is_private_and_opens(tmp_path):
    url = f"sqlite:///{tmp_path}/bank.db"
    create_or_upgrade(url, "bank")
    create_or_upgrade(url, "bank")
    check_version(url, "bank")
    assert stat.S_IMODE((tmp_path / "bank.db").stat().st_mode) == 0o600
    store = open_store(url, "bank", bytes(32))
    row = Evidence(digest=b"d", message="m", received_at_s=1, signed=b"s")
    store.apply(Unit((), lambda _: Decision(writes=(Insert(EVIDENCE, row),))))
    assert stat.S_IMODE((tmp_path / "bank.db-wal").stat().st_mode) == 0o600
    assert store.scan(EVIDENCE) == (row,)
    store.close()


def test_a_draft_of_first_tables_and_of_later_ones(sample, grown, tmp_path):
    first = draft("bank", sample.tables, "first", versions=tmp_path)
    assert first.name == "bank_0001.py"
    assert differences("bank", metadata_for(sample.tables), versions=tmp_path) == []
    assert draft("bank", sample.tables, "nothing", versions=tmp_path) is None
    later = (sample.accounts, sample.entries, grown)
    assert differences("bank", metadata_for(later), versions=tmp_path)
    assert draft("bank", later, "guides", versions=tmp_path).name == "bank_0002.py"
    assert differences("bank", metadata_for(later), versions=tmp_path) == []


@pytest.fixture
def versions(sample, grown, tmp_path):
    """A bank with two versions, and a tsm."""
    draft("bank", [sample.visits], "first", versions=tmp_path / "old")
    for tables in ([sample.visits], [grown]):
        draft("bank", tables, "next", versions=tmp_path / "new")
    draft("tsm", [sample.visits], "first", versions=tmp_path / "new")
    return tmp_path


def test_an_older_database_is_refused_until_upgraded(versions):
    url = f"sqlite:///{versions}/party.db"
    create_or_upgrade(url, "bank", versions=versions / "old")
    with pytest.raises(StorageFault, match="version bank_0001, not bank_0002: run `tapveil db upgrade`") as caught:
        check_version(url, "bank", versions=versions / "new")
    assert caught.value.code == "STORAGE_FAULT"
    create_or_upgrade(url, "bank", versions=versions / "new")
    check_version(url, "bank", versions=versions / "new")


def test_a_newer_database_and_another_role_s_are_refused_and_left_alone(versions):
    for role, made in (("bank", "new"), ("tsm", "new")):
        url = f"sqlite:///{versions}/{role}.db"
        create_or_upgrade(url, role, versions=versions / made)
        before = (versions / f"{role}.db").read_bytes()
        for act in (check_version, create_or_upgrade):
            with pytest.raises(StorageFault, match="unknown here"):
                act(url, "bank", versions=versions / "old")
        assert (versions / f"{role}.db").read_bytes() == before


def test_an_empty_file_is_of_no_version(tmp_path):
    (tmp_path / "empty.db").touch()
    with pytest.raises(StorageFault, match="of version none, not bank_0002: run `tapveil db upgrade`"):
        open_store(f"sqlite:///{tmp_path}/empty.db", "bank", bytes(32))


def test_a_missing_database_is_refused_and_not_made(tmp_path):
    with pytest.raises(StorageFault, match="run `tapveil db upgrade`"):
        open_store(f"sqlite:///{tmp_path}/none.db", "bank", bytes(32))
    assert list(tmp_path.iterdir()) == []


def test_a_database_in_a_missing_folder_is_refused(tmp_path):
    with pytest.raises(StorageFault, match="can't be opened for writing"):
        create_or_upgrade(f"sqlite:///{tmp_path}/none/bank.db", "bank")


def test_a_role_without_database_is_refused(tmp_path):
    with pytest.raises(SettingsInvalid, match="role sp"):
        create_or_upgrade(f"sqlite:///{tmp_path}/sp.db", "sp")


@pytest.mark.parametrize("role", [str(role) for role in TABLES])
def test_rows_of_the_first_version_live_on(role, tmp_path):
    """A database with a row in every table of version 0001, upgraded: every row is there and reads as before."""
    url = f"sqlite:///{tmp_path}/party.db"
    first = tmp_path / "versions" / role
    first.mkdir(parents=True)
    shutil.copy(VERSIONS / role / f"{role}_0001.py", first)
    create_or_upgrade(url, role, versions=tmp_path / "versions")
    values = {sa.Text: "x", sa.LargeBinary: b"x", sa.BigInteger: 7, sa.Boolean: True, sa.TEXT: "x", sa.BLOB: b"x"}
    values |= {sa.BIGINT: 7, sa.BOOLEAN: True}
    database = open_database(url)
    old = sa.MetaData()
    with database.writer.begin() as connection:
        old.reflect(connection)
        tables = [table for table in old.sorted_tables if table.name != "alembic_version"]
        for table in tables:
            row = {column.name: values[type(column.type)] for column in table.columns}
            connection.execute(table.insert().values(row))
    database.close()
    create_or_upgrade(url, role)
    check_version(url, role)
    database = open_database(url)
    with database.readers.begin() as connection:
        for table in tables:
            (row,) = connection.execute(sa.select(table)).all()
            assert set(row) <= {"x", b"x", 7, True}
        for table in metadata_for(TABLES[role]).sorted_tables:
            assert len(connection.execute(sa.select(table)).all()) == (1 if table.name in old.tables else 0)
    database.close()


def test_a_failing_migration_leaves_the_old_version(versions):
    url = f"sqlite:///{versions}/party.db"
    create_or_upgrade(url, "bank", versions=versions / "old")
    second = versions / "new" / "bank" / "bank_0002.py"
    second.write_text(second.read_text() + '\n    op.drop_table("nowhere")\n')
    with pytest.raises(StorageFault):
        create_or_upgrade(url, "bank", versions=versions / "new")
    check_version(url, "bank", versions=versions / "old")
    assert "guide" not in (versions / "party.db").read_bytes().decode("latin-1")


def test_several_parties_of_one_process_upgrade_at_once(tmp_path):
    with ThreadPoolExecutor(4) as pool:
        urls = [(f"sqlite:///{tmp_path}/{role}.db", str(role)) for role in TABLES]
        list(pool.map(lambda one: create_or_upgrade(*one), urls))
    for url, role in urls:
        check_version(url, role)
