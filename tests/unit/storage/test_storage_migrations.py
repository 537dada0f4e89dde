"""Databases of the right version, the wrong one, another role's and none; and drafts that match the declared tables."""

from __future__ import annotations

import shutil
import stat
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy.dialects.postgresql import BYTEA

from parties.storage.database import open_database
from parties.storage.migrations import NOTHING, create_or_upgrade, downgrade
from parties.storage.migrations.draft import differences, draft
from parties.storage.roles import TABLES
from parties.storage.schema import metadata_for
from parties.storage.store import open_store
from parties.storage.version import VERSIONS, check_version, revisions
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
def test_the_migrations_of_a_role_give_its_declared_tables(role, place):
    """If this fails: python -m parties.storage.migrations.draft ROLE "what changed"."""
    metadata = metadata_for(TABLES[role])
    create_or_upgrade(place("role.db"), role)
    database = open_database(place("role.db"))
    with database.readers.begin() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
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


def test_an_older_database_is_refused_until_upgraded(sample, versions):
    url = sample.url(versions / "party.db")
    create_or_upgrade(url, "bank", versions=versions / "old")
    with pytest.raises(StorageFault, match="version bank_0001, not bank_0002: run `tapveil db upgrade`") as caught:
        check_version(url, "bank", versions=versions / "new")
    assert caught.value.code == "STORAGE_FAULT"
    create_or_upgrade(url, "bank", versions=versions / "new")
    check_version(url, "bank", versions=versions / "new")


def test_a_newer_database_and_another_role_s_are_refused_and_left_alone(sample, versions):
    for role, made in (("bank", "new"), ("tsm", "new")):
        url = sample.url(versions / f"{role}.db")
        create_or_upgrade(url, role, versions=versions / made)
        before = everything(url)
        for act in (check_version, create_or_upgrade):
            with pytest.raises(StorageFault, match="unknown here"):
                act(url, "bank", versions=versions / "old")
        assert everything(url) == before


def test_an_empty_database_is_of_no_version(place, tmp_path):
    (tmp_path / "empty.db").touch()
    with pytest.raises(StorageFault, match="of version none, not bank_0002: run `tapveil db upgrade`"):
        open_store(place("empty.db"), "bank", bytes(32))


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
def test_rows_of_the_first_version_live_on(role, place, tmp_path):
    """A database with a row in every table of version 0001, upgraded: every row is there and reads as before."""
    url = place("party.db")
    first = tmp_path / "versions" / role
    first.mkdir(parents=True)
    shutil.copy(VERSIONS / role / f"{role}_0001.py", first)
    create_or_upgrade(url, role, versions=tmp_path / "versions")
    values = {sa.Text: "x", sa.LargeBinary: b"x", sa.BigInteger: 7, sa.Boolean: True, sa.TEXT: "x", sa.BLOB: b"x"}
    values |= {sa.BIGINT: 7, sa.BOOLEAN: True, BYTEA: b"x"}
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


def test_a_failing_migration_leaves_the_old_version(sample, versions):
    url = sample.url(versions / "party.db")
    create_or_upgrade(url, "bank", versions=versions / "old")
    second = versions / "new" / "bank" / "bank_0002.py"
    up, down = second.read_text().split("\n\n\ndef downgrade")
    second.write_text(f'{up}\n    op.drop_table("nowhere")\n\n\ndef downgrade{down}')
    with pytest.raises(StorageFault):
        create_or_upgrade(url, "bank", versions=versions / "new")
    check_version(url, "bank", versions=versions / "old")
    database = open_database(url)
    with database.readers.begin() as connection:
        assert "guide" not in {column["name"] for column in sa.inspect(connection).get_columns("sample_visits")}
    database.close()


def test_several_parties_of_one_process_upgrade_at_once(place):
    with ThreadPoolExecutor(4) as pool:
        urls = [(place(f"{role}.db"), str(role)) for role in TABLES]
        list(pool.map(lambda one: create_or_upgrade(*one), urls))
    for url, role in urls:
        check_version(url, role)


VALUES = {sa.Text: "x", sa.LargeBinary: b"x", sa.BigInteger: 7, sa.Boolean: True}


def fill(url):
    """A row in every table but those of the version and of what only grows with its own; what was put there."""
    database = open_database(url)
    try:
        with database.writer.begin() as connection:
            metadata = sa.MetaData()
            metadata.reflect(connection)
            for table in metadata.sorted_tables:
                if table.name != "alembic_version":
                    kinds = {column.name: next(v for k, v in VALUES.items() if isinstance(column.type, k))
                             for column in table.columns}  # fmt: skip
                    connection.execute(table.insert().values(kinds))
    finally:
        database.close()


def everything(url):
    """All rows of all tables, with their columns."""
    database = open_database(url)
    try:
        with database.readers.begin() as connection:
            metadata = sa.MetaData()
            metadata.reflect(connection)
            return {
                table.name: [dict(row._mapping) for row in connection.execute(sa.select(table))]
                for table in metadata.sorted_tables
            }
    finally:
        database.close()


def schema_of(url):
    """Columns, keys, indexes and constraints, as the database has them."""
    database = open_database(url)
    try:
        with database.readers.begin() as connection:
            look = sa.inspect(connection)
            return {
                name: (
                    sorted((c["name"], str(c["type"]), c["nullable"]) for c in look.get_columns(name)),
                    look.get_pk_constraint(name)["constrained_columns"],
                    sorted((i["name"], i["column_names"]) for i in look.get_indexes(name)),
                    sorted(u["name"] for u in look.get_unique_constraints(name)),
                )
                for name in look.get_table_names()
            }
    finally:
        database.close()


@pytest.mark.parametrize("role", [str(role) for role in TABLES])
def test_every_step_down_gives_the_schema_before_it_and_keeps_what_both_have(role, place, tmp_path):
    """Up one version at a time; a row in every table; back one at a time, to nothing, and up again."""
    url, known, schemas = place("party.db"), revisions(role), {}
    (tmp_path / "until" / role).mkdir(parents=True)
    for revision in known:
        shutil.copy(VERSIONS / role / f"{revision}.py", tmp_path / "until" / role)
        create_or_upgrade(url, role, versions=tmp_path / "until")
        schemas[revision] = schema_of(url)
    fill(url)
    rows = everything(url)
    for revision in reversed(known[:-1]):
        downgrade(url, role, revision)
        assert schema_of(url) == schemas[revision]
        back = everything(url)
        assert back.pop("alembic_version") == [{"version_num": revision}]
        for table, (row,) in back.items():
            assert row.items() <= rows[table][0].items()
        with pytest.raises(StorageFault, match="run `tapveil db upgrade`"):
            check_version(url, role)
    create_or_upgrade(url, role)
    check_version(url, role)
    assert schema_of(url) == schemas[known[-1]]
    again = everything(url)
    for table, (row,) in back.items():
        assert row.items() <= again[table][0].items()
    downgrade(url, role, NOTHING)
    assert set(everything(url)) == {"alembic_version"}


def test_a_downgrade_to_no_version_of_the_role_or_a_later_one_is_refused(place):
    url = place("bank.db")
    create_or_upgrade(url, "bank")
    before = everything(url)
    with pytest.raises(SettingsInvalid, match="name one of base, bank_0001, bank_0002"):
        downgrade(url, "bank", "tsm_0001")
    assert everything(url) == before
    downgrade(url, "bank", "bank_0001")
    with pytest.raises(StorageFault, match="of version bank_0001, older than bank_0002"):
        downgrade(url, "bank", "bank_0002")
    assert everything(url)["alembic_version"] == [{"version_num": "bank_0001"}]


def test_many_upgrades_of_new_files_at_once_wait_for_one_another(tmp_path):
    urls = [f"sqlite:///{tmp_path}/{number // 4}.db" for number in range(40)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda url: create_or_upgrade(url, "tsm"), urls))
    for url in urls:
        check_version(url, "tsm")


def test_two_upgrades_of_one_database_at_once_make_it_once(place):
    url = place("tsm.db")
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda _: create_or_upgrade(url, "tsm"), range(2)))
    check_version(url, "tsm")
