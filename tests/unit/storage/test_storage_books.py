"""Ledgers and logs only grow, whoever asks; and books begin with what happened before there were any."""

# ruff: noqa: S608  # statements are made of names in this file
from __future__ import annotations

import hashlib
import io
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.migration import MigrationContext
from alembic.operations import Operations

from parties.storage.migrations import books, create_or_upgrade
from parties.storage.store import open_store
from parties.storage.version import VERSIONS
from protocol.messages.statement import EntryKind
from protocol.roles.ledger import LEDGER, SALES, Entry, balances, entry_name, grant_account, merchant_account
from protocol.roles.merchant.tables import DUE
from protocol.rows import Conflict, Decision, Insert, Unit

ENTRY = Entry(entry=b"e" * 32, debit="a", credit="b", amount_minor=7, currency="TWD", kind="claim", ref=b"r", at_s=1)
GROWING = [("tsm", "ledger"), ("merchant", "ledger"), ("bank", "ledger"), ("bank", "audit_log")]
SID = hashlib.sha256(b"sid").digest()


def database(folder: Path, role: str) -> str:
    create_or_upgrade(f"sqlite:///{folder}/{role}.db", role)
    return f"sqlite:///{folder}/{role}.db"


@pytest.mark.parametrize(("role", "table"), GROWING)
def test_no_statement_changes_or_removes_a_row(role: str, table: str, tmp_path: Path) -> None:
    database(tmp_path, role)
    with closing(sqlite3.connect(tmp_path / f"{role}.db", isolation_level=None)) as raw:
        columns = [row[1] for row in raw.execute(f"PRAGMA table_info({table})")]
        values = [b"x" if "BLOB" in row[2] else 1 for row in raw.execute(f"PRAGMA table_info({table})")]
        marks = ", ".join("?" * len(columns))
        raw.execute(f"INSERT INTO {table} VALUES ({marks})", values)
        before = raw.execute(f"SELECT * FROM {table}").fetchall()
        for statement in (
            f"UPDATE {table} SET {columns[-1]} = 2", f"UPDATE OR REPLACE {table} SET {columns[0]} = 3",
            f"DELETE FROM {table}",
        ):  # fmt: skip
            with pytest.raises(sqlite3.IntegrityError, match=f"{table} only grows"):
                raw.execute(statement)
        for verb in ("INSERT OR REPLACE", "INSERT OR IGNORE", "REPLACE", "INSERT"):
            with pytest.raises(sqlite3.IntegrityError, match="only grows"):
                raw.execute(f"{verb} INTO {table} VALUES ({marks})", [values[0], *[2] * (len(values) - 1)])
        assert raw.execute(f"SELECT * FROM {table}").fetchall() == before
        raw.execute(f"INSERT INTO {table} VALUES ({marks})", [b"y" if values[0] == b"x" else 2, *values[1:]])


def test_an_entry_that_is_there_is_a_conflict_and_nothing_changes(tmp_path: Path) -> None:
    """Another process posted it first: the unit is decided again, as for any unique row."""
    url = database(tmp_path, "tsm")
    unit = Unit((), lambda _rows: Decision(writes=(Insert(LEDGER, ENTRY),)))
    store = open_store(url, "tsm", bytes(32))
    store.apply(unit)
    with pytest.raises(Conflict):
        store.apply(unit)
    assert store.scan(LEDGER) == (ENTRY,)
    store.close()


def test_postgresql_refuses_the_same_and_to_truncate() -> None:
    """Written offline: what the statements say to a server of that kind."""
    text = io.StringIO()
    context = MigrationContext.configure(
        dialect_name="postgresql", opts={"as_sql": True, "output_buffer": text}
    )  # fmt: skip
    with Operations.context(context):
        books.keep_append_only("ledger", "entry")
    said = text.getvalue()
    assert "CREATE FUNCTION ledger_only_grows() RETURNS trigger LANGUAGE plpgsql" in said
    for event, scope in (("UPDATE", "ROW"), ("DELETE", "ROW"), ("TRUNCATE", "STATEMENT")):
        assert f"BEFORE {event} ON ledger FOR EACH {scope} EXECUTE FUNCTION ledger_only_grows()" in said


# --- what happened before there were books ---------------------------------------------------------------------------
def old(folder: Path, role: str, last: str, rows: dict[str, list[dict[str, Any]]]) -> str:
    """A database of an earlier version with these rows; other columns are empty."""
    versions = folder / "versions"
    (versions / role).mkdir(parents=True)
    for path in (VERSIONS / role).glob(f"{role}_*.py"):
        if path.stem <= last:
            shutil.copy(path, versions / role)
    url = f"sqlite:///{folder}/old.db"
    create_or_upgrade(url, role, versions=versions)
    engine = sa.create_engine(url)
    tables = sa.MetaData()
    with engine.begin() as connection:
        tables.reflect(connection)
        for name, many in rows.items():
            table = tables.tables[name]
            for number, one in enumerate(many):
                unset = {column.name: _empty(column, number) for column in table.columns}
                connection.execute(table.insert().values(unset | one))
    engine.dispose()
    create_or_upgrade(url, role)
    return url


def _empty(column: sa.Column[Any], number: int) -> Any:
    if isinstance(column.type, sa.LargeBinary):
        return number.to_bytes(4, "big")
    return "" if isinstance(column.type, sa.Text) else 0


@pytest.fixture
def tsm(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    def purchase(name: bytes, state: str, minor: int, merchant: str = "shop-1") -> dict[str, Any]:
        return {
            "merchant": merchant, "sale": name, "sid_digest": SID, "amount_minor": minor, "currency": "TWD",
            "state": state, "decided_at_s": 5,
        }  # fmt: skip

    def refund(name: bytes, sale: bytes, minor: int) -> dict[str, Any]:
        return {
            "merchant": "shop-1", "refund": name, "sale": sale, "amount_minor": minor, "currency": "TWD",
            "made_at_s": 9,
        }  # fmt: skip

    old(tmp_path, "tsm", "tsm_0002", {
        "purchases": [
            purchase(b"a" * 16, "APPROVED", 1_000), purchase(b"b" * 16, "REVERSED", 500),
            purchase(b"c" * 16, "DECLINED", 77), purchase(b"a" * 16, "APPROVED", 30, "shop-2"),
            purchase(b"d" * 16, "NEVER", 0),
        ],
        "refunds": [refund(b"r" * 16, b"a" * 16, 400), refund(b"s" * 16, b"a" * 16, 600)],
    })  # fmt: skip
    with closing(sqlite3.connect(tmp_path / "old.db")) as raw:
        yield raw


def entries(raw: sqlite3.Connection) -> list[Entry]:
    names = ", ".join(Entry.__dataclass_fields__)
    return [
        Entry(**dict(zip(Entry.__dataclass_fields__, row, strict=True)))
        for row in raw.execute(f"SELECT {names} FROM ledger ORDER BY kind, amount_minor")
    ]


def test_a_tsms_books_begin_with_what_grants_and_merchants_moved(tsm: sqlite3.Connection) -> None:
    found = entries(tsm)
    grant, shop = grant_account(SID), merchant_account("shop-1")
    assert [(e.kind, e.debit, e.credit, e.amount_minor, e.at_s) for e in found] == [
        ("purchase", grant, merchant_account("shop-2"), 30, 5), ("purchase", grant, shop, 1_000, 5),
        ("refund", shop, grant, 400, 9), ("refund", shop, grant, 600, 9),
    ]  # fmt: skip
    assert balances(found) == {(grant, "TWD"): 30, (merchant_account("shop-2"), "TWD"): -30, (shop, "TWD"): 0}
    for entry in found:  # named as they are today: what is posted again is known
        assert entry.entry == entry_name(EntryKind(entry.kind), debit=entry.debit, credit=entry.credit, ref=entry.ref)


def test_a_merchants_books_begin_with_what_is_owed_and_all_of_it_is_due(tmp_path: Path) -> None:
    def sale(name: bytes, progress: str, minor: int) -> dict[str, Any]:
        return {
            "sale": name, "amount_minor": minor, "currency": "TWD", "progress": progress, "lane": name,
            "started_at_s": 5,
        }  # fmt: skip

    def refund(name: bytes, state: str, minor: int) -> dict[str, Any]:
        return {"refund": name, "sale": b"a" * 16, "amount_minor": minor, "state": state}

    old(tmp_path, "merchant", "merchant_0002", {
        "terminal_keys": [{"terminal": "T0000001", "tsm": "tsm-1", "state": "ACTIVE"}],
        "sales": [
            sale(b"a" * 16, "APPROVED", 1_000), sale(b"b" * 16, "REVERSED", 500),
            sale(b"c" * 16, "EXPECT_REVERSAL", 60), sale(b"d" * 16, "DECLINED", 70),
        ],
        "sale_refunds": [
            refund(b"r" * 16, "DONE", 400), refund(b"s" * 16, "REFUSED", 9), refund(b"t" * 16, "EXPECT_REFUND", 8)
        ],
    })  # fmt: skip
    with closing(sqlite3.connect(tmp_path / "old.db")) as raw:
        found = entries(raw)
        assert [(e.kind, e.debit, e.credit, e.amount_minor, e.ref) for e in found] == [
            ("purchase", "tsm/tsm-1", SALES, 1_000, b"a" * 16), ("refund", SALES, "tsm/tsm-1", 400, b"r" * 16),
        ]  # fmt: skip
        for entry in found:
            assert entry.entry == entry_name(
                EntryKind(entry.kind), debit=entry.debit, credit=entry.credit, ref=entry.ref
            )
        assert raw.execute("SELECT sale FROM sales WHERE settled = ?", (DUE,)).fetchall() == [(b"a" * 16,)]
        assert raw.execute("SELECT refund FROM sale_refunds WHERE settled = ?", (DUE,)).fetchall() == [(b"r" * 16,)]
        assert raw.execute("SELECT count(*) FROM sales WHERE settled = x''").fetchall() == [(3,)]


def test_a_merchant_that_never_signed_on_has_empty_books(tmp_path: Path) -> None:
    old(tmp_path, "merchant", "merchant_0002", {"sales": [{"sale": b"a" * 16, "progress": "APPROVED"}]})
    with closing(sqlite3.connect(tmp_path / "old.db")) as raw:
        assert entries(raw) == []


def test_many_entries_are_inserted_in_portions(tmp_path: Path) -> None:
    many = [
        {
            "merchant": "shop-1", "sale": number.to_bytes(16, "big"), "sid_digest": SID, "amount_minor": 1,
            "currency": "TWD", "state": "APPROVED", "atc_ref": number.to_bytes(4, "big"),
            "opening_ref": number.to_bytes(4, "big"),
        }
        for number in range(1_001)
    ]  # fmt: skip
    old(tmp_path, "tsm", "tsm_0002", {"purchases": many})
    with closing(sqlite3.connect(tmp_path / "old.db")) as raw:
        assert raw.execute("SELECT count(*), sum(amount_minor) FROM ledger").fetchall() == [(1_001, 1_001)]
