"""SQLite: one connection that writes, a bounded pool of connections that read.

In WAL mode many readers look at a committed snapshot while the one writer works. `synchronous=FULL` makes COMMIT wait
for the disk. Python's sqlite3 would begin transactions by itself, late and deferred, and lose updates: transactions are
begun here, in so many words.
"""

from __future__ import annotations

import os
import sqlite3
import time
from pathlib import Path
from typing import Final

import sqlalchemy as sa

from protocol.errors import StorageFault

BEGIN_TO_READ: Final = "BEGIN"
BEGIN_TO_WRITE: Final = "BEGIN IMMEDIATE"
"""SQLite takes its lock at once, so that two writers never both hold what they read."""
LOG_PAGES: Final = 1024
"""Pages (4 MiB) of write-ahead log that are copied into the database at once.

Once the log has grown to that, commits go over its old pages. Until then each makes the file longer, and a commit takes
the kernel two to three times as long.
"""
AGAIN_S: Final = 0.01
MENDS: Final = {
    "SQLITE_FULL": "the disk is full: make room, nothing acknowledged was lost",
    "SQLITE_READONLY": "the database file is read-only: give this user the right to write to it and to its directory",
    "SQLITE_BUSY": "another program holds the database: let it finish, or end it",
    "SQLITE_LOCKED": "another program holds the database: let it finish, or end it",
    "SQLITE_CANTOPEN": "the database file can't be opened: check the path and the rights to its directory",
    "SQLITE_IOERR": "the disk gives errors: check the disk and the space on it",
    "SQLITE_CORRUPT": "the database file is damaged: restore it from a backup",
    "SQLITE_NOTADB": "the file is not a database: check the path, or restore it from a backup",
}
"""SQLite's extended codes begin with the basic one: SQLITE_IOERR_WRITE."""


def ensure_file(path: Path) -> None:
    """Make an empty database file that only its owner may read, unless there is one. Raises: StorageFault."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    except OSError as exc:
        raise StorageFault(f"database {path} can't be opened for writing: {exc.strerror}") from exc


def sqlite_engine(url: sa.URL, *, size: int, read_only: bool, wait_s: float) -> sa.Engine:
    """An engine with `size` connections."""
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
        until_s = time.monotonic() + wait_s
        for pragma in pragmas:
            while not _is_set(connection, pragma, may_wait=time.monotonic() < until_s):
                time.sleep(AGAIN_S)

    @sa.event.listens_for(engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        connection.exec_driver_sql(BEGIN_TO_READ if read_only else BEGIN_TO_WRITE)

    return engine


def _is_set(connection: sqlite3.Connection, pragma: str, *, may_wait: bool) -> bool:
    """False if another connection was in the way: for a new file's first change to WAL, SQLite does not wait itself."""
    try:
        connection.execute(f"PRAGMA {pragma}").close()
    except sqlite3.OperationalError as exc:
        if may_wait and exc.sqlite_errorname.startswith("SQLITE_BUSY"):
            return False
        raise
    return True
