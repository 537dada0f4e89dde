"""Sample tables: each column type, sealed and plain; keys of one and two columns; unique columns alone and in pairs."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa
from support.postgres import schema

from parties.storage.database import Database, create_if_missing, open_database
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


KINDS = ("sqlite", "postgresql")


class Places:
    """Databases of one kind by the path where SQLite keeps them; on PostgreSQL each is a schema."""

    def __init__(self, kind: str, stack: ExitStack) -> None:
        self.kind = kind
        self._stack = stack
        self._schemas: dict[Path, str] = {}

    def url(self, path: Path) -> str:
        """The same path names the same database, empty at first."""
        if self.kind == "sqlite":
            return f"sqlite:///{path}"
        if path not in self._schemas:
            self._schemas[path] = self._stack.enter_context(schema())
        return self._schemas[path]


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[str], str]]:
    """The URL of an empty database of each kind, by a name."""
    with ExitStack() as stack:
        places = Places(request.param, stack)
        yield lambda name: places.url(tmp_path / name)


@pytest.fixture(scope="module", params=KINDS)
def sample(request: pytest.FixtureRequest) -> Iterator[SimpleNamespace]:
    """The sample tables, registered only while a module's tests run; databases of either kind."""
    accounts = Table(
        "sample_accounts", Account, ("number",), unique=(("name",), ("bank", "slot")), index=("bank",),
        sealed=frozenset({"secret", "memo", "pin", "vip"}), expires="until_s",
    )  # fmt: skip
    entries = Table("sample_entries", Entry, ("owner", "sequence"), index=("account",))
    visits = Table("sample_visits", Visit, ("place", "day"), expires="until_s")
    tables = (accounts, entries, visits)
    with ExitStack() as stack:
        places = Places(request.param, stack)
        yield SimpleNamespace(
            accounts=accounts, entries=entries, visits=visits, tables=tables, account=account, Entry=Entry,
            Visit=Visit, data_key=DATA_KEY, kind=places.kind, url=places.url, together=together,
            trace=trace, holding=holding,
            create=functools.partial(create, places, tables), opened=functools.partial(opened, places, tables),
        )  # fmt: skip
    for table in tables:
        del ALL_TABLES[table.name]


def create(places: Places, tables: tuple[Table[Any], ...], path: Path, **options: Any) -> Database:
    """A database with these tables, empty unless it was there."""
    url = places.url(path)
    create_if_missing(url)
    database = open_database(url, **{"wait_s": 0.2, **options})
    with database.writer.begin() as connection:
        metadata_for(tables).create_all(connection)
    return database


@contextmanager
def opened(places: Places, tables: tuple[Table[Any], ...], path: Path, **options: Any) -> Iterator[DatabaseStore]:
    store = DatabaseStore(create(places, tables, path), tables, Sealer(DATA_KEY), **options)
    try:
        yield store
    finally:
        store.close()


def trace(database: Database, tell: Callable[[str], None]) -> None:
    """Every statement of the writer's connections from now on, as SQLite runs it, values included."""
    sa.event.listen(database.writer, "checkout", lambda connection, *_: connection.set_trace_callback(tell))


@contextmanager
def holding(database: Database) -> Iterator[None]:
    """Another program writes to the accounts and does not come to an end: on SQLite that holds all tables."""
    with database.writer.begin() as connection:
        if database.is_postgresql:
            connection.exec_driver_sql("LOCK TABLE sample_accounts IN EXCLUSIVE MODE")
        yield


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
    with sample.opened(tmp_path / "sample.db") as opened_store:
        yield opened_store
