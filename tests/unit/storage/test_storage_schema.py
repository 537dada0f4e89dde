"""Declared tables as database tables, and statements that use the indexes."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import sqlalchemy as sa

from parties.storage.database import open_database
from parties.storage.schema import metadata_for
from parties.storage.sealing import Sealer
from parties.storage.store import DatabaseStore
from protocol.errors import SettingsInvalid
from protocol.rows import ALL_TABLES, Decision, Delete, Insert, Key, Table, Unit, Update, Where


def test_columns_constraints_and_indexes_follow_the_declaration(sample):
    stored = metadata_for(sample.tables).tables["sample_accounts"]
    kinds = {column.name: type(column.type) for column in stored.columns}
    assert kinds["number"] is sa.BigInteger
    assert kinds["name"] is sa.Text
    assert kinds["bank"] is sa.LargeBinary
    assert kinds["active"] is sa.Boolean
    assert {kinds[name] for name in sample.accounts.sealed} == {sa.LargeBinary}
    assert not any(column.nullable for column in stored.columns)
    assert [column.name for column in stored.primary_key] == ["number"]
    unique = {tuple(c.name for c in one.columns) for one in stored.constraints if isinstance(one, sa.UniqueConstraint)}
    assert unique == {("name",), ("bank", "slot")}
    assert {index.name for index in stored.indexes} == {"ix_sample_accounts_bank", "ix_sample_accounts_until_s"}


def test_only_the_given_tables_are_made(sample):
    assert list(metadata_for([sample.visits]).tables) == ["sample_visits"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Odd:
    key: bytes
    value: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plain:
    key: bytes
    value: int


@pytest.mark.parametrize(
    ("row", "declaration", "message"),
    [
        (Odd, {}, "odd.value is"),
        (Plain, {"sealed": frozenset({"key"})}, "odd.key is sealed"),
        (Plain, {"sealed": frozenset({"value"}), "index": ("value",)}, "odd.value is sealed"),
        (Plain, {"sealed": frozenset({"value"}), "unique": (("value",),)}, "odd.value is sealed"),
        (Plain, {"sealed": frozenset({"value"}), "expires": "value"}, "odd.value is sealed"),
        (Plain, {"index": ("valve",)}, "no column valve"),
        (bytes, {}, "not a dataclass"),
    ],
)
def test_a_declaration_that_cannot_be_stored_is_refused(row, declaration, message):
    table = Table("odd", row, ("key",), **declaration)
    del ALL_TABLES["odd"]
    with pytest.raises(TypeError, match=message):
        metadata_for([table])


def test_looking_up_a_column_without_index_is_refused(sample, store):
    with pytest.raises(TypeError, match="balance has no index"):
        store.read(Where(sample.accounts, "balance", 1))


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:", "mysql://host/name", "no url"])
def test_a_url_that_names_no_file_is_refused(url):
    with pytest.raises(SettingsInvalid) as caught:
        open_database(url)
    assert caught.value.code == "SETTINGS_INVALID"


@pytest.mark.parametrize("sample", ["sqlite"], indirect=True)
def test_no_statement_of_a_unit_scans_a_table(sample, tmp_path):
    """SQLite's own plan of every statement that a batch runs."""
    database = sample.create(tmp_path / "plan.db")
    statements = []
    sample.trace(database, statements.append)
    store = DatabaseStore(database, sample.tables, Sealer(sample.data_key))
    rows = [sample.account(n) for n in range(4)]
    entries = [sample.Entry(owner=b"o%d" % n, sequence=n, account=n, amount=1) for n in range(4)]
    visits = [sample.Visit(place=f"p{n}", day=n, until_s=5) for n in range(4)]
    writes = [Insert(sample.accounts, row) for row in rows] + [Insert(sample.entries, entry) for entry in entries]
    store.apply(Unit((), lambda _: Decision(writes=(*writes, *(Insert(sample.visits, visit) for visit in visits)))))
    reads = [
        *(Key(sample.accounts, (n,)) for n in range(3)), Where(sample.accounts, "name", "name-3"),
        Where(sample.accounts, "bank", b"none"), *(Key(sample.entries, (b"o%d" % n, n)) for n in range(3)),
        Where(sample.entries, "account", 3), *(Key(sample.visits, (f"p{n}", n)) for n in range(3)),
    ]  # fmt: skip
    changes = (
        Update(sample.accounts, sample.account(1, balance=5)),
        Update(sample.entries, sample.Entry(owner=b"o1", sequence=1, account=1, amount=9)),
        Delete(sample.visits, visits[0]),
    )
    store.apply(Unit(tuple(reads), lambda _: Decision(writes=changes)))
    store.sweep(10)
    with database.writer.begin() as connection:
        seen = [one for one in statements if one.startswith(("SELECT", "UPDATE", "DELETE"))]
        for statement in seen:
            plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}")
            steps = [row[3] for row in plan]
            assert not [step for step in steps if step.startswith("SCAN sample_")], statement
    assert {one.split()[0] for one in seen} == {"SELECT", "UPDATE", "DELETE"}
    store.close()
