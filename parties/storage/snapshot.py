"""All rows of one moment, for who proves or copies books while the server goes on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from parties.storage.database import faults, open_database
from parties.storage.roles import TABLES
from parties.storage.schema import metadata_for
from parties.storage.sealing import Sealer
from parties.storage.statements import StoredTable
from parties.storage.transaction import Connections, Transaction
from parties.storage.version import check_version
from protocol.rows import Table

R = TypeVar("R")


class Snapshot:
    """One state of a party's database. A table is read once."""

    def __init__(self, transaction: Transaction, tables: dict[str, StoredTable]) -> None:
        self._transaction = transaction
        self._tables = tables
        self._read: dict[str, tuple[Any, ...]] = {}

    def scan(self, table: Table[R]) -> tuple[R, ...]:
        """Every row, in the order of its keys. Raises: StorageFault."""
        if table.name not in self._read:
            with faults():
                self._read[table.name] = tuple(self._tables[table.name].load_all(self._transaction))
        rows: tuple[R, ...] = self._read[table.name]
        return rows


@contextmanager
def open_snapshot(url: str, role: str, data_key: bytes) -> Iterator[Snapshot]:
    """What is committed now, in one transaction that only reads.

    Raises: SettingsInvalid if the URL is not understood, StorageFault if the database is missing or of another version.
    """
    check_version(url, role)
    database = open_database(url, readers=1)
    readers, metadata, sealer = Connections(database.readers, keep=False), metadata_for(TABLES[role]), Sealer(data_key)
    dialect = database.readers.dialect
    tables = {table.name: StoredTable(table, metadata, sealer, dialect) for table in TABLES[role]}
    try:
        with faults(), readers.begin(database.begin_to_read) as transaction:
            yield Snapshot(transaction, tables)
    finally:
        readers.close()
        database.close()
