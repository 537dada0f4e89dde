"""Transactions on the driver's own connections, out of SQLAlchemy's pool.

SQLAlchemy opens connections and writes statements; running them through it, with its events and results, costs several
times what a few rows cost the database.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, Protocol, TypeAlias

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

Found: TypeAlias = Callable[[], list[Sequence[Any]]]
"""Gives the rows that a SELECT finds. Raises: DBAPIError."""


class Transaction(Protocol):
    """Statements on one connection. All raise DBAPIError, as SQLAlchemy would, without values: rows hold identities."""

    @property
    def is_broken(self) -> bool:
        """Must the connection be thrown away?"""

    def ask(self, text: str, values: Any) -> Found:
        """What a SELECT finds, as of when it is asked for or later within the transaction."""

    def run(self, text: str, rows: Sequence[Any]) -> None:
        """A change, once for each row of values. What is wrong with it may be said at COMMIT only."""

    def begin(self, text: str) -> None:
        """Begin, with this statement."""

    def commit(self) -> None:
        """Make it last."""

    def rollback(self) -> None:
        """Undo it, if it has begun."""

    def close(self) -> None:
        """Leave the connection to the next one."""


def translated(text: str, exc: Exception, dialect: sa.Dialect, *, is_lost: bool = False) -> DBAPIError:
    """A driver's error as SQLAlchemy raises it, without values; `is_lost` if the connection is gone with it."""
    error = DBAPIError.instance(
        text, None, exc, dialect.loaded_dbapi.Error, hide_parameters=True, connection_invalidated=is_lost,
        dialect=dialect,
    )  # fmt: skip
    assert isinstance(error, DBAPIError)
    return error


class DriverTransaction:
    """Statements through sqlite3, each carried out at once."""

    is_broken: Final = False

    def __init__(self, connection: Any, dialect: sa.Dialect) -> None:
        self._connection = connection
        self._dialect = dialect

    def ask(self, text: str, values: Any) -> Found:
        try:
            found = self._connection.execute(text, values).fetchall()
        except self._errors() as exc:
            raise translated(text, exc, self._dialect) from exc
        return lambda: found

    def run(self, text: str, rows: Sequence[Any]) -> None:
        try:
            self._connection.executemany(text, rows)
        except self._errors() as exc:
            raise translated(text, exc, self._dialect) from exc

    def begin(self, text: str) -> None:
        self.ask(text, ())

    def commit(self) -> None:
        try:
            self._connection.commit()
        except self._errors() as exc:
            raise translated("COMMIT", exc, self._dialect) from exc

    def rollback(self) -> None:
        self._connection.rollback()

    def close(self) -> None:
        """Nothing is left to do."""

    def _errors(self) -> type[Exception]:
        errors: type[Exception] = self._dialect.loaded_dbapi.Error
        return errors


class Connections:
    """Connections out of an engine's pool, which bounds them.

    To take one out of it and put it back costs as much as to find a row. So, if `keep`, what comes free stays here,
    unless somebody waits at the pool.
    """

    def __init__(self, engine: sa.Engine, *, keep: bool) -> None:
        self._engine = engine
        self._free: list[sa.PoolProxiedConnection] = []
        self._lock = threading.Lock()
        self._waiting = 0
        self._keep = keep

    @contextmanager
    def lend(self) -> Iterator[Transaction]:
        """Statements that each are their own transaction. Raises: SQLAlchemyError when there is no connection."""
        pooled = self._take()
        transaction = self._on(pooled)
        try:
            yield transaction
        finally:
            transaction.close()
            if transaction.is_broken:
                self._throw_away(pooled)
            else:
                self._give_back(pooled)

    @contextmanager
    def begin(self, statement: str) -> Iterator[Transaction]:
        """A transaction that is committed at the end, and rolled back by an exception.

        Raises: SQLAlchemyError when there is no connection, or the transaction can't begin or commit.
        """
        with self.lend() as transaction:
            transaction.begin(statement)
            try:
                yield transaction
                transaction.commit()
            except BaseException:
                transaction.rollback()
                raise

    def close(self) -> None:
        """Give the pool all that is kept, from now on at once."""
        with self._lock:
            self._keep = False
            free, self._free = self._free, []
        for pooled in free:
            pooled.close()

    def _on(self, pooled: sa.PoolProxiedConnection) -> Transaction:
        connection: Any = pooled.driver_connection
        if connection is None:  # the pool let go of it meanwhile: its server ended
            pooled.close()
            raise sa.exc.DisconnectionError("the connection was lost")
        if self._engine.dialect.name != "postgresql":
            return DriverTransaction(connection, self._engine.dialect)
        from parties.storage.pipeline import PipelineTransaction  # loads the driver

        known: dict[str, bytes] = pooled.info.setdefault("prepared", {})
        return PipelineTransaction(connection, self._engine.dialect, known)

    def _take(self) -> sa.PoolProxiedConnection:
        with self._lock:
            if self._free:
                return self._free.pop()
            self._waiting += 1
        try:
            return self._engine.raw_connection()
        except self._engine.dialect.loaded_dbapi.Error as exc:  # as the pool lets it through
            raise translated("connect", exc, self._engine.dialect) from exc
        finally:
            with self._lock:
                self._waiting -= 1

    def _give_back(self, pooled: sa.PoolProxiedConnection) -> None:
        with self._lock:
            keep = self._keep and not self._waiting
            if keep:
                self._free.append(pooled)
        if not keep:
            pooled.close()

    def _throw_away(self, pooled: sa.PoolProxiedConnection) -> None:
        """This one; and what is kept, since what ended it, such as a server that stopped, ended all."""
        with self._lock:
            free, self._free = self._free, []
        for one in (pooled, *free):
            one.invalidate()
            one.close()
