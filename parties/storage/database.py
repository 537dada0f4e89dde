"""A party's database: one connection that writes, a bounded pool of connections that read.

SQLite in WAL mode lets many readers look at a committed snapshot while the one writer works. `synchronous=FULL` makes
COMMIT wait for the disk. Python's sqlite3 would begin transactions by itself, late and deferred, and lose updates:
transactions are begun here, in so many words.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from protocol.errors import Overloaded, SettingsInvalid, StorageFault

READERS: Final = 8
WAIT_S: Final = 10.0
"""How long to wait while another program writes to the same database, and for a connection to come free."""
LOG_PAGES: Final = 256
"""Pages (1 MiB) of write-ahead log that are copied into the database at once.

Once the log has grown to that, commits go over its old pages. Until then each makes the file longer, and a commit takes
the kernel two to three times as long.
"""
_MENDS: Final = {
    "SQLITE_FULL": "the disk is full: make room, nothing acknowledged was lost",
    "SQLITE_READONLY": "the database file is read-only: give this user the right to write to it and to its directory",
    "SQLITE_BUSY": "another program holds the database: let it finish, or end it",
    "SQLITE_LOCKED": "another program holds the database: let it finish, or end it",
    "SQLITE_CANTOPEN": "the database file can't be opened: check the path and the rights to its directory",
    "SQLITE_IOERR": "the disk gives errors: check the disk and the space on it",
    "SQLITE_CORRUPT": "the database file is damaged: restore it from a backup",
    "SQLITE_NOTADB": "the file is not a database: check the path, or restore it from a backup",
}


@dataclass(frozen=True, slots=True)
class Database:
    """Two engines on one database; `writer` has one connection and begins with a lock, `readers` change nothing."""

    writer: sa.Engine
    readers: sa.Engine

    def close(self) -> None:
        """Close all connections."""
        self.readers.dispose()
        self.writer.dispose()


def open_database(url: str, *, readers: int = READERS, wait_s: float = WAIT_S) -> Database:
    """Engines on the database at `url`; nothing is read yet. Raises: SettingsInvalid, StorageFault if it's missing."""
    path = sqlite_file(url)
    if not path.is_file():
        raise StorageFault(f"there is no database {path}: run `tapveil db upgrade`")
    return Database(
        writer=_sqlite(url, size=1, read_only=False, wait_s=wait_s),
        readers=_sqlite(url, size=readers, read_only=True, wait_s=wait_s),
    )


def sqlite_file(url: str) -> Path:
    """The file that a `sqlite:///…` URL names. Raises: SettingsInvalid."""
    try:
        parsed = sa.make_url(url)
    except ArgumentError as exc:
        raise SettingsInvalid("the database URL is not of the form sqlite:///path") from exc
    if parsed.get_backend_name() != "sqlite" or parsed.database in {None, "", ":memory:"}:
        raise SettingsInvalid("the database URL must name a SQLite file: sqlite:///path")
    assert parsed.database is not None
    return Path(parsed.database.removeprefix("file:"))


def ensure_file(path: Path) -> None:
    """Make an empty database file that only its owner may read, unless there is one. Raises: StorageFault."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    except OSError as exc:
        raise StorageFault(f"database {path} can't be opened for writing: {exc.strerror}") from exc


@contextmanager
def faults() -> Iterator[None]:
    """Translate the database's errors. Raises: StorageFault, Overloaded if no connection came free."""
    try:
        yield
    except SQLAlchemyError as exc:
        raise fault_of(exc) from exc


def fault_of(error: SQLAlchemyError) -> StorageFault | Overloaded:
    """What a database error means to the one who asked, with its mend."""
    if isinstance(error, PoolTimeout):
        return Overloaded("all connections to the database are busy")
    cause = error.orig if isinstance(error, DBAPIError) else error
    # SQLite's extended codes begin with the basic one: SQLITE_IOERR_WRITE. The driver's own text may hold values.
    name = str(getattr(cause, "sqlite_errorname", type(cause).__name__))
    mends = (mend for prefix, mend in _MENDS.items() if name.startswith(prefix))
    return StorageFault(next(mends, f"the database refused: {name}"))


def _sqlite(url: str, *, size: int, read_only: bool, wait_s: float) -> sa.Engine:
    engine = sa.create_engine(
        url,
        pool_size=size,
        max_overflow=0,
        pool_timeout=wait_s,
        hide_parameters=True,  # rows hold identities; errors must not
        connect_args={"timeout": wait_s, "check_same_thread": False},
    )
    pragmas = ["synchronous=FULL", "foreign_keys=ON", "query_only=ON" if read_only else "journal_mode=WAL"]
    pragmas += [f"wal_autocheckpoint={LOG_PAGES}", "secure_delete=FAST"]  # what is deleted is overwritten: keys, too

    @sa.event.listens_for(engine, "connect")
    def _connect(connection: sqlite3.Connection, _record: object) -> None:
        connection.isolation_level = None
        for pragma in pragmas:
            connection.execute(f"PRAGMA {pragma}").close()

    @sa.event.listens_for(engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")

    return engine
