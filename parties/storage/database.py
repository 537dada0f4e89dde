"""A party's database by its URL: SQLite in a file, or PostgreSQL. The same tables, the same sealed columns."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from parties.storage import postgresql, sqlite
from parties.storage.sqlite import ensure_file, sqlite_engine
from protocol.errors import Overloaded, SettingsInvalid, StorageFault

READERS: Final = 8
WAIT_S: Final = 10.0
"""How long to wait while another program writes to the same SQLite file, and for a connection to come free."""
POSTGRESQL: Final = "postgresql"
_FORMS: Final = "sqlite:///path or postgresql+psycopg://user@host/database"


@dataclass(frozen=True, slots=True)
class Database:
    """Two engines on one database: the connection of `writer` begins with a lock, `readers` change nothing."""

    writer: sa.Engine
    readers: sa.Engine

    @property
    def is_postgresql(self) -> bool:
        """May several processes write to it at once?"""
        return self.writer.dialect.name == POSTGRESQL

    @property
    def begin_to_read(self) -> str:
        """The statement that begins a transaction over one snapshot."""
        return postgresql.BEGIN_TO_READ if self.is_postgresql else sqlite.BEGIN_TO_READ

    @property
    def begin_to_write(self) -> str:
        """The statement that begins a transaction that decides."""
        return postgresql.BEGIN_TO_WRITE if self.is_postgresql else sqlite.BEGIN_TO_WRITE

    def another(self) -> sa.Engine:
        """An engine with one more connection that changes nothing, for a lock that lasts. PostgreSQL only."""
        return postgresql.postgresql_engine(self.readers.url, size=1, read_only=True, wait_s=WAIT_S)

    def close(self) -> None:
        """Close all connections."""
        self.readers.dispose()
        self.writer.dispose()


def open_database(url: str, *, readers: int = READERS, wait_s: float = WAIT_S) -> Database:
    """Engines on the database at `url`; nothing is read yet.

    Raises: SettingsInvalid if the URL is not understood, StorageFault if a SQLite file is missing.
    """
    parsed = parse(url)
    if parsed.get_backend_name() == POSTGRESQL:
        make = postgresql.postgresql_engine
    else:
        make = sqlite_engine
        path = sqlite_file(url)
        if not path.is_file():
            raise StorageFault(f"there is no database {path}: run `tapveil db upgrade`")
    return Database(
        writer=make(parsed, size=1, read_only=False, wait_s=wait_s),
        readers=make(parsed, size=readers, read_only=True, wait_s=wait_s),
    )


def create_if_missing(url: str) -> None:
    """An empty SQLite file, unless there is one; a PostgreSQL database is made by its administrator.

    Raises: SettingsInvalid, StorageFault.
    """
    if not is_postgresql(url):
        ensure_file(sqlite_file(url))


def is_postgresql(url: str) -> bool:
    """Does the URL name a PostgreSQL database? Raises: SettingsInvalid."""
    return parse(url).get_backend_name() == POSTGRESQL


def shown(url: str) -> str:
    """The URL without its password, for people."""
    return parse(url).render_as_string(hide_password=True)


def parse(url: str) -> sa.URL:
    """Raises: SettingsInvalid, which does not hold the URL: there may be a password in it."""
    try:
        parsed = sa.make_url(url)
    except (ArgumentError, ValueError) as exc:
        raise SettingsInvalid(f"the database URL is not of the form {_FORMS}") from exc
    if parsed.get_backend_name() == POSTGRESQL:
        return postgresql.parse(parsed)
    if parsed.get_backend_name() != "sqlite" or parsed.database in {None, "", ":memory:"}:
        raise SettingsInvalid(f"the database URL must name a SQLite file or a PostgreSQL database: {_FORMS}")
    return parsed


def sqlite_file(url: str) -> Path:
    """The file that a `sqlite:///…` URL names. Raises: SettingsInvalid."""
    parsed = parse(url)
    if parsed.get_backend_name() != "sqlite":
        raise SettingsInvalid("the database is not a SQLite file")
    assert parsed.database is not None
    return Path(parsed.database.removeprefix("file:"))


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
    cause: BaseException = error
    if isinstance(error, DBAPIError) and error.orig is not None:
        cause = error.orig
    # The driver's own text may hold values.
    if isinstance(cause, sqlite3.Error):
        name = str(getattr(cause, "sqlite_errorname", type(cause).__name__))
        mend = next((mend for prefix, mend in sqlite.MENDS.items() if name.startswith(prefix)), None)
    elif hasattr(cause, "sqlstate"):
        name, mend = postgresql.state_of(cause), postgresql.mend_of(cause)
    else:
        name, mend = type(cause).__name__, None
    return StorageFault(mend or f"the database refused: {name}")


def is_lost(error: SQLAlchemyError) -> bool:
    """Did the connection go, so that nothing more can be asked over it?"""
    return isinstance(error, DBAPIError) and error.connection_invalidated


def is_race(error: SQLAlchemyError) -> bool:
    """Did another writer come between, so that nothing was done and the same again succeeds?"""
    return isinstance(error, DBAPIError) and getattr(error.orig, "sqlstate", None) in postgresql.RACED
