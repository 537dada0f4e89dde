"""The TSM over several databases at once: SQLite and PostgreSQL, with a thousand accounts and with many."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa

from parties.assembly.common import Opened
from parties.assembly.roles import STEPS
from parties.bench.postgres import ProcessorTime, Server, binaries
from parties.bench.purchases import MERCHANT, Account, Stock, refresh_stops
from parties.server.gathering import Gathering
from parties.storage.database import open_database
from parties.storage.migrations import create_or_upgrade
from parties.storage.postgresql import create_schema, drop_schemas
from parties.storage.roles import TABLES
from parties.storage.schema import metadata_for
from parties.storage.sealing import Sealer
from parties.storage.store import DatabaseStore, open_store
from protocol.engine import Engine, Peer
from protocol.envelope import Wire
from protocol.errors import Unavailable
from protocol.roles.tsm.tables import CARDS, SERVICES, TID_LIST
from protocol.rows import Table
from protocol.types import Role

SQLITE: Final = "sqlite"
POSTGRESQL: Final = "postgresql"
SETTINGS: Final = ("shared_buffers=256MB", "max_connections=100")
"""Of our own server. It waits for the disk at every commit, as it does by itself."""
AT_ONCE: Final = 2_000
_STOPS_EVERY_S: Final = 60
_TID_BYTES: Final = 16
_CALLER: Final = Peer(role=Role.MERCHANT, name=MERCHANT)


@dataclass(kw_only=True)
class Site:
    """One database of the TSM with its engine. `accounts` were in it before any purchase."""

    kind: str
    accounts: int
    opened: Opened
    url: str
    store: DatabaseStore
    gathering: Gathering
    server: ProcessorTime | None = None
    _stops_s: int = field(default=0, repr=False)

    def handle(self, rpc: str, wire: Wire) -> Wire:
        """One request of the terminal."""
        return self.gathering.handle(rpc, wire, _CALLER)

    def keep_fresh(self) -> None:
        """The list of stops, as the TSM's housekeeping does."""
        now_s = self.opened.clock.now_s()
        if now_s - self._stops_s >= _STOPS_EVERY_S:
            refresh_stops(self.store, now_s)
            self._stops_s = now_s

    def another(self, *, max_batch: int) -> DatabaseStore:
        """One more store on the same tables, which commits so many units together."""
        return DatabaseStore(
            open_database(self.url), TABLES["tsm"], Sealer(self.opened.keystore.data_key()), max_batch=max_batch
        )


class _Nobody:
    """The TSM calls nobody to decide on a purchase."""

    def call(self, peer: str, rpc: str, request: Wire) -> Wire:
        raise Unavailable(peer)


@contextmanager
def postgresql_server(given: str | None) -> Iterator[str | None]:
    """The URL of a PostgreSQL database: the one that is given, or one of a server of our own; None without either."""
    programs = binaries()
    if given is not None or programs is None:
        yield given
        return
    server = Server(programs, *SETTINGS)
    try:
        yield server.url
    finally:
        server.close()


@contextmanager
def open_sites(
    opened: Opened, stock: Stock, used: Sequence[Account], *, folder: Path, postgresql: str | None,
    sizes: dict[str, Sequence[int]], progress: Callable[[], None],
) -> Iterator[list[Site]]:  # fmt: skip
    """A site for each kind and size. All hold the accounts that are `used`, and others up to their size."""
    with ExitStack() as stack:
        sites = []
        for kind, numbers in sizes.items():
            for accounts in numbers:
                if kind == SQLITE:
                    url = f"sqlite:///{folder}/tsm-{accounts}.db"
                else:
                    assert postgresql is not None
                    name = f"tapveil_bench_{accounts}"
                    drop_schemas(postgresql, name)
                    url = create_schema(postgresql, name)
                    stack.callback(drop_schemas, postgresql, name)
                sites.append(_open(opened, stock, used, kind=kind, accounts=accounts, url=url, stack=stack))
                progress()
        yield sites


def _open(
    opened: Opened, stock: Stock, used: Sequence[Account], *, kind: str, accounts: int, url: str, stack: ExitStack
) -> Site:  # fmt: skip
    create_or_upgrade(url, "tsm")
    _fill(url, stock, accounts - len(used), opened)
    store = open_store(url, "tsm", opened.keystore.data_key())
    stack.callback(store.close)
    stock.open_shop(store)
    stock.load(store, used)
    engine = Engine(STEPS[Role.TSM](opened), store=store, clock=opened.clock, entropy=opened.entropy, peers=_Nobody())
    server = None
    if kind == POSTGRESQL:
        database = open_database(url)
        server = ProcessorTime(database.readers)
        database.close()
        server = server if server.known else None
    gathering = Gathering(engine)
    return Site(kind=kind, accounts=accounts, opened=opened, url=url, store=store, gathering=gathering, server=server)


def _fill(url: str, stock: Stock, number: int, opened: Opened) -> None:
    """Accounts that nobody uses, many at a time: copies of one whose names, references and sealed cells are random."""
    tables: tuple[Table[Any], ...] = (SERVICES, TID_LIST, CARDS)
    metadata = metadata_for(tables)
    database = open_database(url)
    account = stock.account()
    sealer = Sealer(opened.keystore.data_key())
    rows: tuple[Any, ...] = (account.service, account.entry, account.card)
    cells = {table: _stored(table, row, sealer) for table, row in zip(tables, rows, strict=True)}
    try:
        for start in range(0, number, AT_ONCE):
            names = [_names(opened) for _ in range(min(AT_ONCE, number - start))]
            with database.writer.begin() as connection:
                for table in tables:
                    copies = [_copy(table, cells[table], name, opened) for name in names]
                    connection.execute(sa.insert(metadata.tables[table.name]), copies)
    finally:
        database.close()


def _stored(table: Table[Any], row: Any, sealer: Sealer) -> dict[str, Any]:
    cells = {each.name: getattr(row, each.name) for each in fields(row)}
    for column in table.sealed:
        cells[column] = sealer.seal(cells[column], table=table.name, column=column, key=table.key_of(row))
    return cells


def _names(opened: Opened) -> dict[str, Any]:
    """What the rows of one account have in common."""
    return {"tid": opened.entropy.bytes(_TID_BYTES).hex(), "sid_digest": opened.entropy.bytes(32)}


def _copy(table: Table[Any], cells: dict[str, Any], names: dict[str, Any], opened: Opened) -> dict[str, Any]:
    searched = {*table.key, *table.index, *(column for columns in table.unique for column in columns)}
    own: dict[str, Any] = {
        column: opened.entropy.bytes(len(cells[column]))
        for column in searched | table.sealed
        if isinstance(cells[column], bytes)
    }
    if "aid" in cells:
        own["aid"] = opened.entropy.bytes(_TID_BYTES).hex()
    return cells | own | {name: value for name, value in names.items() if name in cells}
