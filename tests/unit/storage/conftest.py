"""Sample tables: each column type, sealed and plain; keys of one and two columns; unique columns alone and in pairs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa

from parties.storage.database import Database, ensure_file, open_database
from parties.storage.schema import metadata_for
from parties.storage.sealing import Sealer
from parties.storage.store import DatabaseStore
from protocol.rows import ALL_TABLES, Decision, Table, Unit

DATA_KEY = bytes(range(32))


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    number: int
    name: str
    bank: bytes
    slot: int
    balance: int
    active: bool
    until_s: int
    secret: bytes
    memo: str
    pin: int
    vip: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    owner: bytes
    sequence: int
    account: int
    amount: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Visit:
    place: str
    day: int
    until_s: int


def account(number: int, **changes: Any) -> Account:
    values: dict[str, Any] = {
        "name": f"name-{number}", "bank": b"bank", "slot": number, "balance": 0, "active": True, "until_s": 1000,
        "secret": b"secret-%d" % number, "memo": f"memo-{number}", "pin": number, "vip": number % 2 == 0,
    }  # fmt: skip
    return Account(number=number, **(values | changes))


@pytest.fixture(scope="module")
def sample() -> Iterator[SimpleNamespace]:
    """The sample tables, registered only while a module's tests run."""
    accounts = Table(
        "sample_accounts", Account, ("number",), unique=(("name",), ("bank", "slot")), index=("bank",),
        sealed=frozenset({"secret", "memo", "pin", "vip"}), expires="until_s",
    )  # fmt: skip
    entries = Table("sample_entries", Entry, ("owner", "sequence"), index=("account",))
    visits = Table("sample_visits", Visit, ("place", "day"), expires="until_s")
    tables = (accounts, entries, visits)
    yield SimpleNamespace(
        accounts=accounts, entries=entries, visits=visits, tables=tables, account=account, Entry=Entry, Visit=Visit,
        data_key=DATA_KEY, create=lambda path: create(path, tables),
        opened=lambda path, **options: opened(path, tables, **options), together=together, trace=trace,
    )  # fmt: skip
    for table in tables:
        del ALL_TABLES[table.name]


def create(path: Path, tables: tuple[Table[Any], ...]) -> Database:
    """An empty database with these tables."""
    ensure_file(path)
    database = open_database(f"sqlite:///{path}", wait_s=0.2)
    with database.writer.begin() as connection:
        metadata_for(tables).create_all(connection)
    return database


def trace(database: Database, tell: Callable[[str], None]) -> None:
    """Every statement of the writer's connections from now on, as SQLite runs it, values included."""
    sa.event.listen(database.writer, "checkout", lambda connection, *_: connection.set_trace_callback(tell))


@contextmanager
def opened(path: Path, tables: tuple[Table[Any], ...], **options: Any) -> Iterator[DatabaseStore]:
    store = DatabaseStore(create(path, tables), tables, Sealer(DATA_KEY), **options)
    try:
        yield store
    finally:
        store.close()


def together(store: DatabaseStore, units: list[Unit]) -> list[Future[Decision]]:
    """Queue `units` while the writer is held up, so that they make one batch."""
    started, released = threading.Event(), threading.Event()

    def wait(_rows: object) -> Decision:
        started.set()
        released.wait(10)
        return Decision()

    held = store.submit(Unit((), wait))
    started.wait(10)
    futures = [store.submit(unit) for unit in units]
    released.set()
    held.result(10)
    for future in futures:
        future.exception(10)
    return futures


@pytest.fixture
def store(sample: SimpleNamespace, tmp_path: Path) -> Iterator[DatabaseStore]:
    with opened(tmp_path / "sample.db", sample.tables) as opened_store:
        yield opened_store
